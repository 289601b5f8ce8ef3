"""Single visits as values: one sample, seen once by the network.

    visits_at(visits, [3, 17])          # rows of a block as Visit, TokenVisit or NumbersVisit, by the run's task

Floats are the shortest decimals of the recorded float32; None where the value was not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.records import Batch, Numbers, RunInfo
from capture_cli.runs import Line, Visits
from capture_cli.runs import visits as runs_visits
from capture_cli.runs.visits import NUMBER_TASKS, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A classified sample. `label` and `pred` are class names, `margin` and `loss_nats` are in nats."""

    phase: str
    epoch: int
    batch: int
    step: int
    id: int | str
    file: str
    """The id as text where samples have no files."""
    label: str
    pred: str
    correct: bool
    """False where the loss is not finite."""
    p_label: float | None
    p_pred: float | None
    margin: float | None
    """Defined in capture_cli.runs.visits.margins."""
    loss_nats: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVisit(Visit):
    """One position of a sequence (task `sequence`); id and file are those of the sequence."""

    position: int
    """Counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersVisit:
    """A sample whose targets are numbers (tasks `multilabel` and `regression`)."""

    phase: str
    epoch: int
    batch: int
    step: int
    id: int | str
    file: str
    targets: tuple[float | None, ...]
    """[K], one for each of the run's outputs."""
    outputs: tuple[float | None, ...]
    """[K]"""
    correct: bool | None
    """Whether every output is on its target's side of 0.5; None for `regression`."""
    loss: float | None


AnyVisit = Visit | NumbersVisit


def visits_at(visits: Visits, rows: Iterable[int]) -> list[AnyVisit]:
    """Rows of a block as values; only the batches that hold them are parsed. Raises RecordsError."""
    found = []
    batches: dict[int, Visits] = {}
    for row in rows:
        number = int(np.searchsorted(visits.starts, row, "right")) - 1
        batch = batches.setdefault(number, visits.batch(number))
        found.append(visit_at(batch, int(row - visits.starts[number])))
    return found


def visit_at(visits: Visits, row: int) -> AnyVisit:
    """One row of a block as a value. Raises RecordsError."""
    classes = visits.info.classes
    values: dict[str, Any] = {"phase": visits.phase, "epoch": visits.epoch, "correct": None}
    values |= {name: _plain(visits[name][row]) for name in visits.names if name != "probs"}
    if visits.info.task in NUMBER_TASKS:
        return NumbersVisit(**values)
    values |= {"label": classes[values["label"]], "pred": classes[values["pred"]], "loss_nats": values.pop("loss")}
    return TokenVisit(**values) if visits.info.task == "sequence" else Visit(**values)


def _plain(value: Any) -> Any:
    """A value of a column as a Python value."""
    if isinstance(value, np.ndarray):
        return tuple(map(_plain, value))
    if isinstance(value, np.float32):
        return float(str(value)) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


# Records one by one, for readers that do not use blocks of visits yet.

NUMBERS_TASKS = NUMBER_TASKS
SMALLEST = runs_visits.SMALLEST
COLUMNS = tuple(column.name for column in fields(Visit))
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


def margins(batch: Batch) -> Floats:
    """[B] the margins of a batch in nats; NaN where it has none."""
    return runs_visits.margins(batch.losses, np.asarray(batch.labels), batch.probs, batch.topk)
