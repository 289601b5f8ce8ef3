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

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from capture_cli.errors import DataError, UsageError
from capture_cli.labels import refusals
from capture_cli.labels.candidates import Fit
from capture_cli.labels.companions import companions
from capture_cli.labels.comparison import Choice, Undecided, choose
from capture_cli.labels.filters import choose_files
from capture_cli.labels.names import merged
from capture_cli.labels.purposes import Placed, place_files
from capture_cli.labels.rules import NO_RULE, Rule, natural_order, parse_rule
from capture_cli.labels.splits import Split, divide
from capture_cli.labels.tables import EXTENSIONS, Matched, Wanted, find_tables, match, parse_table, read_table, tables_beside
from capture_cli.sources import Skipped, Source

MOST_TABLES = 20
UNMATCHED = ("error", "skip")
SPLIT_FOLDERS = ("use", "pool", "ignore")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The options that say how names are read."""

    labels: str = "auto"
    """A rule (capture_cli.labels.rules)."""
    unmatched: str = "error"
    """error or skip: how to treat files that the rule does not fit."""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    keep_companions: bool = False
    """Use masks and twins as images of their own."""
    split_folders: str = "use"
    """use: words in paths decide the split; pool: they are no labels, and all images are divided anew; ignore: plain names."""
    merge_names: bool = False
    """Make one class of names that differ only in case, spaces or Unicode form."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Reading:
        """Take what is given of these options out of all options of a command."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in names and value is not None})

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("--unmatched", self.unmatched, UNMATCHED),
            ("--split-folders", self.split_folders, SPLIT_FOLDERS),
        ):
            if value not in choices:
                raise UsageError(f"{option} {value} is not valid", f"choose {', '.join(choices[:-1])} or {choices[-1]}")
        if parse_table(self.labels) is None:
            parse_rule(self.labels)


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
    rivals: list[Fit] = field(default_factory=list)
    """Other rules that fit nearly as well."""
    doubtful: list[str] = field(default_factory=list)
    """Folders that were taken for splits and may be classes, or the other way round."""
    split_names: list[str] = field(default_factory=list)
    """The splits that words in the paths tell."""
    table: Matched | None = None
    """The table that gave the labels."""
    paths: dict[str, str] = field(default_factory=dict)
    """File -> what the rule reads, where that is not the file's own path."""

    @property
    def example(self) -> str:
        """The label of the first file and its rule: `bag_0001.png -> bag (rule: prefix)`; not escaped."""
        return f"{self.files[0]} -> {self.classes[self.labels[0]]} (rule: {self.rule.name})"

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
    source: Source,
    *,
    split: Split,
    reading: Reading | None = None,
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
    reading = reading or Reading()
    wanted = parse_table(reading.labels)
    files, skipped = _images(source, reading, keep_companions=reading.keep_companions or wanted is not None)
    placed = place_files(files, classes=classes or (), use=reading.split_folders)
    table, rivals = None, list[Fit]()
    if wanted is not None:
        table = _match(source, wanted, files, placed)
        files = _of_table(files, table, placed, skipped)
    rule = parse_rule(reading.labels) if table is None else _table_rule(table)
    if rule is None:
        try:
            choice, placed = _choose(source, files, placed, skipped)
        except DataError:
            if not unlabelled_too:
                raise
            return _unlabelled(source, files, placed, skipped)
        rule, rivals = choice.rule, choice.rivals
    files = _of_splits(files, placed, skipped, evaluated=None if classes is None else part)
    labels = label_files(files, rule, placed.paths)
    named = _named(source, labels, placed, rule, reading, skipped, classes=classes)
    if reading.merge_names:
        named = merged(named, classes or ())
    known = _classes(source, named, placed, rule) if classes is None else list(classes)
    _remove_unknown(source, named, known, placed, reading, skipped, from_model=classes is not None)
    index = {name: i for i, name in enumerate(known)}
    numbers = [index[name] for name in named.values()]
    told = {} if classes is not None else placed.splits
    return Scan(
        source=source,
        files=list(named),
        labels=numbers,
        classes=known,
        rule=rule,
        skipped=sorted(skipped, key=lambda one: one.file),
        splits=divide(list(named), numbers, told, split),
        rivals=rivals,
        table=table,
        doubtful=natural_order(placed.doubtful),
        split_names=sorted(set(placed.splits.values())),
        paths=placed.paths,
    )


def _unlabelled(source: Source, files: Sequence[str], placed: Placed, skipped: list[Skipped]) -> Scan:
    """Make the scan of images without labels, to be labelled by hand."""
    skipped += [Skipped(file, "test-split" if placed.splits.get(file) == "test" else "no-label") for file in files]
    skipped.sort(key=lambda one: one.file)
    return Scan(source=source, files=[], labels=[], classes=[], rule=NO_RULE, skipped=skipped, splits=[])


def _match(source: Source, wanted: Wanted, files: Sequence[str], placed: Placed) -> Matched:
    """Read a table and match it with the files; what it says of splits counts more than words in paths."""
    others = [file for file in files if placed.splits.get(file) in ("test", "unlabelled")]
    unused = set(others)
    table = match(read_table(wanted, source.name), [file for file in files if file not in unused], others)
    for file in table.labels:
        if file not in table.splits and placed.splits.get(file) in ("outside", "unlabelled"):
            del placed.splits[file]
    placed.splits.update(table.splits)
    return table


def _of_table(files: Sequence[str], table: Matched, placed: Placed, skipped: list[Skipped]) -> list[str]:
    """Take out the images that have no label in a table, but test images."""
    kept = []
    for file in files:
        if file in table.skipped:
            skipped.append(Skipped(file, "excluded", table.skipped[file]))
        elif file in table.labels or placed.splits.get(file) in ("test", "unlabelled", "outside"):
            kept.append(file)
        else:
            skipped.append(Skipped(file, "not-in-table"))
    return kept


def _table_rule(table: Matched) -> Rule:
    return Rule("table", f"'{table.name}' names them", table.labels.get, "path")


def _images(source: Source, reading: Reading, *, keep_companions: bool) -> tuple[list[str], list[Skipped]]:
    """List the images to look at, in natural order, and everything that is skipped."""
    listing = source.list()
    if not listing.files:
        raise refusals.no_images(source, listing.skipped)
    files, excluded = choose_files(listing.files, include=reading.include, exclude=reading.exclude)
    skipped = listing.skipped + excluded
    if not keep_companions and (belonging := companions(files)):
        skipped += [Skipped(file, "companion", text) for file, text in belonging.items()]
        files = [file for file in files if file not in belonging]
    if not files:
        raise refusals.no_images(source, skipped)
    return natural_order(files), skipped


def _choose(source: Source, files: Sequence[str], placed: Placed, skipped: Sequence[Skipped]) -> tuple[Choice, Placed]:
    """Choose a rule for the training images; where there is none and folders may be classes as well, take them for classes."""
    try:
        return choose(_paths(_trained(files, placed), placed)), placed
    except Undecided as error:
        if placed.doubtful:
            as_classes = place_files(files, classes=placed.doubtful)
            with contextlib.suppress(Undecided):
                choice = choose(_paths(_trained(files, as_classes), as_classes))
                return choice, as_classes._replace(doubtful=placed.doubtful)
        if {"val", "test"} & set(placed.splits.values()):
            with contextlib.suppress(Undecided):
                choose(_paths(_of_splits(list(files), placed, [], evaluated=None), placed))
                raise refusals.pooled(source, error) from error
        raise refusals.undecided(source, error, _tables(source, files, placed, skipped)) from error


def _tables(source: Source, files: Sequence[str], placed: Placed, skipped: Sequence[Skipped]) -> list[str]:
    """List the values of `--labels` for tables in the folder, and beside it, that name its images."""
    inside = [f"{source.name.rstrip('/')}/{one.file}" for one in skipped if one.file.lower().endswith(EXTENSIONS)]
    others = {file for file in files if placed.splits.get(file) in ("test", "unlabelled")}
    names = [*inside[:MOST_TABLES], *tables_beside(source.name)[:MOST_TABLES]]
    return find_tables(source.name, names, [file for file in files if file not in others], sorted(others))


def _trained(files: Sequence[str], placed: Placed) -> list[str]:
    return [file for file in files if placed.splits.get(file, "train") == "train"] or list(files)


def _paths(files: Sequence[str], placed: Placed) -> list[str]:
    return [placed.paths.get(file, file) for file in files] if placed.paths else list(files)


def _of_splits(files: list[str], placed: Placed, skipped: list[Skipped], *, evaluated: str | None) -> list[str]:
    """Take out the images that words in their paths exclude; in an evaluation those of other splits than the one asked for."""
    if not placed.splits:
        return files
    reasons = {"outside": "outside-split", "unlabelled": "unlabelled"}
    if evaluated is not None:
        told = {split for split in placed.splits.values() if split not in reasons}
        wanted = "test" if evaluated == "auto" and "test" in told and len(told) > 1 else evaluated
        if wanted not in ("auto", "all"):
            if wanted not in told:
                raise DataError(f"no image of the split {wanted}", f"--split all takes all {refusals.images(len(files))}")
            reasons |= dict.fromkeys(told - {wanted} | {""}, "other-split")
    kept = []
    for file in files:
        reason = reasons.get(placed.splits.get(file, ""))
        if reason:
            skipped.append(Skipped(file, reason))
        else:
            kept.append(file)
    return kept


def label_files(files: Sequence[str], rule: Rule, paths: Mapping[str, str]) -> dict[str, str | None]:
    """Read the label of each file; folders are read once."""
    label_of = rule.label_of
    if rule.reads == "path":
        return {file: label_of(file) for file in files}
    if rule.reads == "name":
        return {file: label_of(paths.get(file, file)) for file in files}
    labels: dict[str, str | None] = {}
    found: dict[str, str | None] = {}
    for file in files:
        folder = file.rpartition("/")[0]
        if folder not in found:
            found[folder] = label_of(paths.get(file, file))
        labels[file] = found[folder]
    return labels


def _named(
    source: Source,
    labels: Mapping[str, str | None],
    placed: Placed,
    rule: Rule,
    reading: Reading,
    skipped: list[Skipped],
    *,
    classes: Sequence[str] | None,
) -> dict[str, str]:
    """Map the files to use to their class names. Raises DataError as `--unmatched` says; test images need no label."""
    evaluates = classes is not None
    if not evaluates:
        tests = {file for file, split in placed.splits.items() if split == "test" and file in labels}
        skipped += [Skipped(file, "test-split", labels[file] or "") for file in tests]
        labels = {file: label for file, label in labels.items() if file not in tests} if tests else labels
    named = {file: label for file, label in labels.items() if label is not None}
    without = [file for file, label in labels.items() if label is None]
    paths = [placed.paths.get(file, file) for file in labels]
    if not named or (without and evaluates and reading.unmatched == "error"):
        raise refusals.no_label(source, paths, without, rule, skips=bool(named), classes=classes)
    if without and reading.unmatched == "error":
        if {placed.splits.get(file) for file in without} == {"val"}:
            raise refusals.unlabelled_validation(source, without)
        raise refusals.no_label(source, paths, without, rule, skips=True)
    skipped += [Skipped(file, "no-label", rule.name) for file in without]
    return named


def _classes(source: Source, named: Mapping[str, str], placed: Placed, rule: Rule) -> list[str]:
    """List the classes of the training images. Raises DataError for a single one."""
    classes = natural_order({label for file, label in named.items() if placed.splits.get(file) != "val"})
    if len(classes) < 2:
        trained = [placed.paths.get(file, file) for file in named if placed.splits.get(file) != "val"]
        pools = bool(set(placed.splits.values()) & {"val", "test"})
        raise refusals.one_class(source, next(iter(classes), ""), trained, rule, pools=pools)
    return classes


def _remove_unknown(
    source: Source,
    named: dict[str, str],
    classes: Sequence[str],
    placed: Placed,
    reading: Reading,
    skipped: list[Skipped],
    *,
    from_model: bool,
) -> None:
    """Remove from `named` what has a label outside `classes`. Raises DataError unless `--unmatched skip` and some are left."""
    known = set(classes)
    unknown = {file: label for file, label in named.items() if label not in known}
    if not unknown:
        return
    if reading.unmatched == "error" or len(unknown) == len(named):
        held_out = [file for file in named if placed.splits.get(file) == "val"]
        if not from_model and all(file in unknown for file in held_out):
            raise refusals.unlabelled_validation(source, held_out, named[held_out[0]])
        fitting = refusals.rules_for(_paths(list(named), placed), classes) if from_model else []
        skips = reading.unmatched == "error"
        raise refusals.unknown_classes(unknown, len(named), classes, fitting, from_model=from_model, skips=skips)
    for file in unknown:
        del named[file]
    skipped += [Skipped(file, "unknown-class", label) for file, label in unknown.items()]
