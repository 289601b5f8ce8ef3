"""Several files of one run, as each process of a distributed training writes one, merged by epoch and phase.

Each file has a chain of its own and is verified by itself. The visits of a phase come file by file, then one epoch record with
the sums of all. Run records, samples and skipped files that several files name are handed out once.

The trainings of a run with folds are read likewise, as a run in which every sample is held out once: its run record counts all
samples as `val`, and so do its samples. Its epoch records are FoldedEpoch; each block of visits is of one training, which
`visits.info.fold` names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from capture_cli.errors import RecordsError
from capture_cli.records import End, Epoch, RunInfo, Samples, Skip
from capture_cli.records.chain import GENESIS, link
from capture_cli.runs.cursor import Cursor
from capture_cli.runs.file import Block, File
from capture_cli.runs.lines import Ending
from capture_cli.runs.visits import Visits

_COLUMNS = ("ids", "files", "splits", "sizes", "digests", "pixels", "phash")
_STATES = ("sealed", "unsealed", "torn", "damaged")
_STATUSES = ("completed", "interrupted", "failed")
"""The worst last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedEpoch(Epoch):
    """The sums of a phase and epoch over the trainings of a run with folds."""

    folds: Mapping[int, Epoch]
    """Those of each training, by its number."""


def folds_of(info: RunInfo) -> int:
    """Return the number of folds of a whole run; 0 of any other, and of a single training."""
    return info.fold["of"] if info.fold and "number" not in info.fold else 0


def whole(info: RunInfo) -> RunInfo:
    """Make the run record of a run with folds from that of one of its trainings."""
    if info.fold is None:
        return info
    counts = [one for name, one in info.images.items() if name != "listing_digest"]
    return replace(info, fold={"of": info.fold["of"]}, images={"val": sum(counts)} if counts else {})


class _Part:
    """One of the files, and how far it has been handed out."""

    def __init__(self, file: File, cursor: Cursor | None) -> None:
        self.file, self.cursor = file, cursor or Cursor()
        self.stream = file.since(cursor)
        self.next = next(self.stream, None)

    @property
    def block(self) -> Block | None:
        """The next block."""
        return self.next and self.next[0]

    @property
    def runs(self) -> int:
        """Run records that have been handed out."""
        return self.cursor.counts.get("run", 0)

    def will_sum(self, sums: Epoch) -> bool:
        """Return whether an epoch record to be added to this one follows, but not at once."""
        phase, block = (sums.epoch, sums.phase), self.block
        is_next = isinstance(block, Epoch) and (block.epoch, block.phase) == phase
        return self.next is not None and phase in self.cursor.phases and not is_next

    def take(self) -> Block | None:
        """Move past the next block."""
        if self.next is None:
            return None
        block, self.cursor = self.next
        self.next = next(self.stream, None)
        return block


def merged(files: Sequence[File], cursor: Cursor | None, seen: set[int | str]) -> Iterator[tuple[Block | None, Cursor]]:
    """Blocks from `cursor`, and the cursor behind each; with None, files that ended early are not waited for.

    `seen` has the ids of samples and the names of skipped files that were handed out before; new ones are added. Raises
    RecordsError if the files are not of one run.
    """
    phases: dict[str, int] = {}
    with ExitStack() as stack:
        cursors = cursor.files if cursor and cursor.files else [cursor and Cursor()] * len(files)
        parts = [_Part(file, one) for file, one in zip(files, cursors, strict=True)]
        for part in parts:
            stack.callback(part.stream.close)
        while places := [(_place(part, parts, phases), part) for part in parts if part.next]:
            first = min(place for place, _ in places)
            here = [part for place, part in places if place == first]
            if not isinstance(here[0].block, Epoch | End):
                block = _unseen(here[0], parts, seen)
            elif cursor and any(part.next is None and part.file.ending.state in ("unsealed", "torn") for part in parts):
                return  # it depends on lines that are still to be written
            else:
                block = _combined([part.take() for part in here], [part.file.info for part in here], len(parts))
            yield block, Cursor(files=tuple(part.cursor for part in parts))


def _place(part: _Part, parts: Sequence[_Part], phases: dict[str, int]) -> tuple[int, ...]:
    """When the next block of a file comes: the lowest place is first. Phases come in the order of their appearance."""
    block = part.block
    if isinstance(block, Visits | Epoch):
        phase = block.epoch, phases.setdefault(block.phase, len(phases))
        is_early = isinstance(block, Epoch) and any(one.will_sum(block) for one in parts)
        return (2 if is_early else 1, *phase, isinstance(block, Epoch))
    if isinstance(block, RunInfo) and part.runs:  # after the end of the run, or of what ran in another environment
        return (3,)
    return (4,) if isinstance(block, End) else (0,)


def _unseen(part: _Part, parts: Sequence[_Part], seen: set[int | str]) -> Block | None:
    """Take the next block of a file; None if another file has had it, of samples those that none has had."""
    runs = max(one.runs for one in parts)
    block = part.take()
    if isinstance(block, RunInfo):
        first = next(one.file for one in parts if one.runs)
        if (first.info.task, list(first.info.classes)) != (block.task, list(block.classes)):
            message = f"{part.file.name} and {first.name} are not of one run: their classes or tasks differ"
            raise RecordsError(message, "read them one by one")
        if not _are_folds_of_one(first.info, block, [one.file.info for one in parts if one.runs and one is not part]):
            message = f"{part.file.name} is no other fold of the run in {first.name}"
            raise RecordsError(message, "read them one by one")
        return whole(block) if part.runs > runs else None
    if isinstance(block, Skip):
        is_new = block.file not in seen
        seen.add(block.file)
        return block if is_new else None
    if isinstance(block, Samples):
        new = [i for i, one in enumerate(block.ids) if one not in seen]
        seen.update(block.ids)
        if part.file.info.fold:
            block = replace(block, splits=["val"] * len(block.ids))
        if len(new) < len(block.ids):
            columns: dict[str, Any] = {
                name: [column[i] for i in new] for name in _COLUMNS if (column := getattr(block, name)) is not None
            }
            columns["labels"] = np.array(block.labels)[new]
            return replace(block, **columns) if new else None
    return block


def _are_folds_of_one(first: RunInfo, info: RunInfo, others: Sequence[RunInfo]) -> bool:
    """Return False if `info` is of a run with other folds than `first`, or of a fold that is among the `others`."""
    if first.fold is None or info.fold is None:
        return first.fold is info.fold
    return first.fold["of"] == info.fold["of"] and all(one.fold != info.fold for one in others)


def _combined(records: Sequence[Block | None], infos: Sequence[RunInfo], files: int) -> Block | None:
    """The epoch or end record for the records of several files; None for the end of some of the files."""
    epochs = [one for one in records if isinstance(one, Epoch)]
    ends = [one for one in records if isinstance(one, End)]
    if len(ends) == max(files, infos[0].fold["of"] if infos[0].fold else 0):
        counts = sum((Counter(one.counts) for one in ends), Counter[str]())
        return End(status=max((one.status for one in ends), key=_STATUSES.index), counts=dict(counts))
    if not epochs:
        return None
    folds = {one.fold["number"]: epoch for one, epoch in zip(infos, epochs, strict=False) if one.fold}
    return folded(folds) if folds else summed(epochs)


def folded(epochs: Mapping[int, Epoch]) -> FoldedEpoch:
    """Sum the epoch records of a phase over the trainings of a run with folds."""
    both = summed(list(epochs.values()))
    return FoldedEpoch(**{one.name: getattr(both, one.name) for one in fields(Epoch)}, folds=epochs)


def summed(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch record for those of several files about the same phase and epoch."""
    n = sum(one.n for one in epochs)
    right = [(one.accuracy, one.n) for one in epochs if one.accuracy is not None]
    counts = _added([one.class_counts for one in epochs if one.n])
    return replace(
        epochs[0],
        n=n,
        loss=sum(one.loss * one.n for one in epochs if one.n) / n if n else nan,
        accuracy=_accuracy(counts)
        if counts and right
        else sum(share * size for share, size in right) / n
        if right and n
        else None,
        captured=sum(one.captured for one in epochs),
        not_captured=sum(one.not_captured for one in epochs),
        class_counts=counts,
        padded=sum(one.padded or 0 for one in epochs) or None,
        number_means=_means([one.number_means for one in epochs if one.number_means]) or None,
    )


def _accuracy(counts: Mapping[str, Sequence[int]]) -> float | None:
    labelled = sum(counts["labelled"])
    return sum(counts["correct"]) / labelled if labelled else None


def _means(parts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The means of named numbers over all files; None where one of them is not finite."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        pairs = [(part[name]["mean"], part[name]["n"]) for part in parts if name in part]
        n = sum(size for _, size in pairs)
        known = n > 0 and all(mean is not None for mean, _ in pairs)
        found[name] = {"mean": sum(mean * size for mean, size in pairs) / n if known else None, "n": n}
    return found


def _added(counts: Sequence[Mapping[str, Sequence[int]] | None]) -> dict[str, list[int]] | None:
    """The counts by class of several files together; None if one of them has none, or of other classes."""
    first = counts[0] if counts else None
    known = [one for one in counts if one is not None]
    if first is None or len(known) < len(counts) or len({len(one["labelled"]) for one in known}) > 1:
        return None
    return {name: [sum(column) for column in zip(*(one[name] for one in known), strict=True)] for name in first}


def combined_ending(files: Sequence[File], folds: int = 0) -> Ending:
    """The worst of how the files ended; its chain is over the chains of all, its reason names the file.

    A run with `folds` is not sealed before all of them have begun.
    """
    endings = [file.ending for file in files]
    worst = max(range(len(files)), key=lambda i: _STATES.index(endings[i].state))
    statuses = [one.status for one in endings]
    chain = GENESIS
    for one in endings:
        chain = link(chain, bytes.fromhex(one.chain))
    missing = max(0, folds - len(files))
    reason = endings[worst].reason
    name = "/".join(Path(files[worst].name).parts[-2:] if folds else Path(files[worst].name).parts[-1:])
    if missing and endings[worst].state == "sealed":
        endings[worst], statuses = replace(endings[worst], state="unsealed"), [None]
    return replace(
        endings[worst],
        missing_folds=missing,
        status=None if None in statuses else max((one for one in statuses if one), key=_STATUSES.index),
        lines=sum(one.lines for one in endings),
        bytes=sum(one.bytes for one in endings),
        chain=chain.hex(),
        counts=dict(sum((Counter(one.counts) for one in endings), Counter[str]())),
        reason=f"{name}: {reason}" if reason else "",
    )
