"""Rows that sum up runs of masks, and of losses without labels: one per class and epoch, or per epoch.

types = types_of_task("class", run.info)        # column -> SQL type; None if the task has no such rows
rows = measured_rows("class", run)
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from capture_cli.answers.masks import Measured, mean_iou
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import Block, Visits
from capture_cli.runs.masks import MEASURE_TASKS, SEGMENTATION

if TYPE_CHECKING:
    from capture_cli.runs import Run

_PHASE = {"phase": "VARCHAR", "epoch": "BIGINT"}
_PIXELS = dict.fromkeys(("images", "labelled", "predicted", "correct"), "BIGINT")
_CLASS = {**_PHASE, "label": "VARCHAR", **_PIXELS, **dict.fromkeys(("iou", "accuracy"), "DOUBLE")}
_SHARES = dict.fromkeys(("accuracy", "mean_iou"), "DOUBLE")


def types_of_task(per: str, info: RunInfo) -> dict[str, str] | None:
    """Column -> SQL type of the rows per class or epoch; None if the task has no such rows."""
    masks = info.task == SEGMENTATION
    if info.task not in MEASURE_TASKS or per not in ("class", "epoch") or (per == "class" and not masks):
        return None
    if per == "class":
        return dict(_CLASS)
    counts = dict.fromkeys(("captured", "not_captured"), "BIGINT")
    means = dict.fromkeys(info.number_names or (), "DOUBLE")
    return {**_PHASE, "n": "BIGINT", "loss": "DOUBLE", **(_SHARES if masks else {}), **means, **counts}


def measured_rows(per: str, run: Run) -> list[dict[str, Any]]:
    """The rows of a run, in the order of the records; of a phase under way there are only those per class."""
    fold = _Phases()
    run.fold(fold)
    if per == "class":
        return [row for (epoch, phase), one in fold.measured.items() for row in _class_rows(phase, epoch, one)]
    return [_epoch_row(one, run.info) for one in fold.totals]


def _class_rows(phase: str, epoch: int, measured: Measured) -> list[dict[str, Any]]:
    masks = measured.masks(0)
    return [
        {
            "phase": phase,
            "epoch": epoch,
            "label": one.name,
            **{name: getattr(one, name) for name in (*_PIXELS, "iou", "accuracy")},
        }
        for one in (masks.classes if masks else ())
    ]


def _epoch_row(totals: Epoch, info: RunInfo) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: getattr(totals, name) for name in ("phase", "epoch", "n", "accuracy", "captured", "not_captured")
    }
    row |= {"loss": totals.loss if isfinite(totals.loss) else None, "mean_iou": mean_iou(totals, info.task)}
    return row | {name: one["mean"] for name, one in (totals.number_means or {}).items()}


class _Phases:
    """Collects every phase of every epoch. A fold."""

    def __init__(self) -> None:
        self.measured: dict[tuple[int, str], Measured] = {}
        self.totals: list[Epoch] = []

    def update(self, block: Block) -> None:
        if isinstance(block, Visits):
            self.measured.setdefault((block.epoch, block.phase), Measured(block.info)).update(block)
        elif isinstance(block, Epoch):
            self.totals.append(block)
