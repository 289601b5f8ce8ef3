"""The choice of a rule: `--labels auto`.

    choice = choose(["cat_12_aug_1.png", ...])      # paths without words that name a split (capture_cli.labels.purposes)
    choice.rule, choice.rivals                      # the rule, and rules that fit nearly as well

A rule is chosen in five steps, from names alone:

1. Every rule that the names allow is tried: each level of folders, each field of the file names, and the text before or after
   a number. Rules that divide the images in the same way are one candidate, under the name of the simplest.
2. Rules that cannot be meant are dropped: one class for all, a class for nearly every image, labels for few of the images, and
   labels that are no classes (`Kind.NONE`: hashes, dates, patients, cameras, running numbers).
3. The kind of label decides: words before one word with numbers (`obj1`), before numbers, before views (`left`, `40X`). At
   equal kinds folders come before file names.
4. Of candidates that are equal so far, one whose labels are among the labels of the other wins (`dog` and `dog/more`: dog),
   then one that divides the classes of the other further (`animal/cat`: cat, `great_dane_1`: great_dane), then, of numbers,
   the one with fewer classes. The others are reported as rivals.
5. Candidates that cross (each label of one occurs with each of the other) are no choice: DataError names the commands.

The same files always give the same rule, in any order.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from capture_cli.errors import DataError
from capture_cli.labels.candidates import Candidate, Fit, folder_candidates, name_candidates, partition, sample_of
from capture_cli.labels.rules import SEPARATORS, Rule, folder_rule, simple_rule
from capture_cli.labels.tokens import Kind, may_be_class


@dataclass(frozen=True, slots=True)
class RuleChoice:
    """The rule that was chosen, and others that were close."""

    rule: Rule
    kind: Kind
    rivals: list[Fit]


class Undecided(DataError):  # noqa: N818 - becomes a DataError with commands
    """No rule fits, or several fit equally; `fits` are those."""

    def __init__(self, message: str, hint: str, fits: Sequence[Fit] = ()) -> None:
        super().__init__(message, hint)
        self.fits = list(fits)


def choose(files: Sequence[str]) -> RuleChoice:
    """Choose a rule for `files`, which must not be empty. Raises Undecided."""
    folders = Counter(file.rpartition("/")[0] for file in files)
    by_folder = folder_candidates(folders)
    best = max((one.kind for one in by_folder), default=Kind.NONE)
    if best == Kind.WORDS and not _is_loose(by_folder):
        return _decide(_of_kind(by_folder, best), by_folder)
    by_name, counters = name_candidates(files)
    best_name = max((one.kind for one in by_name), default=Kind.NONE)
    if by_folder and not (best_name == Kind.WORDS and _names_say_more(by_folder, _of_kind(by_name, best_name), files)):
        return _decide(_of_kind(by_folder, best), [*by_folder, *by_name])
    if by_name:
        choice = _decide(_of_kind(by_name, best_name), [*by_name, *by_folder])
        if choice.kind == Kind.NUMBERS:
            _demand_fewer_classes(choice, by_name, counters)
        return choice
    if counters:
        raise Undecided(f"the names hold only numbers that may be running numbers, such as '{files[0]}'", "", counters)
    if single := _single_class(files):
        raise Undecided(f"only one class: all {len(files):,} images are of '{single}' by their names", "")
    raise Undecided(f"no label in the names of {len(files):,} images, such as '{files[0]}'", "")


def _is_loose(by_folder: Sequence[Candidate]) -> bool:
    """Tell folders of single letters above the image's own folder: `a/images/cat_1.png` is more likely a cat than an a."""
    if simple_rule("parent").name in {one.fit.rule.name for one in by_folder}:
        return False
    return all(len(name) <= 1 for one in by_folder for name in one.fit.names)


def _single_class(files: Sequence[str]) -> str | None:
    """Find the one label that all files have by their folder, or by the text before or after a number."""
    for name in ("parent", "prefix", "suffix") if len(files) > 1 else ():
        labels = set(map(simple_rule(name).label_of, sample_of(files)))
        if len(labels) == 1 and (label := labels.pop()) and may_be_class(label):
            return label
    return None


def _demand_fewer_classes(choice: RuleChoice, by_name: Sequence[Candidate], counters: Sequence[Fit]) -> None:
    """Raise Undecided if what looks like a running number, `1` in `img-017-1.png`, has far fewer classes than the choice."""
    chosen = next(one.fit for one in by_name if one.fit.rule.name == choice.rule.name)
    fewer = [one for one in counters if 2 * one.classes < chosen.classes]
    if fewer:
        raise _equal([chosen, *fewer])


def _names_say_more(by_folder: Sequence[Candidate], by_name: Sequence[Candidate], files: Sequence[str]) -> bool:
    """Tell whether labels in file names are others than those of the folders: `cat` and `dog` in the folders `01` and `02`."""
    sample = sample_of(files)
    folders = {partition([one.fit.rule.label_of(file) for file in sample]) for one in by_folder}
    return not any(partition(one.labels) in folders for one in by_name)


def _of_kind(candidates: Iterable[Candidate], kind: Kind) -> list[Candidate]:
    return [one for one in candidates if one.kind == kind]


def _decide(best: list[Candidate], every: Sequence[Candidate]) -> RuleChoice:
    """Choose among candidates of one kind. Raises Undecided if two of them cross."""
    if best[0].kind == Kind.VIEWS:
        raise Undecided(
            f"the only label in the names is a view of the same thing ({_some(best[0].fit)})", "", [one.fit for one in best]
        )
    if best[0].kind == Kind.NUMBERS and not best[0].is_folder:
        best = _of_numbers(best)
    chosen = best[0]
    crossing: list[Candidate] = []
    for other in best[1:]:
        winner = _better(chosen, other)
        if winner is None:
            crossing.append(other)
        else:
            chosen = winner
    crossing = [one for one in crossing if one is not chosen and _better(chosen, one) is None]
    if crossing:
        raise _equal([chosen.fit, *(one.fit for one in crossing)])
    if crossed := _crossed_fields(chosen, every) or _crossed_levels(chosen, every):
        raise _equal([chosen.fit, *crossed])
    rivals = [one for one in best if _is_rival(one, chosen)]
    if chosen.is_folder and chosen.kind == Kind.WORDS:
        rivals += [one for one in every if one.is_folder and _are_models(one)]
    return RuleChoice(replace(chosen.fit.rule, why=_why(chosen)), chosen.kind, [one.fit for one in rivals[:2]])


def _are_models(one: Candidate) -> bool:
    """Tell names like F16, F22 and B52, with images enough, from those of one patient after the other."""
    texts = {re.sub(r"[0-9]+", "", label) for label in one.labels if label is not None}
    return one.kind == Kind.NUMBERED and len(texts) > 1 and one.fit.labelled >= 3 * one.fit.classes


def _equal(fits: Sequence[Fit]) -> Undecided:
    return Undecided(f"{len(fits)} rules fit equally well: {'; '.join(_told(one) for one in fits)}", "", fits)


def _of_numbers(best: list[Candidate]) -> list[Candidate]:
    """Keep single numbers and codes: what joins several of them is no label. Raises Undecided for three or more."""
    single = [one for one in best if not any(set(name) & set(SEPARATORS) for name in one.fit.names)] or best
    if len(single) > 2:
        raise _equal([one.fit for one in single])
    return single


def _is_rival(one: Candidate, chosen: Candidate) -> bool:
    """Tell a candidate that is worth a warning."""
    if one is chosen or _subset(chosen, one):
        return False
    return chosen.kind == Kind.WORDS or one.fit.classes < 4 * chosen.fit.classes


def _crossed_fields(chosen: Candidate, every: Sequence[Candidate]) -> list[Fit]:
    """Find the fields of a label such as `red_car` where each word of one goes with each of the other."""
    if chosen.is_folder or chosen.kind != Kind.WORDS:
        return []
    labels = {label for label in chosen.labels if label is not None}
    parts = [re.split(f"[{re.escape(SEPARATORS)}]+", label) for label in labels]
    if len({len(one) for one in parts}) != 1:
        return []
    sizes = [len(set(column)) for column in zip(*parts, strict=True)]
    varied = [size for size in sizes if size > 1]
    if len(varied) < 2 or 10 * len(labels) < 9 * math.prod(varied):
        return []
    names = [set(column) for column in zip(*parts, strict=True)]
    return [one.fit for one in every if not one.is_folder and set(one.labels) - {None} in names]


def _crossed_levels(chosen: Candidate, every: Sequence[Candidate]) -> list[Fit]:
    """Find numbered folders that occur below each of the chosen ones, as letters of several alphabets do."""
    if not chosen.is_folder or chosen.kind != Kind.WORDS:
        return []
    for other in every:
        if other.is_folder and other.kind == Kind.NUMBERED and _better(chosen, replace(other, fit=chosen.fit)) is None:
            levels = [one.fit.rule.name.removeprefix("folder:") for one in (chosen, other)]
            depths = [int(level) for level in levels if level.isdigit()] or [1]
            joined = folder_rule((depths[0], depths[0] + 1))
            pairs = Counter(zip(chosen.labels, other.labels, strict=True))
            if sum(chosen.weights) >= 8 * len(pairs):
                return [Fit(joined, other.fit.labelled, len(pairs), tuple(f"{a}/{b}" for a, b in list(pairs)[:5])), other.fit]
    return []


def _better(first: Candidate, second: Candidate) -> Candidate | None:
    """Choose between two candidates of one kind; None if they cross."""
    if _subset(first, second):
        return first
    if _subset(second, first):
        return second
    pairs: Counter[tuple[str, str]] = Counter()
    for a, b, weight in zip(first.labels, second.labels, first.weights, strict=True):
        if a is not None and b is not None:
            pairs[a, b] += weight
    if len(pairs) <= 1.02 * second.fit.classes:  # each label of the second is in one of the first: it divides further
        return _finer(first, second)
    if len(pairs) <= 1.02 * first.fit.classes:
        return _finer(second, first)
    if first.kind == Kind.NUMBERS and not first.is_folder:
        few, many = sorted((first, second), key=lambda one: one.fit.classes)
        is_rare = many.fit.labelled < 8 * many.fit.classes and all(name.isdigit() for name in few.fit.names)
        return few if is_rare and 2 * few.fit.classes < many.fit.classes else None
    if 10 * len(pairs) >= 5 * len({a for a, _ in pairs}) * len({b for _, b in pairs}):
        return None
    return first if first.fit.classes >= second.fit.classes else second


def _finer(coarse: Candidate, fine: Candidate) -> Candidate:
    """Choose the finer of two nested candidates, unless that leaves too few images for each class."""
    numbered = fine.kind < Kind.WORDS and coarse.kind == fine.kind
    return coarse if fine.fit.labelled < 3 * fine.fit.classes or numbered else fine


def _subset(small: Candidate, large: Candidate) -> bool:
    """Tell whether all labels of one are labels of the other, which has more."""
    if small.fit.classes >= large.fit.classes or not small.is_folder:
        return False
    return set(small.labels) - {None} < set(large.labels) - {None}


def _why(chosen: Candidate) -> str:
    name = chosen.fit.rule.name
    if chosen.is_folder:
        return f"the images are in {len(chosen.labels):,} subfolders"
    if chosen.fit.rule.why:
        return chosen.fit.rule.why
    if name in ("prefix", "suffix"):
        return f"the names {'end in' if name == 'prefix' else 'begin with'} a number"
    return f"it labels {chosen.fit.labelled:,} of {len(chosen.labels):,} names and finds {chosen.fit.classes:,} classes"


def _told(one: Fit) -> str:
    return f"{one.rule.name} ({one.classes:,} classes: {_some(one)})"


def _some(one: Fit) -> str:
    return ", ".join(one.names[:3]) + (", ..." if one.classes > 3 else "")
