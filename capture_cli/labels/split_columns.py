"""Columns of label tables that tell splits: `split`, `subset`, `partition`, `set`, `usage`, and others that read like one.

    column = split_column("t.csv", ["file", "label", "split"], rows, file_at=0, label=None)
    column.at           # 2; None without one
    column.splits       # value -> split, such as {"Train": "train", "val2017": "val", "unused": "excluded"}
    column.error        # for values that name no split: whoever trains without regard to them may train on test images
    unused_columns("t.csv", ["file", "label", "is_valid"], rows, used={0, 1})   # what may tell splits and is not followed

A value tells a split as the name of a folder does (capture_cli.labels.purposes), if no other words stand beside it. A column of
any name tells splits if all its values do, `train` among them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from capture_cli.errors import DataError
from capture_cli.labels.purposes import split_word
from capture_cli.labels.tokens import SPLIT_WORDS, tokens

EXCLUDED = "excluded"
"""The part told by `unused` and the like: the image is skipped."""
_NAMES = ("split", "subset", "partition", "set", "usage")
_UNUSED = {"unused", "exclude", "excluded", "ignore", "ignored", "skip", "skipped"}
_MOST_WORDS = 20
"""Values of a column of another name that tells splits."""
_YES_OR_NO = {"0", "1", "0.0", "1.0", "true", "false", "yes", "no"}


@dataclass(frozen=True, kw_only=True)
class SplitColumn:
    """The column that tells splits; `at` is its place, None without one."""

    at: int | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    error: DataError | None = None


def split_column(
    table: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, file_at: int, label: str | None
) -> SplitColumn:
    """Find the column that tells splits; `label` is the column that the user names for labels."""
    places = [at for at, name in enumerate(columns) if at != file_at and name != label]
    named = [at for at in places if _is_name(columns[at])]
    values = {at: _values(rows, at) for at in places}
    told: dict[int, dict[str, str]] = {}
    for at in [*named, *(at for at in places if at not in named and len(values[at]) <= _MOST_WORDS)]:
        told[at] = {value: split for value in values[at] if (split := _split(value))}
        splits = set(told[at].values())
        if values[at] and len(told[at]) == len(values[at]) and (at in named or ("train" in splits and len(splits) > 1)):
            return SplitColumn(at=at, splits=told[at])
    may_be_label = label is None and len(places) == 1
    for at in named:
        if told[at] or (values[at] and "split" in tokens(columns[at]) and not may_be_label):
            unknown = {row[file_at]: row[at].strip() for row in rows if row[at].strip() not in {"", *told[at]}}
            return SplitColumn(at=at, splits=told[at], error=_error(f"the column `{columns[at]}` of '{table}'", unknown))
    return SplitColumn()


def unused_columns(
    table: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, used: Collection[int | None]
) -> list[str]:
    """Warn of columns that may tell splits, such as `partition` with numbers and `is_valid`, where none is followed."""
    found = {name: _values(rows, at) for at, name in enumerate(columns) if at not in used}
    return [
        f"the column `{name}` of '{table}' may tell splits, and is not used: its values are {_some(sorted(values))}; to follow "
        "it, write train, val and test into a column `split`"
        for name, values in found.items()
        if values and (_is_name(name) or _is_flag(name, values))
    ]


def _values(rows: Sequence[Sequence[str]], at: int) -> set[str]:
    return {row[at].strip() for row in rows} - {""}


def _is_name(column: str) -> bool:
    return column.casefold() in _NAMES or "split" in tokens(column)


def _is_flag(column: str, values: Collection[str]) -> bool:
    """Tell a column such as `is_valid` or `test`, which says yes or no."""
    words = set(tokens(column)) - {"is", "in"}
    return len(words) == 1 and words <= SPLIT_WORDS.keys() and {one.casefold() for one in values} <= _YES_OR_NO


def _split(value: str) -> str:
    """Return the split that a value tells; empty for none."""
    if value.casefold() in _UNUSED:
        return EXCLUDED
    split, rest = split_word(value)
    return "" if rest else split


def _error(column: str, unknown: Mapping[str, str]) -> DataError:
    """Make the error for values that name no split; `unknown` maps files to them."""
    values = list(dict.fromkeys(unknown.values()))
    names = "names" if len(values) == 1 else "name"
    rows = "the row of" if len(unknown) == 1 else f"{len(unknown):,} rows, such as that of"
    return DataError(
        f"{column} has {_some(values)}, which {names} no split, in {rows} '{next(iter(unknown))}'",
        "write train, val, test or unused there, or rename the column if it tells no splits",
    )


def _some(values: Sequence[str]) -> str:
    more = f" and {len(values) - 3:,} more" if len(values) > 3 else ""
    return ", ".join(f"'{one}'" for one in values[:3]) + more
