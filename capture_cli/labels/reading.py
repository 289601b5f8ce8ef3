"""The options that say how the names of a folder are read, each with its default and its check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from capture_cli.errors import UsageError
from capture_cli.labels.groups import check_group
from capture_cli.labels.rules import parse_rule
from capture_cli.labels.tables import parse_table

UNMATCHED = ("error", "skip")
SPLIT_FOLDERS = ("use", "pool", "ignore")


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
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
    group: str | None = None
    """Keep images of one group on one side of the split: capture_cli.labels.groups."""
    merge_names: bool = False
    """Make one class of names that differ only in case, spaces or Unicode form."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ReadingOptions:
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
            if self.group is not None:
                check_group(self.group)
