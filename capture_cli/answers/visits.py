"""One sample, seen once by the network: what `capture rows` shows as a row.

    batch = checked(line, run)
    one = visit(batch, 3, run)          # a Visit, a TokenVisit or a NumbersVisit, as the run's task has it

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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capture_cli.records import Batch, Numbers, RunInfo

if TYPE_CHECKING:
    from capture_cli.runs import Line

SMALLEST = 1.4e-45
"""The smallest float32 above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Probabilities and losses have the precision of float32; what is not finite is None."""

    phase: str
    epoch: int
    batch: int
    step: int
    id: int | str
    file: str
    """Where there are no files, the id as text."""
    label: str
    """Class name, as is `pred`."""
    pred: str
    correct: bool
    """Of an answer that is no number: no."""
    p_label: float | None
    p_pred: float | None
    margin: float | None
    """In nats."""
    loss_nats: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVisit(Visit):
    """One position of a sequence, where the task is `sequence`; id and file are those of the sequence."""

    position: int
    """From 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersVisit:
    """A sample whose targets are numbers, where the task is `multilabel` or `regression`."""

    phase: str
    epoch: int
    batch: int
    step: int
    id: int | str
    file: str
    targets: tuple[float | None, ...]
    """One for each of the run's classes, as are `outputs`."""
    outputs: tuple[float | None, ...]
    correct: bool | None
    """Whether every output is on its target's side of 0.5; None where the task is `regression`."""
    loss: float | None


AnyVisit = Visit | NumbersVisit
NUMBERS_TASKS = ("multilabel", "regression")
COLUMNS = tuple(column.name for column in fields(Visit))
"""Of a row, where the task is classification."""
TOKEN_COLUMNS = (*COLUMNS[: COLUMNS.index("label")], "position", *COLUMNS[COLUMNS.index("label") :])
NUMBERS_COLUMNS = tuple(column.name for column in fields(NumbersVisit))


def columns_of(task: str | None) -> tuple[str, ...]:
    """The columns of a row where the task of the run is `task`."""
    return TOKEN_COLUMNS if task == "sequence" else NUMBERS_COLUMNS if task in NUMBERS_TASKS else COLUMNS


def checked(line: Line, run: RunInfo) -> Batch | Numbers:
    """Read a record of a batch whose numbers of classes and outputs are those of `run`. Raises RecordsError."""
    batch, classes = line.record(), len(run.classes)
    if isinstance(batch, Numbers) and run.task in NUMBERS_TASKS:
        if len(batch.losses) and batch.outputs.shape[1] != classes:
            raise line.error(f"a numbers record with {batch.outputs.shape[1]:,} outputs a sample where the run has {classes:,}")
        return batch
    if not isinstance(batch, Batch) or run.task in NUMBERS_TASKS or (batch.sequences is None) != (run.task != "sequence"):
        raise line.error(f"a {line.kind} record that is none of the task {run.task or 'classification'}")
    return _of_classes(line, batch, classes)


def checked_batch(line: Line, run: RunInfo) -> Batch:
    """The same where it has to be of a classification or of sequences."""
    batch = checked(line, run)
    if not isinstance(batch, Batch):
        raise line.error("no batch record")
    return batch


def _of_classes(line: Line, batch: Batch, classes: int) -> Batch:
    known = [batch.labels, batch.preds] if batch.topk is None else [batch.labels, batch.preds, batch.topk]
    if not len(batch.labels):  # sequences that are all padding
        return batch
    if any(numbers.min() < 0 or numbers.max() >= classes for numbers in known):
        raise line.error(f"a batch record with class numbers that are none of the {classes:,} classes")
    if batch.topk is None and batch.probs.shape[1] != classes:
        raise line.error(f"a batch record with {batch.probs.shape[1]:,} probabilities a sample for {classes:,} classes")
    return batch


def visit(batch: Batch | Numbers, index: int, run: RunInfo) -> AnyVisit:
    """Sample `index` of a batch that has been checked."""
    if isinstance(batch, Numbers):
        return _of_numbers(batch, index, run)
    label, pred = int(batch.labels[index]), int(batch.preds[index])
    probs = [float(p) for p in batch.probs[index]]
    if batch.p_labels is None:
        p_label, p_pred = probs[label], probs[pred]
    else:
        p_label, p_pred = float(batch.p_labels[index]), probs[0]
    loss = float(batch.losses[index])
    one = Visit(
        phase=batch.phase,
        epoch=batch.epoch,
        batch=batch.batch,
        step=batch.step,
        id=_id(batch, index),
        file=name_of(batch, index),
        label=run.classes[label],
        pred=run.classes[pred],
        correct=label == pred and math.isfinite(loss),
        p_label=_finite(p_label),
        p_pred=_finite(p_pred),
        margin=_margin(loss, p_pred if label != pred else _second(probs)),
        loss_nats=_finite(loss),
    )
    if batch.positions is None:
        return one
    return TokenVisit(**{name: getattr(one, name) for name in COLUMNS}, position=int(batch.positions[index]))


def _of_numbers(batch: Numbers, index: int, run: RunInfo) -> NumbersVisit:
    targets, outputs = batch.targets[index], batch.outputs[index]
    return NumbersVisit(
        phase=batch.phase,
        epoch=batch.epoch,
        batch=batch.batch,
        step=batch.step,
        id=_id(batch, index),
        file=name_of(batch, index),
        targets=tuple(_finite(float(one)) for one in targets),
        outputs=tuple(_finite(float(one)) for one in outputs),
        correct=bool(right(targets, outputs).all()) if run.task == "multilabel" else None,
        loss=_finite(float(batch.losses[index])),
    )


def right(targets: npt.NDArray[np.float32], outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which outputs of a multi-label task are on their target's side of 0.5; what is not a number is on none."""
    same: npt.NDArray[np.bool_] = (outputs > 0.5) == (targets > 0.5)
    return same & ~np.isnan(outputs)


def extra_of(batch: Batch | Numbers, index: int) -> dict[str, Any]:
    """What the caller of the recorder said beside it of sample `index`, or of the sequence that it stands in."""
    if isinstance(batch, Batch) and batch.sequences is not None:
        index = int(np.searchsorted(np.cumsum(batch.sequences["n_valid"]), index, "right"))
    return {name: column[index] for name, column in (batch.extra or {}).items()}


def name_of(batch: Batch | Numbers, index: int) -> str:
    """What to call it: its file, else its id."""
    return batch.files[index] if batch.files is not None else str(_id(batch, index))


def _id(batch: Batch | Numbers, index: int) -> int | str:
    one = batch.ids[index]
    return one if isinstance(one, str) else int(one)


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
    if batch.topk is None:
        others = batch.probs.copy()
        others[rows, batch.labels] = -1.0
    else:
        others = np.where(batch.topk == batch.labels[:, None], np.float32(-1.0), batch.probs)
    best = others.max(axis=1).astype(np.float64)  # -1: no other class was kept
    with np.errstate(invalid="ignore"):
        found = -batch.losses.astype(np.float64) - np.log(np.maximum(best, SMALLEST))
    return np.where((best < 0) | ~np.isfinite(found), np.nan, found)
