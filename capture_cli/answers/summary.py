"""What happened in a run, in one pass: its header, a table of epochs, and the last phase looked at closely.

    with open_run("runs/mine") as run:
        summary = summarise(run, worst=8)

The phase looked at is the last complete one of `val` (or `test`), of `train` where there is none; where none is complete, the
one that is under way.

What it promises: memory grows with the samples and classes of a run, not with its length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capture_cli.answers.phase import CapturedPhase, PhaseScore, UnderWay
from capture_cli.errors import RecordsError
from capture_cli.records import Epoch, RunInfo, Samples, Skip
from capture_cli.runs import BATCHES, Ending

if TYPE_CHECKING:
    from capture_cli.runs import Line, Run

_PREFERRED = ("val", "test", "train")
_MAX_PHASES = 16
DIGEST_BYTES = 16
"""Of an image file, as samples records have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run at a glance."""

    name: str
    run: RunInfo
    """The last run record, where the run went on after it was completed or interrupted."""
    ending: Ending
    error: RecordsError | None
    """Why what follows a certain line is not in here, if something is wrong with it."""
    splits: Mapping[str, int]
    """Samples by split."""
    skips: Mapping[str, int]
    """Files left out, by reason, the most frequent first."""
    epochs: tuple[Epoch, ...]
    """The sums of every finished phase, in order."""
    under_way: tuple[UnderWay, ...]
    """Phases that have begun and have no sums yet."""
    phase: PhaseScore | None
    """None where no batch was captured."""


def summarise(reading: Run, *, worst: int = 8, confusions: int = 10) -> Summary:
    """Go through a run once. Raises RecordsError if not even its first line can be read."""
    state: _State | None = None
    error: RecordsError | None = None
    try:
        for block in reading.line_blocks():
            if state is None:
                state = _State(run=block.pop(0).run(), worst=worst)
            state.take(block)
    except RecordsError as found:
        error = reading.located(found)
    error = error or reading.ending.error(reading.name)
    if state is None:
        raise error or RecordsError(f"{reading.name}: no records")
    for captured in state.shown():
        try:
            captured.read()
        except RecordsError as found:
            error = error or reading.located(found)
    return Summary(
        name=reading.name,
        run=state.run,
        ending=reading.ending,
        error=error,
        splits=dict(state.splits),
        skips=dict(state.skips.most_common()),
        epochs=tuple(state.epochs),
        under_way=state.under_way(),
        phase=state.score(confusions),
    )


class _State:
    """What is remembered on the way through a run."""

    def __init__(self, *, run: RunInfo, worst: int) -> None:
        self.run = run
        self.splits: Counter[str] = Counter()
        self.skips: Counter[str] = Counter()
        self.epochs: list[Epoch] = []
        self._keep = worst
        self._ids: list[npt.NDArray[np.int64]] = []
        self._digests: list[bytes] = []
        self._under_way: dict[str, CapturedPhase] = {}
        self._complete: dict[str, CapturedPhase] = {}
        self._last: CapturedPhase | None = None
        """Of those under way the one that the last batch was of."""

    def take(self, lines: Sequence[Line]) -> None:
        """Add some lines. Raises RecordsError for one that verifies but makes no sense."""
        for line in lines:
            if self._last and line.is_batch_of(self._last.beginning):  # nearly all are
                self._last.take(line)
            else:
                self._take(line)

    def _take(self, line: Line) -> None:
        if line.kind in BATCHES:
            self._batch(line)
        elif line.kind == "run":
            self.run = line.run(self.run)
        elif line.kind in ("samples", "skip", "epoch"):
            record = line.record()
            if isinstance(record, Samples):
                self._samples(record, line)
            elif isinstance(record, Skip):
                self.skips[record.reason] += 1
            elif isinstance(record, Epoch):
                self.epochs.append(record)
                self._finish(record)

    def _samples(self, record: Samples, line: Line) -> None:
        try:
            digests = bytes.fromhex("".join(record.digests))
        except ValueError:
            digests = b""
        if len(digests) != DIGEST_BYTES * len(record.ids):
            raise line.error("a samples record with digests that are none")
        self.splits.update(record.splits)
        self._ids.append(np.array(record.ids, np.int64))
        self._digests.append(digests)

    def _batch(self, line: Line) -> None:
        phase, epoch = line.phase_and_epoch()
        captured = self._under_way.get(phase)
        if captured is None or captured.epoch != epoch:
            captured = self._under_way[phase] = CapturedPhase(phase, epoch, self.run, keep=self._keep)
            if len(self._under_way) > _MAX_PHASES:
                raise line.error(f"more than {_MAX_PHASES} different phases")
        captured.take(line)
        self._last = captured

    def _finish(self, sums: Epoch) -> None:
        self._last = None
        captured = self._under_way.pop(sums.phase, None)
        if captured is None or captured.epoch != sums.epoch:
            captured = CapturedPhase(sums.phase, sums.epoch, self.run, keep=self._keep)
        captured.sums = sums
        self._complete[sums.phase] = captured

    def shown(self) -> Iterator[CapturedPhase]:
        """What the summary says anything of but the sums, to be read first."""
        yield from self._under_way.values()
        yield from filter(None, [self._chosen()])

    def under_way(self) -> tuple[UnderWay, ...]:
        """What has begun and not ended."""
        return tuple(captured.so_far() for captured in self._under_way.values())

    def score(self, confusions: int) -> PhaseScore | None:
        """Look closely at the phase that says most."""
        chosen = self._chosen()
        return chosen.score(confusions, self._digest) if chosen else None

    def _chosen(self) -> CapturedPhase | None:
        for captured_by_phase in (self._complete, self._under_way):
            for phase in (*_PREFERRED, *captured_by_phase):
                if phase in captured_by_phase:
                    return captured_by_phase[phase]
        return None

    def _digest(self, sample: int | str) -> str | None:
        if isinstance(sample, str):  # samples records have numbers
            return None
        for ids, digests in zip(self._ids, self._digests, strict=True):
            found = np.flatnonzero(ids == sample)
            if len(found):
                start = DIGEST_BYTES * int(found[0])
                return digests[start : start + DIGEST_BYTES].hex()
        return None
