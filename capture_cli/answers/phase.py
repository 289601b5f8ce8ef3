"""One phase of one epoch, looked at closely: classes, confused pairs, the worst samples, from its captured batches.

    captured = CapturedPhase("val", 3, classes=run.classes, keep=8)
    captured.take(line)                     # each of its batches
    captured.read()
    captured.score(confusions=10, digest=digest_of)

What it promises: batches wait unread until `read` asks for them, since only the last epoch of a run is looked at. When they
become many, their labels, predictions and losses are kept, and nothing else but the worst samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.answers.visits import Visit, checked_batch, visit
from capture_cli.errors import RecordsError
from capture_cli.reader import batch_beginning
from capture_cli.records import Epoch

if TYPE_CHECKING:
    from capture_cli.reader import Line

_WAITING_BYTES = 16 << 20

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
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


class CapturedPhase:
    """The batches of one phase of one epoch, as far as needed."""

    def __init__(self, phase: str, epoch: int, *, classes: Sequence[str], keep: int) -> None:
        """Of the worst samples `keep` are kept."""
        self.phase = phase
        self.epoch = epoch
        self.beginning = batch_beginning(phase, epoch)
        """How its batches begin."""
        self.sums: Epoch | None = None
        """Its epoch record, when it has been written."""
        self._classes = classes
        self._keep = keep
        self._waiting: list[Line] = []
        self._bytes = 0
        self._columns: list[tuple[Ints, Ints, Floats]] = []
        """Labels, predictions and losses of the batches that were read."""
        self._worst: list[tuple[float, Visit]] = []
        """The highest loss first."""

    def take(self, line: Line) -> None:
        """Add one batch. Raises RecordsError where one of those that waited makes no sense."""
        self._waiting.append(line)
        self._bytes += line.size
        if self._bytes > _WAITING_BYTES:
            self.read()

    def read(self) -> None:
        """Read the batches that wait. Raises RecordsError for the first that makes no sense; those before it count."""
        lines, self._waiting, self._bytes = self._waiting, [], 0
        try:
            self._read(lines)
        except RecordsError:
            for line in lines:
                self._read([line])

    def _read(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        sizes, losses = _numbers(lines, "losses", np.float32)
        label_sizes, labels = _numbers(lines, "labels", np.int64)
        pred_sizes, preds = _numbers(lines, "preds", np.int64)
        known = all(one.min(initial=0) >= 0 and one.max(initial=0) < len(self._classes) for one in (labels, preds))
        if not sizes == label_sizes == pred_sizes or not known:
            raise lines[0].error("a batch record whose labels, preds and losses do not fit")
        self._keep_worst(lines, sizes, losses)
        self._columns.append((labels, preds, losses))

    def _keep_worst(self, lines: Sequence[Line], sizes: Sequence[int], losses: Floats) -> None:
        """Only the batches of samples that are among the worst so far, which are few, are read whole."""
        rank = np.where(np.isnan(losses), np.float32(np.inf), losses)  # what is not a number is worse than any
        least = np.partition(rank, -self._keep)[-self._keep] if 0 < self._keep < len(rank) else -np.inf
        candidates = np.flatnonzero(rank >= least)
        chosen = candidates[np.argsort(-rank[candidates], kind="stable")][: self._keep]
        if self._worst and len(self._worst) == self._keep:
            chosen = chosen[rank[chosen] > self._worst[-1][0]]
        starts = np.cumsum([0, *sizes])
        numbers = (np.searchsorted(starts, chosen, "right") - 1).tolist()
        batches = {number: checked_batch(lines[number], len(self._classes)) for number in sorted(set(numbers))}
        found = [
            (float(rank[place]), visit(batches[number], int(place - starts[number]), self._classes))
            for place, number in zip(chosen, numbers, strict=True)
        ]
        self._worst = sorted([*self._worst, *found], key=lambda one: -one[0])[: self._keep]

    def so_far(self) -> UnderWay:
        """The sums of what was read."""
        *_, losses = self._arrays()
        return UnderWay(phase=self.phase, epoch=self.epoch, n=len(losses), loss=_mean(losses))

    def score(self, confusions: int, digest: Callable[[int], str | None]) -> PhaseScore:
        """Work out what was read. `digest` knows the digest of a sample's file."""
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
            loss=_mean(losses),
            classes=self._class_scores(labels, right, losses),
            confusions=pairs,
            confusions_left_out=left_out,
            worst=tuple(Worst(visit=one, digest=digest(one.id)) for _, one in self._worst),
        )

    def _arrays(self) -> tuple[Ints, Ints, Floats]:
        """Labels, predictions and losses of all samples that were read."""
        columns = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)), *self._columns]
        labels, preds, losses = zip(*columns, strict=True)
        return np.concatenate(labels), np.concatenate(preds), np.concatenate(losses)

    def _class_scores(
        self, labels: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], losses: npt.NDArray[np.float32]
    ) -> tuple[ClassScore, ...]:
        size = len(self._classes)
        counts, correct = np.bincount(labels, minlength=size), np.bincount(labels[right], minlength=size)
        sums = np.bincount(labels, weights=losses, minlength=size)
        columns = zip(self._classes, counts.tolist(), correct.tolist(), sums.tolist(), strict=True)
        return tuple(
            ClassScore(name=name, n=n, correct=k, loss=_finite(loss / n) if n else None) for name, n, k, loss in columns
        )

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


def _numbers(lines: Sequence[Line], name: str, dtype: type[T]) -> tuple[list[int], npt.NDArray[T]]:
    """A column of some batches: its length in each, and all its values in one array; null reads as NaN."""
    try:
        columns = orjson.loads(b"[%b]" % b",".join([line.column(name) for line in lines]))
        sizes = [len(column) for column in columns]
        with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
            array = np.array(list(chain.from_iterable(columns)), dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise lines[0].error(f"a batch record whose {name} are no numbers") from error
    if len(sizes) != len(lines) or array.ndim != 1:
        raise lines[0].error(f"a batch record whose {name} are no numbers")
    return sizes, array


def _mean(losses: Floats) -> float | None:
    """None without losses, or where one is not finite."""
    return _finite(float(losses.sum(dtype=np.float64)) / len(losses)) if len(losses) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
