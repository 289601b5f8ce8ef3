"""What is kept of many batches of one phase: their losses, and what scores are worked out from, read from a few columns.

part = of_classes(lines, run)           # or of_numbers: as the run's task has it
part.sizes, part.losses                 # samples of each line, losses of all
class_scores(parts, run); confusions(parts, run, most=10); output_scores(parts, run)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.answers.visits import checked, right
from capture_cli.records import Numbers

if TYPE_CHECKING:
    from capture_cli.records import RunInfo
    from capture_cli.runs import Line

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
class OutputScore:
    """How one output of a multi-label or regression task fared. None: where it cannot be known, or is not finite."""

    name: str
    target: float | None
    """Mean of the targets: of a multi-label task the share of samples that have it."""
    output: float | None
    """Mean of the outputs."""
    error: float | None
    """Mean of |output - target|."""
    rms_error: float | None
    """Root of the mean of (output - target) ** 2."""
    accuracy: float | None
    """Share of outputs on their target's side of 0.5, as are the two below; None where the task is `regression`."""
    precision: float | None
    """Of the outputs above 0.5, the share whose target is."""
    recall: float | None
    """Of the targets above 0.5, the share whose output is."""


class Part(NamedTuple):
    """Some batches of one phase."""

    sizes: list[int]
    """Samples of each."""
    losses: Floats
    labels: Ints
    """As `preds`, empty where targets are numbers."""
    preds: Ints
    sums: npt.NDArray[np.float64] | None
    """[8, K] over the samples, where targets are numbers: see `of_numbers`."""

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[N] whether the label was predicted, by an answer that is a number."""
        same: npt.NDArray[np.bool_] = self.labels == self.preds
        return same & np.isfinite(self.losses)


def of_classes(lines: Sequence[Line], run: RunInfo) -> Part:
    """Read labels, predictions and losses. Raises RecordsError where they do not fit together."""
    sizes, losses = _numbers(lines, "losses", np.float32)
    label_sizes, labels = _numbers(lines, "labels", np.int64)
    pred_sizes, preds = _numbers(lines, "preds", np.int64)
    known = all(one.min(initial=0) >= 0 and one.max(initial=0) < len(run.classes) for one in (labels, preds))
    if not sizes == label_sizes == pred_sizes or not known:
        raise lines[0].error("a batch record whose labels, preds and losses do not fit")
    return Part(sizes, losses, labels, preds, None)


def of_numbers(lines: Sequence[Line], run: RunInfo) -> Part:
    """Read losses, and add up for each output: targets, outputs, differences, their squares, who is right and who is positive.

    Raises RecordsError for a record that makes no sense.
    """
    none = np.zeros(0, np.int64)
    sizes, losses, sums = [], [none.astype(np.float32)], np.zeros((8, len(run.classes)))
    for line in lines:
        batch = checked(line, run)
        if not isinstance(batch, Numbers):
            raise line.error("no numbers record")
        sizes.append(len(batch.losses))
        losses.append(batch.losses)
        targets, outputs = batch.targets.astype(np.float64), batch.outputs.astype(np.float64)
        if sizes[-1]:
            off = np.abs(outputs - targets)
            positive, said = targets > 0.5, outputs > 0.5
            columns = (targets, outputs, off, off**2, right(batch.targets, batch.outputs), positive, said, positive & said)
            sums += np.array([column.sum(0) for column in columns])
    return Part(sizes, np.concatenate(losses), none, none, sums)


def joined(parts: Sequence[Part]) -> Part:
    """All parts as one, also if there are none."""
    none = np.zeros(0, np.int64)
    sums = [part.sums for part in parts if part.sums is not None]
    return Part(
        [size for part in parts for size in part.sizes],
        np.concatenate([np.zeros(0, np.float32), *(part.losses for part in parts)]),
        np.concatenate([none, *(part.labels for part in parts)]),
        np.concatenate([none, *(part.preds for part in parts)]),
        np.sum(sums, axis=0) if sums else None,
    )


def class_scores(part: Part, run: RunInfo) -> tuple[ClassScore, ...]:
    """One for each class, in the order of the run."""
    size, labels = len(run.classes), part.labels
    counts, correct = np.bincount(labels, minlength=size), np.bincount(labels[part.right], minlength=size)
    sums = np.bincount(labels, weights=part.losses, minlength=size)
    columns = zip(run.classes, counts.tolist(), correct.tolist(), sums.tolist(), strict=True)
    return tuple(ClassScore(name=name, n=n, correct=k, loss=finite(loss / n) if n else None) for name, n, k, loss in columns)


def confusions(part: Part, run: RunInfo, most: int) -> tuple[tuple[Confusion, ...], int]:
    """The pairs of wrong predictions, the most frequent first, `most` of them, and how many more there are."""
    size, classes = len(run.classes), run.classes
    wrong = part.labels != part.preds
    totals = np.bincount(part.labels)
    pairs, counts = np.unique(part.labels[wrong] * size + part.preds[wrong], return_counts=True)
    chosen = np.argsort(-counts, kind="stable")[:most]
    return tuple(
        Confusion(label=classes[pair // size], pred=classes[pair % size], count=count, share=count / int(totals[pair // size]))
        for pair, count in zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True)
    ), len(pairs) - len(chosen)


def output_scores(part: Part, run: RunInfo) -> tuple[OutputScore, ...]:
    """One for each output, in the order of the run; none without samples."""
    n = len(part.losses)
    if part.sums is None or not n:
        return ()
    sides = run.task == "multilabel"
    return tuple(
        OutputScore(
            name=name,
            target=finite(target / n),
            output=finite(output / n),
            error=finite(off / n),
            rms_error=finite(math.sqrt(squares / n)),
            accuracy=right / n if sides else None,
            precision=both / said if sides and said else None,
            recall=both / positive if sides and positive else None,
        )
        for name, (target, output, off, squares, right, positive, said, both) in zip(
            run.classes, part.sums.T.tolist(), strict=True
        )
    )


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


def mean(losses: Floats) -> float | None:
    """None without losses, or where one is not finite."""
    return finite(float(losses.sum(dtype=np.float64)) / len(losses)) if len(losses) else None


def finite(value: float) -> float | None:
    """None where it is not."""
    return value if math.isfinite(value) else None
