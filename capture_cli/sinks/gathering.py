"""What a tracker is told, gathered in the loop, where it is cheap: numbers by the step, the worst samples of each evaluation.

    gathering = Gathering(worst=8)
    gathering.take(batch, inputs)               # microseconds; `inputs` may change afterwards
    gathering.points()                          # what has come since: (step, milliseconds, loss, lr)
    gathering.evaluated(sums)                   # the worst samples of the phase that ended

Nothing here grows with the run: points are handed over every few seconds, and of the inputs the worst few are copied.
"""

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.records import Batch, Epoch, Numbers

WORST = 8
"""Samples shown of each evaluation."""


class Point(NamedTuple):
    """One training step."""

    step: int
    milliseconds: int
    """Since 1970."""
    loss: float
    lr: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of an evaluation, and what was answered."""

    name: str
    """Its file, else its id."""
    label: int | None
    """None where targets are numbers, like `pred` and `p_pred`."""
    pred: int | None
    p_pred: float | None
    loss: float
    batch: int
    index: int
    """Its place in the batch."""
    image: npt.NDArray[Any] | None
    """[C, H, W] as the network saw it, where that is a picture: 1 or 3 channels."""

    def described(self, classes: Sequence[str]) -> dict[str, Any]:
        """In words and plain numbers."""
        answers = {
            "label": None if self.label is None else classes[self.label],
            "pred": None if self.pred is None else classes[self.pred],
            "p_pred": self.p_pred,
        }
        known = {name: value for name, value in answers.items() if value is not None}
        return {"file": self.name, **known, "loss": self.loss if math.isfinite(self.loss) else str(self.loss)}


@dataclass
class _Phase:
    """An evaluation while it goes on."""

    worst: list[tuple[float, int, Sample]]
    """A heap, the least bad first; the number keeps equal losses apart."""
    seen: int = 0


class Gathering:
    """Of one run."""

    def __init__(self, *, worst: int) -> None:
        self._worst = worst
        self._points: list[Point] = []
        self._phases: dict[str, _Phase] = {}

    def take(self, record: Batch | Numbers, inputs: npt.NDArray[Any] | None) -> None:
        """Remember what is wanted of a batch."""
        if record.phase == "train":
            self._points.append(Point(record.step, int(time.time() * 1000), _shortest(record.loss), record.lr))
        elif self._worst and getattr(record, "sequences", None) is None:
            self._look_at(record, inputs)

    def points(self) -> list[Point]:
        """Those that have come since this was last asked."""
        points, self._points = self._points, []
        return points

    def evaluated(self, sums: Epoch) -> list[Sample]:
        """The samples with the largest losses, falling, of the phase that `sums` ends.

        None of an evaluation that an earlier process began: there are worse ones among those that it saw.
        """
        phase = self._phases.pop(sums.phase, None)
        if phase is None or phase.seen != sums.captured:
            return []
        return [sample for _, _, sample in sorted(phase.worst, reverse=True)]

    def _look_at(self, record: Batch | Numbers, inputs: npt.NDArray[Any] | None) -> None:
        phase = self._phases.setdefault(record.phase, _Phase([]))
        losses = np.where(np.isnan(record.losses), np.inf, record.losses)
        full = len(phase.worst) == self._worst
        if not full or losses.max(initial=-np.inf) > phase.worst[0][0]:
            for index in np.argsort(-losses, kind="stable")[: self._worst].tolist():
                loss = float(losses[index])
                if len(phase.worst) < self._worst:
                    put = heapq.heappush
                elif loss > phase.worst[0][0]:
                    put = heapq.heapreplace  # type: ignore[assignment]
                else:
                    break
                put(phase.worst, (loss, -(phase.seen + index), _sample(record, index, inputs)))
        phase.seen += len(losses)


def _sample(record: Batch | Numbers, index: int, inputs: npt.NDArray[Any] | None) -> Sample:
    label = pred = p_pred = None
    if isinstance(record, Batch):
        label, pred = int(record.labels[index]), int(record.preds[index])
        p_pred = _shortest(record.probs[index, pred] if record.topk is None else record.probs[index, 0])
    return Sample(
        name=record.names[index],
        label=label,
        pred=pred,
        p_pred=p_pred,
        loss=_shortest(record.losses[index]),
        batch=record.batch,
        index=index,
        image=inputs[index].copy() if inputs is not None and _is_picture(record.inputs.shape, inputs.dtype) else None,
    )


def _shortest(value: float | np.float32) -> float:
    """The decimal fraction that a record has."""
    return float(str(value))


def _is_picture(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and (dtype.kind == "f" or dtype == np.uint8)
