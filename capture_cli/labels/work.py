"""The images of a source on their way to a scan: every step takes some out, with a reason.

work = Work(source, reading, classes=None)
work.look()                             # files, without masks; splits that words tell
rule, rivals = work.find_rule()         # asked for, from a table, or chosen
named = work.label(rule, "auto")        # file -> label
classes = work.classes_of(named, rule)
work.remove_unknown(named, classes)     # labels that no training image has
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from capture_cli.errors import DataError
from capture_cli.labels import refusals
from capture_cli.labels.candidates import Fit
from capture_cli.labels.companions import companions
from capture_cli.labels.comparison import RuleChoice, Undecided, choose
from capture_cli.labels.filters import choose_files
from capture_cli.labels.groups import groups_of
from capture_cli.labels.names import merged, similar
from capture_cli.labels.purposes import Placed, place_files, place_two, split_word
from capture_cli.labels.reading import ReadingOptions
from capture_cli.labels.rules import Rule, natural_order, parse_rule
from capture_cli.labels.suggestions import find_tables, split_lists, tables_beside, tables_of
from capture_cli.labels.tables import EXTENSIONS, Matched, TableOption, match, parse_table, read_table
from capture_cli.labels.tokens import Kind
from capture_cli.sources import Skipped, TypedSource

MOST_TABLES = 20
_UNUSED = {"outside": "outside-split", "unlabelled": "unlabelled"}
"""Split that words tell -> reason to skip its images."""


class Work:
    """Files that are left, and those that are skipped."""

    def __init__(self, source: TypedSource, reading: ReadingOptions, classes: Sequence[str] | None) -> None:
        self.source, self.reading, self.model_classes = source, reading, classes
        self.files: list[str] = []
        self.skipped: list[Skipped] = []
        self.placed = Placed({}, {}, set())
        self.table: Matched | None = None
        self.tables: list[str] = []
        self._wanted = parse_table(reading.labels)

    @property
    def wants_table(self) -> bool:
        """True if the labels are asked for from a table."""
        return self._wanted is not None

    def look(self) -> None:
        """List the images in natural order, without masks and excluded files, and read their splits from the paths."""
        listing = self.source.list()
        if not listing.files:
            raise refusals.no_images(self.source, listing.skipped)
        files, excluded = choose_files(listing.files, include=self.reading.include, exclude=self.reading.exclude)
        self.skipped = listing.skipped + excluded
        if not self.reading.keep_companions and self._wanted is None and (belonging := companions(files)):
            self.skipped += [Skipped(file, "companion", text) for file, text in belonging.items()]
            files = [file for file in files if file not in belonging]
        if not files:
            raise refusals.no_images(self.source, self.skipped)
        self.files = natural_order(files)
        use, val = self.reading.split_folders, self.source.val
        if val is not None:
            self.placed = place_two(self.files, self.source.within, val, use=use)
            if "val" not in self.placed.splits.values():
                raise DataError(f"no images in --val '{self.source.typed[-1]}'", "name a folder of images")
        else:
            self.placed = place_files(self.files, classes=self.model_classes or (), use=use)

    def find_rule(self) -> tuple[Rule, list[Fit]]:
        """Return the rule that is asked for or chosen, and its rivals. Raises UsageError and DataError."""
        if self._wanted is not None:
            self.table = self._match_table(self._wanted)
            why = f"'{self.table.name}' names them" + ", which has no header line" * (not self.table.has_header)
            return Rule("table", why, self.table.labels.get, "file"), []
        rule = parse_rule(self.reading.labels)
        if rule is not None:
            return rule, []
        choice = self._choose()
        if choice.rule.reads == "name":
            self.tables = self._tables(share=0.8)
            if self.tables and choice.kind < Kind.WORDS:
                raise refusals.numbers_and_tables(self.source, choice.rule, self.tables)
        return choice.rule, choice.rivals

    def _match_table(self, wanted: TableOption) -> Matched:
        """Match the table with the files; what it says of splits counts more than words in paths."""
        splits = self.placed.splits
        others = {file for file in self.files if splits.get(file) in ("test", "unlabelled")}
        read = read_table(wanted, self.source.name)
        first = [file for file in self.files if file not in others]
        table = match(read, first, sorted(others), group=self.reading.group)
        if table.error is not None:
            raise table.error
        table.asked = self.reading.labels
        for file in table.labels:
            if file not in table.splits and splits.get(file) in _UNUSED:
                del splits[file]
        splits.update(table.splits)
        kept = []
        for file in self.files:
            if file in table.skipped:
                self.skipped.append(Skipped(file, "excluded", table.skipped[file]))
            elif file in table.labels or splits.get(file) in ("test", *_UNUSED):
                kept.append(file)
            else:
                self.skipped.append(Skipped(file, "not-in-table"))
        self.files = kept
        if self.model_classes is None and table.splits and all(splits.get(file, "train") != "train" for file in kept):
            message = f"the column `{table.split_column}` of '{table.name}' has no image to train on"
            raise DataError(message, "write train into rows to train on, or rename the column if it tells no splits")
        return table

    def _choose(self) -> RuleChoice:
        """Choose a rule for the training images; without one, take folders that may be classes for classes."""
        try:
            return choose(self._paths(self._trained()))
        except Undecided as error:
            if self.placed.doubtful and self.source.val is None:
                before, self.placed = self.placed, place_files(self.files, classes=self.placed.doubtful)
                with contextlib.suppress(Undecided):
                    choice = choose(self._paths(self._trained()))
                    if len({split_word(name)[0] for name in before.doubtful}) > 1:  # `train` alone may be a thing in pictures
                        raise refusals.splits_or_classes(self.source, error, before.doubtful) from error
                    self.placed = self.placed._replace(doubtful=before.doubtful)
                    return choice
                self.placed = before
            if {"val", "test"} & set(self.placed.splits.values()):
                used = [file for file in self.files if self.placed.splits.get(file) not in _UNUSED]
                with contextlib.suppress(Undecided):
                    choose(self._paths(used))
                    raise refusals.pooled(self.source, error) from error
            raise refusals.undecided(self.source, error, self._tables(), self.files, self.skipped) from error

    def _trained(self) -> list[str]:
        splits = self.placed.splits
        return [file for file in self.files if splits.get(file, "train") == "train"] or self.files

    def _paths(self, files: Sequence[str]) -> list[str]:
        return [self.placed.paths.get(file, file) for file in files]

    def _tables(self, share: float = 0) -> list[str]:
        """List the values of `--labels` for tables in the folder, and beside it, that name this share of its images."""
        others = {file for file in self.files if self.placed.splits.get(file) in ("test", "unlabelled")}
        files = [file for file in self.files if file not in others]
        # a .txt without column names is a help only where names hold no label
        names = [name for name in self._table_names() if not (share and name.lower().endswith(".txt"))]
        return find_tables(self._folder, names, files, sorted(others), share=share)

    @property
    def _folder(self) -> str:
        return self.source.name.rstrip("/") or "/"

    def _table_names(self) -> list[str]:
        """List the paths of what may be tables, in the folder and beside it; a text beside each image is none."""
        inside = [f"{self._folder}/{name}" for name in self._skipped_texts() if name.lower().endswith(EXTENSIONS)]
        return [*inside[:MOST_TABLES], *tables_beside(self._folder)[:MOST_TABLES]]

    def _skipped_texts(self) -> list[str]:
        """List the files that are no images, without those that are called like one; text files come last."""
        names = [one.file for one in self.skipped if one.reason == "unsupported-extension"]
        images = {file.rpartition("/")[2].rpartition(".")[0] for file in self.files} if names else set()
        names = [name for name in names if name.rpartition("/")[2].rpartition(".")[0] not in images]
        return sorted(names, key=lambda name: name.lower().endswith(".txt"))

    def tables_of(self, files: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Find a table with labels of some files that are among `classes`; return a value of `--labels`, if there is one."""
        if self.table is not None or not files:
            return []
        chosen = set(files)
        rest = [file for file in self.files if file not in chosen]
        return tables_of(self._folder, self._table_names(), files, rest, classes)

    def split_lists(self) -> list[str]:
        """List the files that may tell splits, if nothing else does."""
        if self.table is not None or self.placed.splits or self.model_classes is not None:
            return []
        return split_lists(self._folder, self._skipped_texts()[:MOST_TABLES], self.files)

    def label(self, rule: Rule, part: str) -> dict[str, str]:
        """Map the images to use to their labels. Raises DataError as `--unmatched` says; test images need no label.

        `part` is the split to evaluate, see `capture_cli.labels.scan`.
        """
        self._take_out_splits(part)
        labels = self._labels(rule)
        splits, evaluates = self.placed.splits, self.model_classes is not None
        if not evaluates and "test" in splits.values():
            tests = {file for file in labels if splits.get(file) == "test"}
            self.skipped += [Skipped(file, "test-split", labels[file] or "") for file in tests]
            labels = {file: label for file, label in labels.items() if file not in tests}
        named = {file: label for file, label in labels.items() if label is not None}
        without = [file for file, label in labels.items() if label is None]
        error = self.reading.unmatched == "error"
        if without and error and named and not evaluates and {splits.get(file) for file in without} == {"val"}:
            raise refusals.unlabelled_validation(self.source, without, self.tables_of(without, list(named.values())))
        if not named or (without and error):
            paths = self._paths(list(labels))
            classes = self.model_classes
            tables = self.tables_of(without, classes) if classes is not None else []
            raise refusals.no_label(self.source, paths, without, rule, skips=bool(named), classes=classes, tables=tables)
        self.skipped += [Skipped(file, "no-label", rule.name) for file in without]
        return merged(named, self.model_classes or ()) if self.reading.merge_names else named

    def _take_out_splits(self, part: str) -> None:
        """Take out the images that words in their paths exclude; in an evaluation those of other splits than `part`."""
        splits = self.placed.splits
        if not splits:
            return
        reasons = dict(_UNUSED)
        if self.model_classes is not None:
            told = {split for split in splits.values() if split not in reasons}
            wanted = "test" if part == "auto" and "test" in told and len(told) > 1 else part
            if wanted not in ("auto", "all"):
                if wanted not in told:
                    raise DataError(
                        f"no image of the split {wanted}", f"--split all takes all {refusals.images(len(self.files))}"
                    )
                reasons |= dict.fromkeys(told - {wanted} | {""}, "other-split")
        kept = []
        for file in self.files:
            if reason := reasons.get(splits.get(file, "")):
                self.skipped.append(Skipped(file, reason))
            else:
                kept.append(file)
        self.files = kept

    def _labels(self, rule: Rule) -> dict[str, str | None]:
        """Read the label of each file; folders are read once."""
        label_of, paths = rule.label_of, self.placed.paths
        if rule.reads == "file":
            return {file: label_of(file) for file in self.files}
        if rule.reads == "path":
            return {file: label_of(self._inside(file)) for file in self.files}
        if rule.reads == "name":
            return {file: label_of(paths.get(file, file)) for file in self.files}
        labels: dict[str, str | None] = {}
        found: dict[str, str | None] = {}
        for file in self.files:
            folder = file.rpartition("/")[0]
            if folder not in found:
                found[folder] = label_of(paths.get(file, file))
            labels[file] = found[folder]
        return labels

    def _inside(self, file: str) -> str:
        """Return the path of a file in the folder that was named."""
        val = self.source.val
        return file[len(val if val and file.startswith(val) else self.source.within) :]

    def classes_of(self, named: dict[str, str], rule: Rule) -> list[str]:
        """List the classes of the training images. Raises DataError for a single one."""
        trained = [file for file in named if self.placed.splits.get(file) != "val"]
        classes = natural_order({named[file] for file in trained})
        if len(classes) < 2:
            pools = bool(set(self.placed.splits.values()) & {"val", "test"})
            paths = self._paths(trained)
            raise refusals.one_class(self.source, next(iter(classes), ""), paths, rule, pools=pools)
        return classes

    def remove_unknown(self, named: dict[str, str], classes: Sequence[str]) -> None:
        """Remove labels outside `classes` from `named`. Raises DataError unless `--unmatched skip` and some are left."""
        known = set(classes)
        unknown = {file: label for file, label in named.items() if label not in known}
        if not unknown:
            return
        from_model, skips = self.model_classes is not None, self.reading.unmatched == "error"
        if skips or len(unknown) == len(named):
            held_out = [file for file in named if self.placed.splits.get(file) == "val"]
            if not from_model and not similar({*unknown.values(), *classes}) and all(file in unknown for file in held_out):
                tables = self.tables_of(held_out, classes)
                raise refusals.unlabelled_validation(self.source, held_out, tables, named[held_out[0]])
            fitting = refusals.rules_for(self._paths(list(named)), classes) if from_model else []
            tables = self.tables_of(list(unknown), classes) if from_model else []
            told = {"from_model": from_model, "skips": skips}
            raise refusals.unknown_classes(unknown, len(named), classes, fitting, tables=tables, **told)
        for file in unknown:
            del named[file]
        self.skipped += [Skipped(file, "unknown-class", label) for file, label in unknown.items()]

    def groups(self, files: Sequence[str]) -> list[str] | None:
        """Return the group of each file, None without `--group`. Raises DataError if none has one."""
        group = self.reading.group
        if group is None:
            return None
        column = self.table.groups if self.table is not None else None
        return groups_of(files, group, paths=self.placed.paths, column=column)
