"""Tables and lists in or beside a folder that say something of its images, and that nobody has asked for.

find_tables(folder, names, files, others)               # values of --labels
tables_of(folder, names, files, others, classes)        # one whose labels are among these classes
split_lists(folder, names, files)                       # "meta/train.txt", "meta/test.txt"
"""

import re
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from capture_cli.errors import DataError, UsageError
from capture_cli.labels.finder import Finder
from capture_cli.labels.tables import (
    EXTENSIONS,
    LabelTable,
    TableOption,
    file_column,
    has_predictions_only,
    is_prediction,
    label_columns,
    match,
    read_table,
    with_header,
)
from capture_cli.labels.tokens import SPLIT_WORDS, tokens

_TRIED_ROWS = 500
_TRIED_LINES = 50
_LISTS = (".txt", ".csv", ".tsv")
_LIST_WORDS = {word for word, split in SPLIT_WORDS.items() if split != "unlabelled"} | {"split", "splits", "trainval"}


def tables_beside(folder: str) -> list[str]:
    """List the tables beside a folder: `train.csv` beside `train_images`."""
    above = Path(folder).parent if Path(folder).name else Path(folder) / ".."
    try:
        names = [one.name for one in above.iterdir() if one.name.lower().endswith(EXTENSIONS)]
    except OSError:
        return []
    return [str(above / name) for name in sorted(names) if not name.startswith(".")]


def find_tables(
    folder: str, names: Sequence[str], files: Sequence[str], others: Sequence[str], *, share: float = 0
) -> list[str]:
    """Find tables most of whose rows name an image, and that name a share of the images; return values of `--labels`.

    `names` are paths of tables to look at, `folder` is the folder of the images.
    """
    finder, values = Finder(files, others), list[str]()
    for name in names:
        table = _first_rows(name, folder, finder)
        if table is None:
            continue
        at = file_column(table, finder)
        try:
            if share:
                table = with_header(read_table(table.wanted, folder), finder)
            named = finder.count(row[at] for row in table.rows)
            if 2 * named < len(table.rows) or named < share * len(files):
                continue
            labels = match(table, files, others).labels
        except UsageError:
            rest = [index for index in range(len(table.columns)) if index != at]
            values += [f"{name}:{table.columns[at]},{column}" for column in label_columns(table, rest)[:2]]
        except DataError:
            continue
        else:
            distinct = len(set(labels.values()))
            if distinct < 20 or 2 * distinct <= len(labels):  # else one label each: running numbers
                values.append(name)
    return values[:3]


def tables_of(
    folder: str, names: Sequence[str], files: Sequence[str], rest: Sequence[str], classes: Collection[str]
) -> list[str]:
    """Find a table with labels of `files` that are all among `classes`; it names more of these than of the `rest`.

    Returns a value of `--labels`, if there is one.
    """
    finder, other = Finder(files, ()), Finder(rest, ())
    for name in names:
        table = _first_rows(name, folder, finder)
        if table is None:
            continue
        at = file_column(table, finder)
        rows = [row for row in table.rows if finder.count([row[at]])]
        if 2 * len(rows) < min(len(table.rows), len(files)) or other.count(row[at] for row in rows) >= len(rows):
            continue
        places = [i for i, column in enumerate(table.columns) if i != at and not is_prediction(column)]
        found = {table.columns[i]: {row[i].strip() for row in rows} - {""} for i in places}
        fitting = {column: values for column, values in found.items() if len(values) > 1 and values <= set(classes)}
        try:
            if set(match(table, files).labels.values()) in fitting.values():
                return [name]
        except (DataError, UsageError):
            pass
        if fitting:
            return [f"{name}:{table.columns[at]},{max(fitting, key=lambda column: len(fitting[column]))}"]
    return []


def _first_rows(name: str, folder: str, finder: Finder) -> LabelTable | None:
    """Read the first rows of what may be a table of images; None for anything else: records of a run, predictions."""
    try:
        table = with_header(read_table(TableOption(name, None, None), folder, rows=_TRIED_ROWS), finder)
    except (DataError, UsageError):
        return None
    return None if {"seq", "kind"} <= set(table.columns) or has_predictions_only(table) else table


def split_lists(folder: str, names: Sequence[str], files: Sequence[str]) -> list[str]:
    """List the files among `names` that are called like splits, where they or lists beside them name images."""
    lists = [name for name in names if name.lower().endswith(_LISTS)]
    called = [name for name in lists if _LIST_WORDS & set(tokens(name.rpartition("/")[2].rpartition(".")[0]))]
    if not called:
        return []
    finder = Finder(files, ())
    naming = {name.rpartition("/")[0] for name in lists if _names_images(Path(folder, name), finder)}
    return sorted(name for name in called if name.rpartition("/")[0] in naming)


def _names_images(path: Path, finder: Finder) -> bool:
    """Tell whether most of the first lines of a file hold the name of an image; a number among other words is none."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.strip() for line in islice(file, _TRIED_LINES)]
    except OSError:
        return False
    words = ([word for word in re.split(r"[,;\s]+", line) if not word.isdigit()] for line in lines)
    named = sum(finder.count([line, *some]) > 0 for line, some in zip(lines, words, strict=True))
    return 2 * named > len(lines)
