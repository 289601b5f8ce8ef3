"""The latest visits of each phase, kept as unread bytes until an answer needs them.

    latest = LatestPhases(lambda phase, epoch, info: Scores(phase, epoch, info, worst=8))
    latest.update(block)                # every block of a pass
    phase = latest.chosen()             # the phase that says most about the run, or None
    phase.read()                        # feeds its visits to its fold
    phase.fold.result()

Reading a batch costs far more than passing it by, and only the last epoch of a phase is looked at. When more than 16 MB of one
phase wait, its fold takes them and the bytes are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from capture_cli.errors import RecordsError
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import Block, Fold, Visits

PREFERRED = ("val", "test", "train")
"""Phases that say most about a run, in this order; others follow."""
MAX_PHASES = 16
WAITING_BYTES = 16 << 20

F = TypeVar("F", bound=Fold)


class PhaseVisits(Generic[F]):
    """The visits of one phase of one epoch, on their way into a fold, which also gets the epoch's sums."""

    def __init__(self, phase: str, epoch: int, fold: F) -> None:
        self.phase = phase
        self.epoch = epoch
        self.fold = fold
        self.is_captured = False
        """True if any of its batches was captured."""
        self._waiting: list[Visits] = []
        self._waiting_bytes = 0

    def add(self, visits: Visits) -> None:
        """Take the next block. Raises RecordsError if too much waited and a batch of it makes no sense."""
        self.is_captured = True
        self._waiting.append(visits)
        self._waiting_bytes += visits.size_bytes
        if self._waiting_bytes > WAITING_BYTES:
            self.read()

    def read(self) -> None:
        """Feed the fold what waits. Raises RecordsError for the first batch that makes no sense; those before it count."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for visits in waiting:
            try:
                self.fold.update(visits)
            except RecordsError:
                for number in range(len(visits.lines)):
                    self.fold.update(visits.batch(number))


class LatestPhases(Generic[F]):
    """The last complete epoch of each phase, and the one under way. A fold."""

    def __init__(self, new_fold: Callable[[str, int, RunInfo], F]) -> None:
        """`new_fold` makes the fold for a phase and epoch. A fold must use all of a block or, if it raises, nothing."""
        self.complete: dict[str, PhaseVisits[F]] = {}
        self.under_way: dict[str, PhaseVisits[F]] = {}
        self._new_fold = new_fold
        self._info: RunInfo | None = None

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError for more than MAX_PHASES phases."""
        if isinstance(block, RunInfo):
            self._info = block
        elif isinstance(block, Visits):
            if len(self.under_way.keys() | self.complete.keys() | {block.phase}) > MAX_PHASES:
                raise block.error(f"more than {MAX_PHASES} different phases")
            self._phase(block.phase, block.epoch, block.info).add(block)
        elif isinstance(block, Epoch) and self._info:
            self._finish(block, self._info)

    def _phase(self, phase: str, epoch: int, info: RunInfo) -> PhaseVisits[F]:
        found = self.under_way.get(phase)
        if found is None or found.epoch != epoch:
            found = self.under_way[phase] = PhaseVisits(phase, epoch, self._new_fold(phase, epoch, info))
        return found

    def _finish(self, sums: Epoch, info: RunInfo) -> None:
        """Close a phase. If nothing of it was captured, an earlier epoch that was captured stays the latest."""
        found = self._phase(sums.phase, sums.epoch, info)
        del self.under_way[sums.phase]
        found.fold.update(sums)
        earlier = self.complete.get(sums.phase)
        if found.is_captured or not (earlier and earlier.is_captured):
            self.complete[sums.phase] = found

    def chosen(self) -> PhaseVisits[F] | None:
        """The phase that says most: the last complete one of `val`, else `test`, `train`, others; else one under way."""
        for phases in (self.complete, self.under_way):
            for phase in preferred(phases):
                return phases[phase]
        return None

    def common(self, other: LatestPhases[F]) -> tuple[PhaseVisits[F], PhaseVisits[F]] | None:
        """The phase that says most among those captured in both runs; phases complete in both come first."""
        for mine, others in ((self.complete, other.complete), (self._latest(), other._latest())):
            for phase in preferred(mine):
                if phase in others and mine[phase].is_captured and others[phase].is_captured:
                    return mine[phase], others[phase]
        return None

    def _latest(self) -> dict[str, PhaseVisits[F]]:
        return self.under_way | self.complete


def preferred(phases: Iterable[str]) -> list[str]:
    """Sort phases by how much they say about a run."""
    known = set(phases)
    return [*(phase for phase in PREFERRED if phase in known), *(phase for phase in phases if phase not in PREFERRED)]
