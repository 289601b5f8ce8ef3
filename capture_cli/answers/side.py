"""One side of a comparison: the lines of a run, and on the way what is compared at the end.

side = Side(run, 0, files, file_numbers, None)
line = side.next()                  # the next line; None at the end, or if what follows cannot be trusted
side.drain()
side.phases.common(other.phases)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from capture_cli.answers.best import best_epoch, with_all_folds
from capture_cli.answers.files import FileTable
from capture_cli.answers.losses import SampleLosses
from capture_cli.answers.phases import LatestPhases
from capture_cli.answers.predictions import Predictions
from capture_cli.errors import RecordsError
from capture_cli.records import Epoch, RunInfo, Samples, Skip
from capture_cli.runs import Block, Line, Run, summed
from capture_cli.runs.visits import predicts_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPosition:
    """The position of a record in its run; `phase`, `epoch` and `batch` are None if its kind has none."""

    seq: int
    kind: str
    phase: str | None
    epoch: int | None
    batch: int | None


class Side:
    """Hands out the lines of one run, feeding on the way what is compared at the end."""

    def __init__(self, run: Run, side: int, files: FileTable, file_numbers: dict[str, int], epoch: int | None) -> None:
        """`side` is 0 for run a, 1 for run b; predictions are those of the last epoch, or of `epoch`."""
        self.info: RunInfo | None = None
        """The last run record."""
        self.phases = LatestPhases(partial(Predictions, file_numbers=file_numbers), epoch=epoch)
        self.losses = LatestPhases(partial(SampleLosses, file_numbers=file_numbers), epoch=epoch)
        """Phases of a run without predicted classes, as `phases` has those of one with."""
        self.epochs: dict[tuple[int, str], Epoch] = {}
        """The totals of each phase, of a run with folds those of all trainings together."""
        self._folded: dict[tuple[int, str], list[Epoch]] = {}
        self.samples: list[Samples] = []
        self.error: RecordsError | None = None
        """The first thing wrong with the records."""
        self._run = run
        self._side = side
        self._files = files
        self._lines = self._fed_lines()

    @property
    def task(self) -> str | None:
        """The task of the run."""
        return self.info.task if self.info else None

    def next(self) -> Line | None:
        """The next line; None at the end, or if what follows cannot be trusted."""
        return next(self._lines, None)

    def _fed_lines(self) -> Iterator[Line]:
        try:
            for block, lines in self._run.blocks_and_lines():
                self._update(block)
                yield from lines
        except RecordsError as error:
            self.error = self.error or error

    def _update(self, block: Block | None) -> None:
        if isinstance(block, RunInfo):
            self.info = block
        elif isinstance(block, Samples):
            self.samples.append(block)
        elif isinstance(block, Epoch):
            key = block.epoch, block.phase
            self.epochs[key] = block
            if self.info and self.info.fold:
                self._folded.setdefault(key, []).append(block)
                self.epochs[key] = summed(self._folded[key])
        if isinstance(block, Samples | Skip) and self.info:
            self._files.update(self._side, block, self.info)
        elif block is not None and self.info:
            (self.phases if predicts_classes(self.info.task) else self.losses).update(block)

    def drain(self) -> None:
        """Go to the end."""
        while self.next():
            pass

    def demand_epoch(self) -> None:
        """Raise UsageError if the run does not have the epoch that was asked for."""
        missing = self.latest.missing(self._run.name)
        if missing and not self.is_broken:
            raise missing

    @property
    def latest(self) -> LatestPhases[Predictions] | LatestPhases[SampleLosses]:
        """The phases that are compared."""
        return self.phases if predicts_classes(self.task) else self.losses

    @property
    def ended(self) -> tuple[str, ...]:
        """The phases of which an epoch has ended."""
        return tuple(dict.fromkeys(phase for _, phase in self.epochs))

    @property
    def best(self) -> int | None:
        """The best epoch of the run; None without validation."""
        found = self.info and best_epoch(with_all_folds(list(self.epochs.values())), self.info.config, self.task)
        return found.epoch if found else None

    def position(self, line: Line) -> RecordPosition | None:
        """The position of a record; None, with the error kept, if its fields do not fit together."""
        try:
            record = line.record()
        except RecordsError as error:
            self.error = self.error or self._run.located(error)
            return None
        within = {name: getattr(record, name, None) for name in ("phase", "epoch", "batch")}
        return RecordPosition(seq=line.seq, kind=line.kind, **within)

    @property
    def is_broken(self) -> bool:
        """True if the run ended in damage, or has no records at all."""
        return self.info is None or self.error is not None
