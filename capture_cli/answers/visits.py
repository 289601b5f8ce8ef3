"""Single visits as values: one sample, seen once by the network.

    visits_at(visits, [3, 17])          # rows of a block as Visit, TokenVisit or NumbersVisit, by the run's task

Floats are the shortest decimals of the recorded float32; None where the value was not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture_cli.records import NO_LABEL
from capture_cli.runs import Visits
from capture_cli.runs.masks import MEASURE_TASKS
from capture_cli.runs.visits import NUMBER_TASKS


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
    label: str | None
    """None in the phase `predict`, where samples have no labels."""
    pred: str
    correct: bool | None
    """False where the loss is not finite; None without a label."""
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
    """True if every output is on its target's side of 0.5; None for `regression`."""
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredVisit:
    """A sample of the tasks `segmentation` and `loss`."""

    phase: str
    epoch: int
    batch: int
    step: int
    id: int | str
    file: str
    counted: int | None
    """Pixels that count, and below those whose label is ignored; None for `loss`, as all that is about pixels."""
    ignored: int | None
    accuracy: float | None
    """Correct pixels as a fraction of those that count; None without any."""
    mean_iou: float | None
    """Over the classes that the image has, as a label or a prediction."""
    loss: float | None
    batch_loss: float | None
    """Loss of the whole batch; None for `segmentation`."""
    numbers: Mapping[str, float | None]
    """Named numbers."""

    @property
    def correct(self) -> bool | None:
        """None: there is no single prediction."""
        return None


AnyVisit = Visit | NumbersVisit | MeasuredVisit


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
    named = visits.info.number_names or ()
    values |= {name: plain_value(visits[name][row]) for name in visits.names if name != "probs" and name not in named}
    if visits.info.task in MEASURE_TASKS:
        del values["correct"]
        columns: dict[str, Any] = dict.fromkeys(("counted", "ignored", "accuracy", "mean_iou", "batch_loss"))
        return MeasuredVisit(**columns | values, numbers={name: plain_value(visits[name][row]) for name in named})
    if visits.info.task in NUMBER_TASKS:
        return NumbersVisit(**values)
    has_label = values["label"] != NO_LABEL
    values |= {"pred": classes[values["pred"]], "loss_nats": values.pop("loss")}
    values |= {"label": classes[values["label"]]} if has_label else {"label": None, "correct": None}
    return TokenVisit(**values) if visits.info.task == "sequence" else Visit(**values)


def plain_value(value: Any) -> Any:
    """A value of a column as a plain Python value."""
    if isinstance(value, np.ndarray):
        return tuple(map(plain_value, value))
    if isinstance(value, np.float32):
        return float(str(value)) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
