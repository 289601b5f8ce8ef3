"""Candidates for the label rule: what each rule finds in the names of files, and whether it can be meant.

    for one in [*folder_candidates(folders), *name_candidates(files)]:
        one.fit.rule, one.fit.classes, one.kind

Folders are compared whole, file names by a sample of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from capture_cli.labels.rules import SEPARATORS, Rule, field_rule, folder_rule, parent_rule, simple_rule, stem
from capture_cli.labels.tokens import Kind, is_hash, kind_of

SAMPLE = 4000
"""Names of files that are compared; folders are compared whole."""
FEW = 10
"""Images below which each may have a class of its own, if its name is a word: somebody is trying things out."""
MOST_FIELDS = 8
MOST_LEVELS = 8


@dataclass(frozen=True, slots=True)
class Fit:
    """The labels that a rule finds in some files."""

    rule: Rule
    labelled: int
    """Files with a label."""
    classes: int
    names: tuple[str, ...] = ()
    """Some of the labels, the most frequent first."""
    kind: Kind = Kind.NONE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule with the label of each unit: a folder with its number of files, or one file of the sample."""

    fit: Fit
    labels: tuple[str | None, ...]
    weights: tuple[int, ...]
    is_folder: bool

    @property
    def kind(self) -> Kind:
        return self.fit.kind


def folder_candidates(folders: Mapping[str, int], *, strict: bool = True) -> list[Candidate]:
    """Try every level of folders, from the image up and from the top down, and all levels joined."""
    depth = min(MOST_LEVELS, max((folder.count("/") + 1 for folder in folders if folder), default=0))
    rules = [parent_rule(1), *(folder_rule((n,)) for n in range(1, depth + 1)), *(parent_rule(n) for n in range(2, depth + 1))]
    units, weights = list(folders), tuple(folders.values())
    total = sum(weights)
    found: dict[tuple[str | None, ...], Candidate] = {}
    for rule in rules if depth else ():
        labels = tuple(rule.label_of(f"{folder}/x") if folder else None for folder in units)
        if labels in found:
            continue
        counts: Counter[str] = Counter()
        for label, weight in zip(labels, weights, strict=True):
            if label is not None:
                counts[label] += weight
        one = _fit(rule, counts)
        if one.classes < 2 or 2 * one.labelled < total:
            continue
        if strict and (one.kind == Kind.NONE or _is_unique(one, 20)):
            continue
        found[labels] = Candidate(one, labels, weights, True)
    most = max((one.fit.labelled for one in found.values()), default=0)
    return [one for one in found.values() if 20 * one.fit.labelled >= 19 * most]


def name_candidates(files: Sequence[str]) -> tuple[list[Candidate], list[Fit]]:
    """Try fields and the text beside numbers on a sample of the file names; return also what is dropped as running numbers."""
    sample = sample_of(files)
    stems = [stem(file) for file in sample]
    if 2 * sum(map(is_hash, stems)) >= len(stems):
        return [], []
    rules = _name_rules(stems)
    names = [file.rpartition("/")[2].rpartition(".")[0] for file in sample]
    tried = [(rule, _labels_within(rule, sample, names)) for rule in rules]
    most = max((sum(label is not None for label in labels) for _, labels in tried), default=0)
    found: dict[tuple[int | None, ...], Candidate] = {}
    for rule, labels in tried:
        counts = Counter(label for label in labels if label is not None)
        one = _fit(rule, counts)
        if one.classes < 2 or 10 * one.labelled < 9 * most or 2 * one.labelled < len(sample):
            continue
        if _too_many(one, labels, len(files)):
            continue
        key = partition(labels)
        known = found.get(key)
        if known is None or (known.kind == Kind.NONE and one.kind > Kind.NONE):
            found[key] = Candidate(one, labels, (1,) * len(labels), False)
        elif one.kind > known.kind:
            found[key] = replace(known, fit=replace(known.fit, kind=one.kind))
        elif rule.name == "start" and known.fit.rule.name == "prefix" and len(one.names[0]) < len(known.fit.names[0]):
            found[key] = replace(known, fit=replace(one, kind=known.kind))  # cat_20240517_1 is a cat
    usable = [one for one in found.values() if one.kind > Kind.NONE]
    kept = _without_counters([one for one in usable if not _too_few(one.fit)], stems)
    return kept, [one.fit for one in usable if one not in kept and 8 * one.fit.classes <= one.fit.labelled]


def _name_rules(stems: Sequence[str]) -> list[Rule]:
    """List the rules that the stems allow, the simplest first; a field after one common word comes before all others."""
    used = "".join(one for one in SEPARATORS if any(one in text for text in stems))
    fields = [field_rule(n) for n in range(1, MOST_FIELDS + 1)] if "_" in used else []
    rules = [*map(simple_rule, ("prefix", "suffix", "start")), *fields, simple_rule("end")]
    common = _common_word(stems, used)
    if common:
        rules.insert(0, field_rule(2, common[-1], f"all names begin with {common}"))
    if used.strip("_"):
        for separators in dict.fromkeys([*used.replace("_", ""), used]):
            rules += [field_rule(n, separators) for n in range(1, MOST_FIELDS + 1)]
    return rules


def _common_word(stems: Sequence[str], used: str) -> str | None:
    """Find the first part of all stems with the separator after it, if that is one word for all."""
    for separator in sorted(used, key="_.- #".find):
        word, seen = None, 0
        for text in stems:
            first, _, rest = text.partition(separator)
            if not rest:
                continue
            seen += 1
            if word is None:
                word = first
            elif first != word:
                break
        else:
            if word and any(char.isalpha() for char in word) and seen * 10 >= len(stems) * 9:
                return word + separator
    return None


def _labels_within(rule: Rule, files: Sequence[str], names: Sequence[str]) -> tuple[str | None, ...]:
    """Read the labels of files; a whole name is no label."""
    labels = map(rule.label_of, files)
    return tuple(None if label == name else label for label, name in zip(labels, names, strict=True))


def _too_many(one: Fit, labels: Sequence[str | None], total: int) -> bool:
    """Tell labels that are no classes, since there are fewer than two images of each; estimated if the labels are a sample."""
    if total < FEW:
        return one.kind < Kind.WORDS and 2 * one.classes > one.labelled
    if len(labels) == total:
        return 2 * one.classes > one.labelled
    pairs = sum(count * (count - 1) for count in Counter(labels).values())
    estimate = one.labelled * (one.labelled - 1) / pairs if pairs else float("inf")
    return 2 * estimate > total


def _too_few(one: Fit) -> bool:
    """Tell numbers that name one thing each, with a few images of it: classes have more."""
    return one.kind == Kind.NUMBERS and one.labelled < 3 * one.classes


def partition(labels: Sequence[str | None]) -> tuple[int | None, ...]:
    """Number the labels by first appearance: equal for rules that divide the images in the same way."""
    numbers: dict[str, int] = {}
    return tuple(None if label is None else numbers.setdefault(label, len(numbers)) for label in labels)


_NUMBER = re.compile(r"[0-9]+\Z")


def _without_counters(candidates: list[Candidate], stems: Sequence[str]) -> list[Candidate]:
    """Drop running numbers that begin anew: the last number of a name, if it counts 0, 1, 2, ... behind every beginning."""
    kept = []
    for one in candidates:
        pairs = [(text, label) for text, label in zip(stems, one.labels, strict=True) if label is not None]
        if all(label.isdigit() and text.endswith(label) for text, label in pairs):
            runs: dict[str, list[int]] = defaultdict(list)
            for text, label in pairs:
                runs[text[: -len(label)]].append(int(label))
            counted = [sorted(numbers) for numbers in runs.values() if len(numbers) > 1]
            dense = sum(numbers[0] <= 1 and numbers[-1] - numbers[0] < 1.2 * len(numbers) for numbers in counted)
            if 10 * len(runs) < 7 * len(pairs) and counted and dense * 10 >= len(counted) * 8:
                continue
        kept.append(one)
    return kept


def sample_of(files: Sequence[str]) -> list[str]:
    return list(files[:: -(-len(files) // SAMPLE)])


def try_rules(files: Sequence[str], rule: Rule) -> list[Fit]:
    """Try all rules but `rule`; return those that find two classes or more and fewer than there are images."""
    folders = Counter(file.rpartition("/")[0] for file in files)
    found = {rule.name: None} | {one.fit.rule.name: one.fit for one in folder_candidates(folders, strict=False)}
    rules = [*(field_rule(n) for n in range(1, 5)), simple_rule("prefix"), simple_rule("suffix")]
    names = {one.rule.name: one for one in (fit(rule, files) for rule in rules) if one.classes >= 2}
    return [one for one in ({**names, **found}).values() if one is not None and one.rule.name != rule.name]


def fit(rule: Rule, files: Iterable[str]) -> Fit:
    """Count what `rule` finds in `files`, without a judgement."""
    labels = [label for label in map(rule.label_of, files) if label is not None]
    return Fit(rule, len(labels), len(set(labels)))


def _fit(rule: Rule, counts: Counter[str]) -> Fit:
    return Fit(rule, sum(counts.values()), len(counts), tuple(name for name, _ in counts.most_common(5)), kind_of(counts))


def _is_unique(one: Fit, least: int) -> bool:
    """Tell labels that are different for nearly every image."""
    return one.classes >= least and 2 * one.classes > one.labelled
