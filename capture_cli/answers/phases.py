"""The latest visits of each phase, kept as unread bytes until an answer needs them.

    latest = LatestPhases(lambda phase, epoch, info: Scores(phase, epoch, info, worst=8))
    latest.update(block)                # every block of a pass
    phase = latest.chosen()             # the phase that says most about the run, or None
    phase.read()                        # feeds its visits to its fold
    phase.fold.result()

Of a run with folds it is the latest visits of each training, together: they may end at different epochs.

Reading a batch costs far more than passing it by, and only the last epoch of a phase is looked at. When more than 16 MB of one
phase wait, its fold takes them and the bytes are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Generic, Protocol, Self, TypeVar

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import Block, Fold, FoldedEpoch, Visits

PREFERRED = ("val", "test", "train")
"""Phases that say most about a run, in this order; others follow."""
MAX_PHASES = 16
WAITING_BYTES = 16 << 20


class PhaseFold(Fold, Protocol):
    """An answer about one phase of one epoch, which takes over what another one of the same phase has found."""

    def absorb(self, other: Self) -> None:
        """Take over what `other` has found in the same phase of another training."""


F = TypeVar("F", bound=PhaseFold)


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


class JoinedVisits(PhaseVisits[F]):
    """The visits of one phase in several trainings of a run with folds. Read once, after the pass."""

    def __init__(self, parts: list[PhaseVisits[F]]) -> None:
        super().__init__(parts[0].phase, max(one.epoch for one in parts), parts[0].fold)
        self.is_captured = any(one.is_captured for one in parts)
        self._parts = parts

    def read(self) -> None:
        """Feed each fold what waits, and let the first absorb the others."""
        parts, self._parts = self._parts, []
        for part in parts:
            part.read()
        for part in parts[1:]:
            self.fold.absorb(part.fold)


class LatestPhases(Generic[F]):
    """The last complete epoch of each phase, and the one under way. A fold."""

    def __init__(
        self,
        new_fold: Callable[[str, int, RunInfo], F],
        *,
        epoch: int | None = None,
        keep: Callable[[Epoch], bool] | None = None,
    ) -> None:
        """`new_fold` makes the fold for a phase and epoch. A fold must use all of a block or, if it raises, nothing.

        With `epoch` it is that epoch of each phase, not the last one; with `keep` the last one whose sums `keep` accepts.
        """
        self._complete: dict[str, PhaseVisits[F]] = {}
        self._under_way: dict[str, PhaseVisits[F]] = {}
        self._trainings: dict[int, LatestPhases[F]] = {}
        """The phases of each training of a run with folds, by its number."""
        self._new_fold = new_fold
        self._info: RunInfo | None = None
        self._only = epoch
        self._keep = keep
        self._others: set[int] = set()
        """Epochs that were passed over."""

    @cached_property
    def complete(self) -> dict[str, PhaseVisits[F]]:
        """The last complete epoch of each phase. To be asked for after the pass."""
        return {**self._complete, **_joined([one.complete for one in self._trainings.values()])}

    @cached_property
    def under_way(self) -> dict[str, PhaseVisits[F]]:
        """The phases that have begun and not ended. To be asked for after the pass."""
        return {**self._under_way, **_joined([one.under_way for one in self._trainings.values()])}

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError for more than MAX_PHASES phases."""
        if isinstance(block, RunInfo):
            self._info = block
        elif isinstance(block, Visits | Epoch) and self._only not in (None, block.epoch):
            self._others.add(block.epoch)
        elif isinstance(block, Visits):
            if number := _training(block.info):
                self._of_training(number, block.info)._take(block)
            else:
                self._take(block)
        elif isinstance(block, FoldedEpoch) and self._info:
            for number, sums in block.folds.items():
                self._of_training(number, self._info)._finish(sums, self._info)
        elif isinstance(block, Epoch) and self._info:
            number = _training(self._info)
            (self._of_training(number, self._info) if number else self)._finish(block, self._info)

    def _of_training(self, number: int, info: RunInfo) -> LatestPhases[F]:
        if number not in self._trainings:
            self._trainings[number] = LatestPhases(self._new_fold, keep=self._keep)
            self._trainings[number]._info = info
        return self._trainings[number]

    def _take(self, block: Visits) -> None:
        if len(self._under_way.keys() | self._complete.keys() | {block.phase}) > MAX_PHASES:
            raise block.error(f"more than {MAX_PHASES} different phases")
        self._phase(block.phase, block.epoch, block.info).add(block)

    def _phase(self, phase: str, epoch: int, info: RunInfo) -> PhaseVisits[F]:
        found = self._under_way.get(phase)
        if found is None or found.epoch != epoch:
            found = self._under_way[phase] = PhaseVisits(phase, epoch, self._new_fold(phase, epoch, info))
        return found

    def _finish(self, sums: Epoch, info: RunInfo) -> None:
        """Close a phase. If nothing of it was captured, an earlier epoch that was captured stays the latest."""
        found = self._phase(sums.phase, sums.epoch, info)
        del self._under_way[sums.phase]
        found.fold.update(sums)
        earlier = self._complete.get(sums.phase)
        if self._keep:
            if self._keep(sums):
                self._complete[sums.phase] = found
        elif found.is_captured or not (earlier and earlier.is_captured):
            self._complete[sums.phase] = found

    def missing(self, run: str) -> UsageError | None:
        """The error to raise after the pass if the run, called `run`, does not have the epoch that was asked for."""
        if self._only is None or self.complete or self.under_way:
            return None
        first, last = min(self._others, default=0), max(self._others, default=0)
        has = f"it has epochs {first} to {last}" if first < last else f"it has epoch {last}" if self._others else "it has none"
        return UsageError(f"{run} has no epoch {self._only}", has)

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


def _training(info: RunInfo) -> int:
    """The number of the training of a run with folds that a run record is of; 0 for any other."""
    return info.fold.get("number", 0) if info.fold else 0


def _joined(of_trainings: Iterable[dict[str, PhaseVisits[F]]]) -> dict[str, PhaseVisits[F]]:
    """The phases of all trainings, each joined."""
    parts: dict[str, list[PhaseVisits[F]]] = {}
    for phases in of_trainings:
        for phase, visits in phases.items():
            parts.setdefault(phase, []).append(visits)
    return {phase: JoinedVisits(ones) if len(ones) > 1 else ones[0] for phase, ones in parts.items()}


def preferred(phases: Iterable[str]) -> list[str]:
    """Sort phases by how much they say about a run."""
    known = set(phases)
    return [*(phase for phase in PREFERRED if phase in known), *(phase for phase in phases if phase not in PREFERRED)]
