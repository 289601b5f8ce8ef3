"""Labels: what the images of a source would become, by their names alone. No file is opened.

    found = scan(FolderSource("photos"), split=hashed_split(0.2))   # rule, classes, files, labels, splits, skipped entries
    for text in warnings(found): ...                                # capture_cli.labels.warnings

Everything in the source is either an image of the scan or one entry in `skipped`: those that the source skips
(capture_cli.sources), and with unmatched="skip"

    no-label               the rule finds no label in the name; the detail is the rule
    unknown-class          the label is not among the classes asked for; the detail is the label

The same names give the same scan, in whatever order the system lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from capture_cli.errors import DataError, UsageError
from capture_cli.labels.rules import Rule, choose_rule, natural_order, other_rules, parse_rule
from capture_cli.labels.splits import Split
from capture_cli.sources import IMAGE_EXTENSIONS, Skipped, Source

UNMATCHED = ("error", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The images of a source. `files`, `labels` and `splits` have one item for each of the N images, in the same order."""

    source: Source
    files: list[str]
    """Names in the source, in natural order (2 before 10)."""
    labels: list[int]
    """Indices into `classes`."""
    classes: list[str]
    """In natural order, or in the order in which they were asked for."""
    rule: Rule
    skipped: list[Skipped]
    """In the order of the names."""
    splits: list[str]

    @property
    def example(self) -> str:
        """The label of the first file and its rule: `bag_0001.png -> bag (rule: prefix)`; not escaped."""
        return f"{self.files[0]} -> {self.classes[self.labels[0]]} (rule: {self.rule.name})"

    def per_class(self) -> list[ClassCount]:
        """Count the images of each class, in the order of `classes`."""
        counts = Counter(zip(self.labels, self.splits, strict=True))
        examples: dict[int, str] = {}
        for label, file in zip(self.labels, self.files, strict=True):
            examples.setdefault(label, file)
        return [
            ClassCount(name, counts[i, "train"], counts[i, "val"], counts[i, "test"], examples.get(i))
            for i, name in enumerate(self.classes)
        ]


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Images of one class by split, and its first file (None where it has none)."""

    name: str
    train: int
    val: int
    test: int
    example: str | None


def scan(
    source: Source, *, split: Split, labels: str = "auto", unmatched: str = "error", classes: Sequence[str] | None = None
) -> Scan:
    """List the images of `source`, label each and decide its split.

    `labels` is a rule (capture_cli.labels.rules.RULES). Files that it does not fit are an error, or skipped, as `unmatched`
    says. With `classes`, those of a trained model, labels are indices into these, one class is enough, and a label that is
    not among them counts as unmatched.

    Raises UsageError for an option or a source that is not valid, DataError where there is nothing to learn.
    """
    asked = parse_rule(labels)
    if unmatched not in UNMATCHED:
        raise UsageError(f"--unmatched {unmatched} is not valid", f"choose {' or '.join(UNMATCHED)}")
    listing = source.list()
    if not listing.files:
        raise _no_images(source, listing.skipped)
    found = natural_order(listing.files)
    rule = asked or choose_rule(found)
    named, unlabelled = _label(found, rule, unmatched)
    known = _classes(named, rule) if classes is None else list(classes)
    if classes is not None:
        unlabelled += _remove_unknown(named, known, unmatched)
    index = {name: i for i, name in enumerate(known)}
    files, numbers = list(named), [index[name] for name in named.values()]
    return Scan(
        source=source,
        files=files,
        labels=numbers,
        classes=known,
        rule=rule,
        skipped=sorted(listing.skipped + unlabelled, key=lambda skipped: skipped.file),
        splits=split(files, numbers),
    )


def _label(files: Sequence[str], rule: Rule, unmatched: str) -> tuple[dict[str, str], list[Skipped]]:
    """Map each file to its class name, in the order of `files`; list those without. Raises DataError as `unmatched` says."""
    labels = [(file, rule.label_of(file)) for file in files]
    named = {file: label for file, label in labels if label is not None}
    without = [file for file, label in labels if label is None]
    if not named:
        raise DataError(
            f"the rule {rule.name} finds no label in any of {_images(len(files))}: {quoted(without)}", try_others(files, rule)
        )
    if without and unmatched == "error":
        raise DataError(
            f"the rule {rule.name} finds no label in {len(without):,} of {_images(len(files))}: {quoted(without)}",
            f"skip them with --unmatched skip, or {try_others(files, rule)}",
        )
    return named, [Skipped(file, "no-label", rule.name) for file in without]


def _classes(named: dict[str, str], rule: Rule) -> list[str]:
    classes = natural_order(set(named.values()))
    if len(classes) < 2:
        raise DataError(
            f"only one class: the rule {rule.name} labels {_images(len(named))}, all '{classes[0]}'",
            try_others(list(named), rule),
        )
    return classes


def _remove_unknown(named: dict[str, str], classes: Sequence[str], unmatched: str) -> list[Skipped]:
    """Remove from `named` what has a label outside `classes`. Raises DataError unless `unmatched` skips and some are left."""
    known = set(classes)
    unknown = {file: label for file, label in named.items() if label not in known}
    if unknown and (unmatched == "error" or len(unknown) == len(named)):
        raise DataError(
            f"{len(unknown):,} of {_images(len(named))} have a label that the model does not know: "
            f"{quoted(natural_order(set(unknown.values())))}",
            f"it knows {quoted(classes)}" + "; skip the others with --unmatched skip" * (unmatched == "error"),
        )
    for file in unknown:
        del named[file]
    return [Skipped(file, "unknown-class", label) for file, label in unknown.items()]


def _no_images(source: Source, skipped: Sequence[Skipped]) -> DataError:
    if not skipped:
        return DataError(f"'{source.name}' is empty", f"put images into it: {', '.join(IMAGE_EXTENSIONS)}")
    reasons = Counter(one.reason for one in skipped).most_common()
    return DataError(
        f"no images in '{source.name}'; skipped: {', '.join(f'{n:,} {reason}' for reason, n in reasons)}, "
        f"such as '{skipped[0].file}'",
        f"image names end in {', '.join(IMAGE_EXTENSIONS)}; links are not followed",
    )


def try_others(files: Sequence[str], rule: Rule) -> str:
    """Advise what to do about a rule that does not fit: other rules that find two classes or more."""
    others = [f"--labels {fit.rule.name} ({fit.classes:,} classes)" for fit in other_rules(files, rule)]
    if others:
        return f"choose another rule: {', '.join(others)}"
    return "put the images of each class into a folder of its own, or name them like cat_0012.png"


def _images(number: int) -> str:
    return count(number, "image", "images")


def count(number: int, one: str, many: str) -> str:
    """Write a number with its noun: `1 class`, `2,000 classes`."""
    return f"{number:,} {one if number == 1 else many}"


def quoted(names: Sequence[str]) -> str:
    """Quote the first five names and count the others."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in names[:5]) + more
