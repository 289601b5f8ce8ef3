"""Labels: what the images of a source would become, by their names alone. No file is opened.

    found = scan(FolderSource("photos"), split=stratified_split(0.2))   # rule, classes, files, labels, splits, skipped entries
    for text in warnings(found): ...                                    # capture_cli.labels.warnings

A scan goes through these steps, each in a file of this room:

1. `--include` and `--exclude` choose files; masks and twins of other images are taken out (companions).
2. Words such as `train` and `test1` in the path tell the split (purposes). They are no part of a label.
3. A rule reads the label from what is left of the path (rules). `auto` compares all rules and takes the one that fits best, or
   refuses where two fit equally (comparison says how).
4. Images that no word gives a split are divided by a hash of their names, class by class (splits).

Everything in the source is either an image of the scan or one entry in `skipped`: those that the source skips
(capture_cli.sources), and

    excluded               `--include` or `--exclude` says so
    companion              a mask or twin of another image; the detail says of which
    test-split             an image of a test split, which training leaves alone; the detail is its label, if it has one
    other-split            in an evaluation, an image of another split than the one evaluated
    outside-split          an image beside folders of splits
    unlabelled             an image in a folder called `unlabeled` or `pred`
    not-in-table           no row of the table has a label for it
    no-label               with unmatched="skip": the rule finds no label in the name; the detail is the rule
    unknown-class          with unmatched="skip": a label that is not among the classes; the detail is the label

The same names give the same scan, in whatever order the system lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from capture_cli.errors import DataError
from capture_cli.labels.candidates import Fit
from capture_cli.labels.reading import ReadingOptions
from capture_cli.labels.rules import NO_RULE, Rule, natural_order
from capture_cli.labels.splits import Split, divide
from capture_cli.labels.tables import Matched
from capture_cli.labels.work import Work
from capture_cli.sources import Skipped, TypedSource

__all__ = ["ClassCount", "ReadingOptions", "Scan", "scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The images of a source. `files`, `labels` and `splits` have one item for each of the N images, in the same order."""

    source: TypedSource
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
    groups: list[str] | None = None
    """The group of each file, with `--group`."""
    rivals: list[Fit] = field(default_factory=list)
    """Other rules that fit nearly as well."""
    doubtful: list[str] = field(default_factory=list)
    """Folders that were taken for splits and may be classes, or the other way round."""
    split_names: list[str] = field(default_factory=list)
    """The splits that words in the paths tell."""
    table: Matched | None = None
    """The table that gave the labels."""
    tables: list[str] = field(default_factory=list)
    """Values of `--labels` for tables that name the images, where file names gave the labels."""
    test_tables: list[str] = field(default_factory=list)
    """Values of `--labels` for a table that has labels of test images, where their names have none."""
    split_lists: list[str] = field(default_factory=list)
    """Files that may tell splits, where nothing else does."""
    paths: dict[str, str] = field(default_factory=dict)
    """File -> what the rule reads, where that is not the file's own path."""

    @property
    def example(self) -> str:
        """The label of the first file and its rule: `bag_0001.png -> bag (rule: prefix)`; not escaped."""
        return f"{self.files[0]} -> {self.classes[self.labels[0]]} (rule: {self.rule.name})"

    @property
    def told_by(self) -> str:
        """The source of the splits that are not drawn: a column of the table, or words in the paths; empty if all are drawn."""
        if self.table is not None and self.table.splits:
            return f"the column `{self.table.split_column}` of '{self.table.name}'"
        return "folders or names" if self.split_names else ""

    @property
    def is_drawn(self) -> bool:
        """True if validation images are drawn from every class."""
        return "val" in self.splits and "val" not in self.split_names

    @property
    def is_evaluated(self) -> bool:
        """True if a trained model is evaluated on all these images, none of which is trained on."""
        return "test" in self.splits

    def unknown_tests(self) -> dict[str, list[str]]:
        """Return the test images whose class no training image has, by class."""
        found: dict[str, list[str]] = {}
        for file, reason, detail in self.skipped:
            if reason == "test-split" and detail and detail not in self.classes:
                found.setdefault(detail, []).append(file)
        return found

    def per_class(self) -> list[ClassCount]:
        """Count the images of each class, in the order of `classes`."""
        counts = Counter(zip(self.labels, self.splits, strict=True))
        held_out = Counter(one.detail for one in self.skipped if one.reason == "test-split")
        examples: dict[int, str] = {}
        for label, file in zip(self.labels, self.files, strict=True):
            examples.setdefault(label, file)
        return [
            ClassCount(name, counts[i, "train"], counts[i, "val"], counts[i, "test"] + held_out[name], examples.get(i))
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
    source: TypedSource,
    *,
    split: Split,
    reading: ReadingOptions | None = None,
    classes: Sequence[str] | None = None,
    part: str = "auto",
    unlabelled_too: bool = False,
) -> Scan:
    """List the images of `source`, label each and decide its split.

    With `classes`, those of a trained model, labels are indices into these, one class is enough, and a label that is not among
    them counts as unmatched; `part` is then the split to evaluate: `all`, `train`, `val`, `test`, or `auto` for the test images
    where words in the paths tell of several splits. With `unlabelled_too`, a source whose names hold no label is no error: all
    its images are then skipped as `no-label`.

    Raises UsageError for an option or a source that is not valid, DataError where there is nothing to learn.
    """
    work = Work(source, reading or ReadingOptions(), classes)
    work.look()
    try:
        rule, rivals = work.find_rule()
    except DataError:
        if not unlabelled_too or work.wants_table:
            raise
        return _unlabelled(work)
    named = work.label(rule, part)
    known = list(classes) if classes is not None else work.classes_of(named, rule)
    work.remove_unknown(named, known)
    index = {name: i for i, name in enumerate(known)}
    files, numbers = list(named), [index[name] for name in named.values()]
    told = {} if classes is not None else work.placed.splits
    groups = work.groups(files)
    tests = [one.file for one in work.skipped if one.reason == "test-split" and one.detail not in index]
    return Scan(
        source=source,
        files=files,
        labels=numbers,
        classes=known,
        rule=rule,
        skipped=sorted(work.skipped, key=lambda one: one.file),
        splits=divide(files, numbers, told, split, groups),
        groups=groups,
        rivals=rivals,
        table=work.table,
        tables=work.tables,
        test_tables=work.tables_of(tests, known),
        split_lists=work.split_lists(),
        doubtful=natural_order(work.placed.doubtful),
        split_names=sorted(set(work.placed.splits.values())),
        paths=work.placed.paths,
    )


def _unlabelled(work: Work) -> Scan:
    """Make the scan of images without labels, to be labelled by hand."""
    splits = work.placed.splits
    skipped = [Skipped(file, "test-split" if splits.get(file) == "test" else "no-label") for file in work.files]
    skipped = sorted([*work.skipped, *skipped], key=lambda one: one.file)
    return Scan(source=work.source, files=[], labels=[], classes=[], rule=NO_RULE, skipped=skipped, splits=[])
