"""One sample, seen once by the network: what `capture rows` shows as a row.

    batch = checked_batch(line, len(run.classes))
    one = visit(batch, 3, run.classes)

The margin says how sure the network was of the label, in nats: the logit of the label less the highest logit of another class,

    margin = logit[label] - max(logit[k] for k != label) = ln p[label] - ln max(p[k] for k != label)

positive where the prediction is right, close to 0 where it is a toss-up. It is computed as -loss_nats - ln max(p[k]), since the
loss keeps its digits where p[label] has none left. A probability below the smallest float32 was written as 0; it is taken for
1.4e-45, so a margin is never more than about 103.3 because of the other class. It is null where no other class was kept
(`--probs top:1`), or where the loss or the probabilities were not finite.

`answers.sql` says the same for many visits at once; a test holds the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capture_cli.records import Batch

if TYPE_CHECKING:
    from capture_cli.reader import Line

SMALLEST = 1.4e-45
"""The smallest float32 above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Probabilities and losses have the precision of float32; what is not finite is None."""

    phase: str
    epoch: int
    batch: int
    step: int
    id: int
    file: str
    label: str
    """Class name, as is `pred`."""
    pred: str
    correct: bool
    p_label: float | None
    p_pred: float | None
    margin: float | None
    """In nats."""
    loss_nats: float | None


COLUMNS = tuple(column.name for column in fields(Visit))


def checked_batch(line: Line, classes: int) -> Batch:
    """Read a batch record whose labels, predictions and probabilities are of `classes` classes. Raises RecordsError."""
    batch = line.record()
    if not isinstance(batch, Batch):
        raise line.error("no batch record")
    known = [batch.labels, batch.preds] if batch.tops is None else [batch.labels, batch.preds, batch.tops]
    if not len(batch.labels):  # sequences that are all padding
        return batch
    if any(numbers.min() < 0 or numbers.max() >= classes for numbers in known):
        raise line.error(f"a batch record with class numbers that are none of the {classes:,} classes")
    if batch.tops is None and batch.probs.shape[1] != classes:
        raise line.error(f"a batch record with {batch.probs.shape[1]:,} probabilities a sample for {classes:,} classes")
    return batch


def visit(batch: Batch, index: int, classes: Sequence[str]) -> Visit:
    """Sample `index` of a batch that has been checked."""
    label, pred = int(batch.labels[index]), int(batch.preds[index])
    probs = [float(p) for p in batch.probs[index]]
    if batch.p_labels is None:
        p_label, p_pred = probs[label], probs[pred]
    else:
        p_label, p_pred = float(batch.p_labels[index]), probs[0]
    loss = float(batch.losses[index])
    return Visit(
        phase=batch.phase,
        epoch=batch.epoch,
        batch=batch.batch,
        step=batch.step,
        id=int(batch.ids[index]),
        file=batch.names[index],
        label=classes[label],
        pred=classes[pred],
        correct=label == pred,
        p_label=_finite(p_label),
        p_pred=_finite(p_pred),
        margin=_margin(loss, p_pred if label != pred else _second(probs)),
        loss_nats=_finite(loss),
    )


def _second(probs: Sequence[float]) -> float:
    """The highest but one: the best of the other classes where the best is the label. NaN if there is none."""
    finite = sorted((p for p in probs if not math.isnan(p)), reverse=True)
    return finite[1] if len(finite) > 1 else math.nan


def _margin(loss: float, p_other: float) -> float | None:
    loss, p_other = _shortest(loss), _shortest(p_other)
    if math.isnan(p_other):
        return None
    return _finite(-loss - math.log(max(p_other, SMALLEST)))


def _finite(value: float) -> float | None:
    return _shortest(value) if math.isfinite(value) else None


def _shortest(value: float) -> float:
    """The float32 nearest to `value` as its shortest decimal fraction, which is what a record has."""
    return float(str(np.float32(value)))


def margins(batch: Batch) -> npt.NDArray[np.float64]:
    """[B] the margins of a batch in nats, as `visit` has them; NaN where it has none."""
    rows = np.arange(len(batch.labels))
    if batch.tops is None:
        others = batch.probs.copy()
        others[rows, batch.labels] = -1.0
    else:
        others = np.where(batch.tops == batch.labels[:, None], np.float32(-1.0), batch.probs)
    best = others.max(axis=1).astype(np.float64)  # -1: no other class was kept
    with np.errstate(invalid="ignore"):
        found = -batch.losses.astype(np.float64) - np.log(np.maximum(best, SMALLEST))
    return np.where((best < 0) | ~np.isfinite(found), np.nan, found)
