"""Label tables: `--labels FILE.csv[:FILE_COLUMN,LABEL_COLUMN]`, also `.tsv`, `.jsonl` and `.txt`.

    wanted = parse_table("labels.csv:id_code,diagnosis")    # None where the text is no table
    table = read_table(wanted, folder="photos")             # columns and rows
    matched = match(table, files)                           # the label of each file, rows without a file, ...

A row names an image by its path in the folder, by its file name, or by its name without extension; folders at the beginning
that the folder does not have are ignored. Without column names, the file column is the one whose values name most images. The
label column is the only other one, or one with a usual name (`label`, `class`, `diagnosis`, ...), or all others if they hold a
single 1 in each row (one-hot); else the error lists the columns. If the first line names an image in its first cell, it is a
row, unless it is a header all the same (capture_cli.labels.header), and the columns are called 1, 2, ... Columns `split`
(capture_cli.labels.split_columns) and `skipped`, as `capture labels --files` writes them, are followed.
"""

import csv
import hashlib
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from capture_cli.errors import DataError, UsageError, did_you_mean
from capture_cli.labels.finder import Finder
from capture_cli.labels.header import is_header
from capture_cli.labels.split_columns import EXCLUDED, split_column, unused_columns
from capture_cli.labels.subjects import subject_columns
from capture_cli.labels.table_files import guessed, read_cells, undecoded
from capture_cli.labels.tokens import tokens

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".txt")
MAX_BYTES = 2**30
_NO_TABLE = re.compile(r"(?s)(.+\.(?:xlsx?|xlsm|xlsb|ods|numbers|json|parquet))(?::.*)?\Z", re.IGNORECASE)
_TABLE = re.compile(r"(?s)(.+\.(?:csv|tsv|jsonl|txt))(?::(.*))?\Z", re.IGNORECASE)
_LABEL_COLUMNS = [
    *("label", "labels", "class", "class_name", "classname", "label_name", "target", "category", "diagnosis", "dx", "breed"),
    *("species", "y", "finding_labels", "finding", "emotion", "tag", "gt", "ground_truth", "level", "type"),
    *("class_id", "classid"),
]
_PREDICTED = {"pred", "preds", "predict", "predicted", "prediction", "predictions", "suggested"}
_OVERRIDDEN = {"no-label", "not-in-table", "unknown-class", "companion", "excluded", "outside-split", "unlabelled"}
"""Reasons of `capture labels --files` that no longer hold once somebody has written a label beside them."""
_TRIED_ROWS = 500


class TableOption(NamedTuple):
    """A table as it was asked for."""

    path: str
    file_column: str | None
    label_column: str | None


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The columns and rows of a table, all values as text."""

    name: str
    columns: list[str]
    rows: list[list[str]]
    wanted: TableOption
    digest: str = ""
    """BLAKE2b (16 bytes, hex) of the file."""
    has_header: bool = True


@dataclass(kw_only=True)
class Matched:
    """The rows of a table, matched with files."""

    name: str
    columns: str
    """The columns that were used, for people."""
    labels: dict[str, str] = field(default_factory=dict)
    """File -> label."""
    splits: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """File -> reason, for rows that say so."""
    groups: dict[str, str] | None = None
    """File -> value of the column that `--group` names."""
    extra: list[str] = field(default_factory=list)
    """Names in rows that no file has."""
    rows: int = 0
    digest: str = ""
    """BLAKE2b (16 bytes, hex) of the file."""
    split_column: str = ""
    """The column that `splits` come from."""
    error: DataError | None = None
    """The error for values of this column that name no split, or for text that is not UTF-8."""
    warnings: list[str] = field(default_factory=list)
    has_header: bool = True
    """False if the first line is a row like the others."""
    asked: str = ""
    """The value of `--labels`."""
    subjects: dict[str, dict[str, str]] = field(default_factory=dict)
    """Column of patients, lesions or the like -> file -> value."""


def parse_table(text: str) -> TableOption | None:
    """Parse a value of `--labels` that names a table; None for a rule. Raises UsageError for files that are read by others."""
    if other := _NO_TABLE.match(text):
        hint = "save it as CSV UTF-8 with a header line, such as file,label, and a row per image"
        raise UsageError(f"'{other[1]}' is not a table that capture reads", hint)
    match = _TABLE.match(text)
    if not match:
        return None
    names = next(csv.reader([match[2]]), []) if match[2] else []
    if len(names) > 2 or (match[2] is not None and not all(names)):
        raise UsageError(
            f"--labels {text} is not valid", "write the columns behind a colon: labels.csv:FILE_COLUMN,LABEL_COLUMN"
        )
    return TableOption(match[1], names[0] if len(names) == 2 else None, names[-1] if names else None)


def read_table(wanted: TableOption, folder: str, *, rows: int | None = None) -> LabelTable:
    """Read a table, or its first `rows`. Raises UsageError and DataError."""
    path = _path_of(wanted, folder)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"the table '{wanted.path}' is larger than 1 GB", "keep the columns of file and label only")
        columns, found = read_cells(path, rows)
    except OSError as error:
        raise UsageError(f"the table '{wanted.path}' cannot be read: {error.strerror}") from error
    except (csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"'{wanted.path}' is not a table: {error}", "save it as CSV UTF-8 with a header line") from error
    if not found:
        raise DataError(
            f"the table '{wanted.path}' has no rows", "it needs a header line, such as file,label, and a row per image"
        )
    return LabelTable(name=wanted.path, columns=columns, rows=found, wanted=wanted, digest="" if rows else digest_of(path))


def _path_of(wanted: TableOption, folder: str) -> Path:
    """Find a table: its path is tried as it is, then inside `folder`. Raises UsageError."""
    path = next((one for one in (Path(wanted.path), Path(folder) / wanted.path) if one.is_file()), None)
    if path is None:
        raise UsageError(
            f"no such table: '{wanted.path}'", "name a .csv, .tsv, .jsonl or .txt file; its path may begin in the folder"
        )
    return path


def digest_of_table(text: str, folder: str) -> str | None:
    """Return the digest of the table that a value of `--labels` names, as it is now; None if it is not there."""
    wanted = parse_table(text)
    try:
        return digest_of(_path_of(wanted, folder)) if wanted else None
    except (UsageError, OSError):
        return None


def digest_of(path: Path) -> str:
    """Return BLAKE2b (16 bytes, hex) of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def match(table: LabelTable, files: Sequence[str], others: Sequence[str] = (), *, group: str | None = None) -> Matched:
    """Match rows with files; `others`, such as test images, are tried where no file has the name; `group` may be a column.

    Raises UsageError for columns that are not there or not clear, DataError if no row names a file, a row names several, or two
    rows give one file different labels.
    """
    finder = Finder(files, others)
    table = with_header(table, finder)
    file_at = file_column(table, finder)
    split = split_column(table.name, table.columns, table.rows, file_at=file_at, label=table.wanted.label_column)
    skipped_at = table.columns.index("skipped") if "skipped" in table.columns else None
    group_at = _group_column(table, group)
    taken = {file_at, split.at, skipped_at, group_at}
    label_of, name, labels_at = _label_reader(table, taken)
    columns = f"{table.columns[file_at]},{name}"
    found = Matched(
        name=table.name,
        columns=columns,
        groups=None if group_at is None else {},
        rows=len(table.rows),
        digest=table.digest,
        split_column="" if split.at is None else table.columns[split.at],
        error=split.error,
        has_header=table.has_header,
    )
    if split.at is None:
        found.warnings = unused_columns(table.name, table.columns, table.rows, used={*taken, *labels_at})
    subjects = subject_columns(table.columns, used={file_at, split.at, skipped_at, name})
    for row in table.rows:
        file, label = finder.find(row[file_at]), label_of(row)
        reason = row[skipped_at].strip() if skipped_at is not None else ""
        told = row[split.at].strip() if split.at is not None else ""
        if file is None:
            if label or not reason:  # a file that was skipped when the table was written may be no image
                found.extra.append(row[file_at])
            continue
        if reason and not (label and reason in _OVERRIDDEN):
            found.skipped[file] = reason
            continue
        if split.splits.get(told) == EXCLUDED:
            found.skipped[file] = told
            continue
        for what, known, value in (("labels", found.labels, label), ("splits", found.splits, split.splits.get(told, ""))):
            if known.get(file, value) != value:
                message = f"'{table.name}' gives '{file}' two {what}: '{known[file]}' and '{value}'"
                raise DataError(message, "keep one row per image")
        if label:
            found.labels[file] = label
        if found.groups is not None and group_at is not None:
            found.groups[file] = row[group_at].strip()
        for at in subjects:
            found.subjects.setdefault(table.columns[at], {})[file] = row[at].strip()
        if told in split.splits:
            found.splits[file] = split.splits[told]
    found.error = _not_utf_8(found) or found.error
    if not found.labels:
        example, value = (files or others)[0], table.rows[0][file_at]
        if found.error is not None:
            raise found.error
        if found.skipped:
            file, reason = next(iter(found.skipped.items()))
            raise DataError(f"'{table.name}' skips all its images: '{file}' is '{reason}'", "take that out of rows to be used")
        if len(found.extra) < len(table.rows):
            message = f"the column {name} of '{table.name}' is empty for all images"
            raise DataError(message, "fill it in, or name the column that has labels")
        if other := finder.in_other_case(value):
            message = f"'{table.name}' and the folder differ in upper and lower case or spaces: '{value}', '{other}'"
            raise DataError(message, "write the names in the table as they are in the folder")
        raise DataError(
            f"no row of '{table.name}' has a label for an image: '{value}' in the column {table.columns[file_at]}, "
            f"'{example}' in the folder",
            f"name the columns: --labels {table.name}:FILE_COLUMN,LABEL_COLUMN; there are {', '.join(table.columns)}",
        )
    return found


def _not_utf_8(found: Matched) -> DataError | None:
    """Make the error for labels and names with bytes that are not UTF-8, unless files on disk have such names too."""
    texts = [*found.labels.values(), *found.extra, *(found.groups or {}).values()]
    text = next(filter(undecoded, texts), None)
    if text is None or any(map(undecoded, found.labels)):
        return None
    return DataError(
        f"the table '{found.name}' is not UTF-8; in Windows-1252 it would say '{guessed(text)}'",
        "save it as CSV UTF-8, or, if that is right, convert it with "
        f"`iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(found.name)} > labels.csv`",
    )


def with_header(table: LabelTable, finder: Finder) -> LabelTable:
    """Take the first line of a CSV for a row, if it names an image and is not a header all the same. Raises DataError."""
    wanted = [name for name in table.wanted[1:] if name]
    if (
        table.wanted.path.lower().endswith(".jsonl")
        or not finder.count(table.columns[:1])
        or is_header(table.columns, table.rows, wanted=wanted)
    ):
        message = f"'{table.name}' is not a table: its header line does not name two columns or more, each once"
        if not any(table.columns[1:]):
            hint = f"if '{table.columns[0]}' is a title, take it out; the first line names the columns, as in file,label"
            raise DataError(message, hint)
        if len(set(table.columns)) < len(table.columns):
            raise DataError(message, "save it as CSV UTF-8 with a header line")
        return table
    numbers = [str(number) for number in range(1, len(table.columns) + 1)]
    return replace(table, columns=numbers, rows=[table.columns, *table.rows], has_header=False)


def file_column(table: LabelTable, finder: Finder) -> int:
    if table.wanted.file_column is not None:
        return _column(table, table.wanted.file_column)
    rows = table.rows[:_TRIED_ROWS]
    counts = [finder.count(row[at] for row in rows) for at in range(len(table.columns))]
    return max(range(len(counts)), key=counts.__getitem__)


def _column(table: LabelTable, name: str) -> int:
    if name not in table.columns:
        hint = did_you_mean(name, table.columns, f"its columns are {', '.join(table.columns)}")
        raise UsageError(f"'{table.name}' has no column '{name}'", hint)
    return table.columns.index(name)


def _group_column(table: LabelTable, group: str | None) -> int | None:
    """Find the column that `--group` names; None if it is a rule or a pattern. A cell of a first row is no column's name."""
    is_cell = not table.has_header and group in table.rows[0]
    return _column(table, group) if group is not None and (group in table.columns or is_cell) else None


def _label_reader(table: LabelTable, taken: Collection[int | None]) -> tuple[Callable[[Sequence[str]], str], str, list[int]]:
    """Choose the label column; return a function from a row to its label, the name of the column for people, and its place.

    There are several places for one-hot columns.
    """
    if table.wanted.label_column is not None:
        at = _column(table, table.wanted.label_column)
        return _reader(at), table.wanted.label_column, [at]
    free = [at for at in range(len(table.columns)) if at not in taken]
    rest = [at for at in free if not is_prediction(table.columns[at])]
    usual = {_usual(table.columns[at]): at for at in reversed(rest)}
    chosen = next((usual[name] for name in _LABEL_COLUMNS if name in usual), rest[0] if len(rest) == 1 else None)
    if chosen is not None:
        return _reader(chosen), table.columns[chosen], [chosen]
    one_hot = _one_hot_columns(table, rest)
    if one_hot:
        return lambda row: next((table.columns[at] for at in one_hot if _is_one(row[at])), ""), "one-hot columns", one_hot
    options = " or ".join(f"--labels {table.name}:{name}" for name in label_columns(table, rest))
    if predicted := [table.columns[at] for at in free if at not in rest] * (not options):
        raise UsageError(
            f"'{table.name}' has predictions (the column `{predicted[0]}`) and no labels",
            f"if they are to be the labels, name the column: --labels {table.name}:{predicted[0]}",
        )
    raise UsageError(
        f"the label column of '{table.name}' is not clear: {', '.join(table.columns[at] for at in rest) or 'there is none'}",
        f"name it: {options or f'--labels {table.name}:LABEL_COLUMN'}",
    )


def _reader(at: int) -> Callable[[Sequence[str]], str]:
    return lambda row: row[at].strip()


def _one_hot_columns(table: LabelTable, columns: Sequence[int]) -> list[int]:
    """Return the columns of numbers, if each row has a single 1 and zeros in them."""
    numbers = [at for at in columns if all(row[at].strip() in _ONE_HOT for row in table.rows)]
    return numbers if len(numbers) >= 2 and all(sum(_is_one(row[at]) for at in numbers) == 1 for row in table.rows) else []


_ONE_HOT = {"0", "1", "0.0", "1.0", "true", "false", "True", "False", "-1"}


def _is_one(text: str) -> bool:
    return text.strip() in ("1", "1.0", "true", "True")


def is_prediction(column: str) -> bool:
    """Tell a column of predictions, such as `pred` and `suggested`, by its name. It is never taken for labels unasked."""
    return not _PREDICTED.isdisjoint(tokens(column))


def has_predictions_only(table: LabelTable) -> bool:
    """Tell a table of predictions, such as `capture predict` writes: none of its columns is called like labels."""
    return any(map(is_prediction, table.columns)) and not any(_usual(one) in _LABEL_COLUMNS for one in table.columns)


def _usual(column: str) -> str:
    return column.casefold().replace(" ", "_")


def label_columns(table: LabelTable, columns: Iterable[int]) -> list[str]:
    """List the columns that may be labels: two values or more, each on two rows on average."""
    values: Mapping[int, set[str]] = {
        at: {row[at] for row in table.rows} for at in columns if not is_prediction(table.columns[at])
    }
    return [table.columns[at] for at, found in values.items() if 2 <= len(found) <= len(table.rows) / 2][:4]
