"""What happened in a run, in one pass: its header, a table of epochs, and the last phase looked at closely.

    with open_run("runs/mine") as run:
        summary = summarise(run, worst=8)

The phase looked at is the last complete one of `val` (or `test`), of `train` where there is none; where none is complete, the
one that is under way.

What it promises: memory grows with the samples and classes of a run, not with its length. Of most batches only the losses are
read; labels and predictions are kept as they stand in the records until it is clear that their phase is the one to look at.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.answers.visits import Visit, checked_batch, visit
from capture_cli.errors import RecordsError
from capture_cli.reader import Ending
from capture_cli.records import Epoch, Run, Samples, Skip

if TYPE_CHECKING:
    from capture_cli.reader import Line, Reading

_PREFERRED = ("val", "test", "train")
_MAX_PHASES = 16
DIGEST_BYTES = 16
"""Of an image file, as samples records have it."""

T = TypeVar("T", np.float32, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """How the samples of one class fared."""

    name: str
    n: int
    correct: int
    loss: float | None
    """Mean, nats; None without samples or where it is not finite."""

    @property
    def accuracy(self) -> float | None:
        """None without samples."""
        return self.correct / self.n if self.n else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often samples of `label` were taken for `pred`."""

    label: str
    pred: str
    count: int
    share: float
    """Of the samples of `label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """One of the visits with the highest losses, and what identifies its image."""

    visit: Visit
    digest: str | None
    """BLAKE2b (16 bytes, hex) of the image file's bytes; None if no samples record names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseScore:
    """One phase of one epoch, from its captured batches."""

    phase: str
    epoch: int
    complete: bool
    """Whether its epoch record has been written."""
    n: int
    """Captured samples."""
    not_captured: int
    correct: int
    loss: float | None
    """Mean over the captured samples, nats; None where it is not finite."""
    classes: tuple[ClassScore, ...]
    """One for each class, in the order of the run."""
    confusions: tuple[Confusion, ...]
    """The most frequent first."""
    confusions_left_out: int
    """Pairs beyond those."""
    worst: tuple[Worst, ...]
    """The highest loss first; losses that are not finite before all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """What is captured of a phase so far."""

    phase: str
    epoch: int
    n: int
    loss: float | None
    """Mean, nats; None where it is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run at a glance."""

    name: str
    run: Run
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


def summarise(reading: Reading, *, worst: int = 8, confusions: int = 10) -> Summary:
    """Go through a run once. Raises RecordsError if not even its first line can be read."""
    state: _State | None = None
    error: RecordsError | None = None
    try:
        for line in reading:
            if state is None:
                state = _State(run=line.run(), worst=worst)
            else:
                state.take(line)
    except RecordsError as found:
        error = reading.located(found)
    error = error or reading.ending.error(reading.name)
    if state is None:
        raise error or RecordsError(f"{reading.name}: no records")
    phase = None
    try:
        phase = state.score(confusions)
    except RecordsError as found:
        error = reading.located(found)
    return Summary(
        name=reading.name,
        run=state.run,
        ending=reading.ending,
        error=error,
        splits=dict(state.splits),
        skips=dict(state.skips.most_common()),
        epochs=tuple(state.epochs),
        under_way=state.under_way(),
        phase=phase,
    )


class _State:
    """What is remembered on the way through a run."""

    def __init__(self, *, run: Run, worst: int) -> None:
        self.run = run
        self.splits: Counter[str] = Counter()
        self.skips: Counter[str] = Counter()
        self.epochs: list[Epoch] = []
        self._keep = worst
        self._ids: list[npt.NDArray[np.int64]] = []
        self._digests: list[bytes] = []
        self._under_way: dict[str, _Captured] = {}
        self._complete: dict[str, _Captured] = {}

    def take(self, line: Line) -> None:
        """Add one line. Raises RecordsError for one that verifies but makes no sense."""
        if line.kind == "batch":
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
            captured = self._under_way[phase] = _Captured(phase, epoch, self.run.classes, self._keep)
            if len(self._under_way) > _MAX_PHASES:
                raise line.error(f"more than {_MAX_PHASES} different phases")
        captured.take(line)

    def _finish(self, sums: Epoch) -> None:
        captured = self._under_way.pop(sums.phase, None)
        if captured is None or captured.epoch != sums.epoch:
            captured = _Captured(sums.phase, sums.epoch, self.run.classes, self._keep)
        captured.sums = sums
        self._complete[sums.phase] = captured

    def under_way(self) -> tuple[UnderWay, ...]:
        """What has begun and not ended."""
        return tuple(captured.so_far() for captured in self._under_way.values())

    def score(self, confusions: int) -> PhaseScore | None:
        """Look closely at the phase that says most."""
        for captured_by_phase in (self._complete, self._under_way):
            for phase in (*_PREFERRED, *captured_by_phase):
                if phase in captured_by_phase:
                    return captured_by_phase[phase].score(confusions, self._digest)
        return None

    def _digest(self, sample: int) -> str | None:
        for ids, digests in zip(self._ids, self._digests, strict=True):
            found = np.flatnonzero(ids == sample)
            if len(found):
                start = DIGEST_BYTES * int(found[0])
                return digests[start : start + DIGEST_BYTES].hex()
        return None


class _Captured:
    """The batches of one phase of one epoch, as far as needed."""

    def __init__(self, phase: str, epoch: int, classes: Sequence[str], keep: int) -> None:
        self.phase = phase
        self.epoch = epoch
        self.sums: Epoch | None = None
        self._classes = classes
        self._keep = keep
        self._columns: list[tuple[Line, npt.NDArray[np.float32]]] = []
        """Labels and predictions of each batch, as a line with these columns alone, and its losses."""
        self._worst: list[tuple[float, int, int, Visit]] = []
        """A heap of (loss, -seq, -index, visit); its first is the one to go next."""

    def take(self, line: Line) -> None:
        """Add one batch."""
        losses = _numbers(line, "losses", np.float32)
        short = b',"labels":%b,"preds":%b' % (line.column("labels"), line.column("preds"))
        self._columns.append((line._replace(data=short), losses))
        if self._keep and len(losses) and (len(self._worst) < self._keep or _rank(losses).max() > self._worst[0][0]):
            self._take_worst(line)

    def _take_worst(self, line: Line) -> None:
        batch = checked_batch(line, len(self._classes))
        for index, loss in enumerate(_rank(batch.losses).tolist()):
            if len(self._worst) < self._keep:
                heapq.heappush(self._worst, (loss, -line.seq, -index, visit(batch, index, self._classes)))
            elif loss > self._worst[0][0]:
                heapq.heapreplace(self._worst, (loss, -line.seq, -index, visit(batch, index, self._classes)))

    def so_far(self) -> UnderWay:
        """The sums of what was captured."""
        n = sum(len(losses) for _, losses in self._columns)
        total = sum(float(losses.sum(dtype=np.float64)) for _, losses in self._columns)
        return UnderWay(phase=self.phase, epoch=self.epoch, n=n, loss=_finite_mean(total, n))

    def score(self, confusions: int, digest: Callable[[int], str | None]) -> PhaseScore:
        """Work out what was captured. `digest` knows the digest of a sample's file."""
        labels, preds, losses = self._arrays()
        right = labels == preds
        pairs, left_out = self._confusions(labels[~right], preds[~right], np.bincount(labels), confusions)
        return PhaseScore(
            phase=self.phase,
            epoch=self.epoch,
            complete=self.sums is not None,
            n=len(labels),
            not_captured=self.sums.not_captured if self.sums else 0,
            correct=int(right.sum()),
            loss=_finite_mean(float(losses.sum(dtype=np.float64)), len(losses)),
            classes=self._class_scores(labels, right, losses),
            confusions=pairs,
            confusions_left_out=left_out,
            worst=tuple(Worst(visit=one, digest=digest(one.id)) for *_, one in sorted(self._worst, reverse=True)),
        )

    def _arrays(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Labels, predictions and losses of all captured samples."""
        parts = [(_numbers(line, "labels", np.int64), _numbers(line, "preds", np.int64)) for line, _ in self._columns]
        for (line, losses), numbers in zip(self._columns, parts, strict=True):
            for column in numbers:
                if len(column) != len(losses) or len(column) == 0 or not 0 <= column.min() <= column.max() < len(self._classes):
                    raise line.error("a batch record whose labels, preds and losses do not fit")
        none = np.zeros(0, np.int64)
        labels, preds = (np.concatenate([none, *column]) for column in (zip(*parts, strict=True) if parts else ((), ())))
        return labels, preds, np.concatenate([none.astype(np.float32), *(losses for _, losses in self._columns)])

    def _class_scores(
        self, labels: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], losses: npt.NDArray[np.float32]
    ) -> tuple[ClassScore, ...]:
        size = len(self._classes)
        counts, correct = np.bincount(labels, minlength=size), np.bincount(labels[right], minlength=size)
        sums = np.bincount(labels, weights=losses, minlength=size)
        columns = zip(self._classes, counts.tolist(), correct.tolist(), sums.tolist(), strict=True)
        return tuple(ClassScore(name=name, n=n, correct=k, loss=_finite_mean(loss, n)) for name, n, k, loss in columns)

    def _confusions(
        self, labels: npt.NDArray[np.int64], preds: npt.NDArray[np.int64], totals: npt.NDArray[np.int64], most: int
    ) -> tuple[tuple[Confusion, ...], int]:
        """The pairs of wrong predictions, the most frequent first, `most` of them, and how many more there are."""
        size = len(self._classes)
        pairs, counts = np.unique(labels * size + preds, return_counts=True)
        chosen = np.argsort(-counts, kind="stable")[:most]
        return tuple(
            Confusion(
                label=self._classes[pair // size],
                pred=self._classes[pair % size],
                count=count,
                share=count / int(totals[pair // size]),
            )
            for pair, count in zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True)
        ), len(pairs) - len(chosen)


def _numbers(line: Line, name: str, dtype: type[T]) -> npt.NDArray[T]:
    """A column of a batch as an array [B]; null reads as NaN."""
    try:
        with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
            array = np.array(orjson.loads(line.column(name)), dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise line.error(f"a batch record whose {name} are no numbers") from error
    return array


def _rank(losses: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Losses to sort by: what is not a number is worse than any."""
    return np.where(np.isnan(losses), np.float32(np.inf), losses)


def _finite_mean(total: float, n: int) -> float | None:
    return total / n if n and math.isfinite(total) else None
