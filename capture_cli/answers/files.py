"""Differences between the files of two runs: files that only one of them has, and other bytes, labels or splits.

    table = FileTable()
    table.update(0, block, info)        # Samples and Skip of run a, in any order; 1 for run b
    table.match_moved(samples_of_a, samples_of_b)
    table.changes()

A file waits until the other run has named it too. What a run says about it after that is ignored. In the end, files that only
one of the runs names are matched by their bytes: a file that was moved, or seen from another folder, is the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Self, TypeVar

from capture_cli.records import NO_LABEL, RunInfo, Samples, Skip

MAX_NAMES = 5
"""Files listed for each kind of difference."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FirstOf(Generic[T]):
    """A count, and the first of the things counted."""

    count: int
    first: tuple[T, ...]

    @property
    def more(self) -> int:
        """The number of things beyond the first."""
        return self.count - len(self.first)

    @classmethod
    def of(cls, items: Iterable[T], limit: int) -> Self:
        """Count `items` and keep the first `limit`."""
        held = list(items)
        return cls(len(held), tuple(held[:limit]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedFile:
    """One file under two names."""

    file_a: str
    file_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanges:
    """Files that are not the same in both runs, by kind of difference; a file may be in several."""

    only_a: FirstOf[str]
    """Named by run a alone."""
    only_b: FirstOf[str]
    bytes: FirstOf[str]
    label: FirstOf[str]
    split: FirstOf[str]
    skipped_a: FirstOf[str]
    """Skipped in run a, a sample in run b."""
    skipped_b: FirstOf[str]
    moved: FirstOf[MovedFile]
    """The same bytes under another name, in only one file of each run."""


class _Facts(NamedTuple):
    bytes: str
    """Digest."""
    label: str
    split: str


class FileTable:
    """Matches the files of two runs while both are read."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[str, _Facts | None], dict[str, _Facts | None]] = ({}, {})
        """For each run, the files that the other has not named yet; None: skipped."""
        self._matched: set[str] = set()
        self._found: dict[str, list[str]] = {name: [] for name in (*_Facts._fields, "skipped_a", "skipped_b")}
        self.moved: dict[str, str] = {}
        """Name in run b -> name in run a, of files that were matched by their bytes."""

    def update(self, side: int, block: Samples | Skip, info: RunInfo) -> None:
        """Take a block of run a (`side` 0) or b (1)."""
        if isinstance(block, Skip):
            self._match(side, block.file, None)
            return
        for file, digest, label, split in zip(block.files, block.digests, block.labels, block.splits, strict=True):
            self._match(side, file, _Facts(digest, "" if label == NO_LABEL else info.classes[label], split))

    def _match(self, side: int, file: str, facts: _Facts | None) -> None:
        if file in self._matched:
            return
        if file not in self._waiting[1 - side]:
            self._waiting[side][file] = facts
            return
        others = self._waiting[1 - side].pop(file)
        self._matched.add(file)
        if facts and others:
            self._compare(file, facts, others)
        elif facts or others:
            self._found["skipped_a" if (side == 0) == (facts is None) else "skipped_b"].append(file)

    def _compare(self, file: str, facts: _Facts, others: _Facts) -> None:
        for name, mine, theirs in zip(_Facts._fields, facts, others, strict=True):
            if mine != theirs:
                self._found[name].append(file)

    def match_moved(self, *samples: Sequence[Samples]) -> None:
        """Match files that still wait by their bytes, given all samples of each run.

        A digest that several files of a run have tells nothing.
        """
        waiting = [{facts.bytes: file for file, facts in files.items() if facts} for files in self._waiting]
        common = waiting[0].keys() & waiting[1].keys()
        for blocks in samples if common else ():
            names: dict[str, set[str]] = {}
            for block in blocks:
                for file, digest in zip(block.files, block.digests, strict=True):
                    if digest in common:
                        names.setdefault(digest, set()).add(file)
            common = {digest for digest in common if len(names.get(digest, ())) == 1}
        for digest, file in waiting[0].items():
            if digest in common:
                other = waiting[1][digest]
                mine, theirs = self._waiting[0].pop(file), self._waiting[1].pop(other)
                self.moved[other] = file
                if mine and theirs:
                    self._compare(file, mine, theirs)

    def changes(self) -> FileChanges:
        """The differences found, once both runs have been read."""
        found = {name: FirstOf.of(files, MAX_NAMES) for name, files in self._found.items()}
        only_a, only_b = (FirstOf.of(waiting, MAX_NAMES) for waiting in self._waiting)
        moved = FirstOf.of((MovedFile(file_a=a, file_b=b) for b, a in self.moved.items()), MAX_NAMES)
        return FileChanges(only_a=only_a, only_b=only_b, moved=moved, **found)
