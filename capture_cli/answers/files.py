"""What two runs say of the same files: which only one of them has, and whose bytes, label or split differ.

    table = FileTable()
    table.take_a(line, record, run)         # samples and skip records as they come, in any order
    table.take_b(line, record, run)
    table.changes()

What is said of a file is remembered until the other run has named it too; what a run says of it later is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

from capture_cli.records import RunInfo, Samples, Skip

if TYPE_CHECKING:
    from capture_cli.runs import Line

MAX_NAMES = 5
"""Files that are named of those that differ in the same way."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Few(Generic[T]):
    """How many there are, and the first of them."""

    count: int
    first: tuple[T, ...]

    @classmethod
    def of(cls, items: Iterable[T], most: int) -> Self:
        """Of `items`, the first `most`."""
        held = list(items)
        return cls(len(held), tuple(held[:most]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanges:
    """Files that the runs do not have in common, by what differs; a file may be in several."""

    only_a: Few[str]
    """Named by run a alone."""
    only_b: Few[str]
    bytes: Few[str]
    label: Few[str]
    split: Few[str]
    left_out_a: Few[str]
    """Left out of run a, and not of run b."""
    left_out_b: Few[str]


class _Facts(NamedTuple):
    bytes: str
    """Digest."""
    label: str
    split: str


class FileTable:
    """Matches the files of two runs while both are read."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[str, _Facts | None], dict[str, _Facts | None]] = ({}, {})
        """Of each run, the files that the other has not named yet; None: left out."""
        self._matched: set[str] = set()
        self._found: dict[str, list[str]] = {name: [] for name in ("bytes", "label", "split", "left_out_a", "left_out_b")}

    def take_a(self, line: Line, record: Samples | Skip, run: RunInfo) -> None:
        """Take a record of run a. Raises RecordsError for a label that is no class."""
        self._take(0, line, record, run)

    def take_b(self, line: Line, record: Samples | Skip, run: RunInfo) -> None:
        """Take a record of run b. Raises RecordsError for a label that is no class."""
        self._take(1, line, record, run)

    def _take(self, side: int, line: Line, record: Samples | Skip, run: RunInfo) -> None:
        if isinstance(record, Skip):
            self._match(side, record.file, None)
            return
        for file, digest, label, split in zip(record.files, record.digests, record.labels, record.splits, strict=True):
            if not 0 <= label < len(run.classes):
                raise line.error(f"a samples record with a label that is none of the {len(run.classes):,} classes")
            self._match(side, file, _Facts(digest, run.classes[label], split))

    def _match(self, side: int, file: str, facts: _Facts | None) -> None:
        if file in self._matched:
            return
        waiting = self._waiting[1 - side]
        if file not in waiting:
            self._waiting[side][file] = facts
            return
        others = waiting.pop(file)
        self._matched.add(file)
        if facts and others:
            for name, mine, theirs in zip(_Facts._fields, facts, others, strict=True):
                if mine != theirs:
                    self._found[name].append(file)
        elif facts or others:
            self._found["left_out_a" if (side == 0) == (facts is None) else "left_out_b"].append(file)

    def changes(self) -> FileChanges:
        """What has been found, when both runs have been read."""
        found = {name: Few.of(files, MAX_NAMES) for name, files in self._found.items()}
        only_a, only_b = (Few.of(waiting, MAX_NAMES) for waiting in self._waiting)
        return FileChanges(only_a=only_a, only_b=only_b, **found)
