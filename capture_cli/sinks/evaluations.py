"""Views of a run that trackers show besides its sums: training steps, and the worst samples and margins of evaluations.

phases = EvaluationCollector(worst=8)
for block in run.follow(cursor):
    if isinstance(block, Visits):
        steps = phases.update(block)            # loss and learning rate of each batch
    elif isinstance(block, Epoch):
        phases.finish(block).worst              # samples with the largest losses
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from capture_cli.answers.visits import AnyVisit, Visit, visits_at
from capture_cli.records import Epoch
from capture_cli.runs import Visits
from capture_cli.runs.masks import has_losses

WORST = 8
"""Samples shown of each evaluation."""
_HEADER = re.compile(rb'"step":([0-9]{1,18}),"rank":[0-9]{1,18},"loss":([^,]+),"lr":([^,]+),')
_HEADER_BYTES = 512
T = TypeVar("T")


class BatchStep(NamedTuple):
    """One batch."""

    step: int
    loss: float
    lr: float | None


@dataclass(frozen=True, slots=True)
class EvaluatedSample:
    """One sample of an evaluation and its prediction."""

    visit: AnyVisit
    index: int
    """Position in the batch."""
    image: npt.NDArray[Any] | None = None
    """Input [C, H, W] as the model saw it, if it can be shown and was kept."""

    def to_json(self) -> dict[str, Any]:
        """Return file, label, prediction, its probability and the loss, as far as they are known and finite."""
        loss = self.visit.loss_nats if isinstance(self.visit, Visit) else self.visit.loss
        values = {name: getattr(self.visit, name, None) for name in ("file", "label", "pred", "p_pred")} | {"loss": loss}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """A finished phase of one epoch."""

    sums: Epoch
    step: int
    """Updates before its end."""
    worst: Sequence[EvaluatedSample] = ()
    """Samples of an evaluation with the largest losses, largest first."""
    margins: Sequence[npt.NDArray[np.float32]] = ()
    """Margins of an evaluation in nats, in arrays [N]."""
    task: str | None = None
    """The task of the run."""


class Largest(Generic[T]):
    """The `count` largest values that were added, each with a note; of equal values the earlier one counts as larger."""

    def __init__(self, count: int) -> None:
        self.falling: list[tuple[float, T]] = []
        """Values and notes, largest first."""
        self._count = count

    def add(self, values: npt.NDArray[np.floating], note: Callable[[int], T]) -> None:
        """Add values [N]; NaN counts as infinite. `note` is called with the positions of those that are kept for now."""
        values = np.where(np.isnan(values), np.inf, values)
        least = self.falling[-1][0] if len(self.falling) >= self._count else -np.inf
        if values.max(initial=-np.inf) > least:
            largest = [i for i in np.argsort(-values, kind="stable")[: self._count].tolist() if values[i] > least]
            found = [(float(values[i]), note(i)) for i in largest]
            self.falling = sorted(self.falling + found, key=lambda one: -one[0])[: self._count]


class EvaluationCollector:
    """Collects steps, worst samples and margins from the visits of a run, in the order of the records."""

    def __init__(self, *, worst: int) -> None:
        """Keep the `worst` samples of each evaluation."""
        self._count = worst
        self._worst: dict[str, Largest[EvaluatedSample]] = {}
        self._margins: dict[str, list[npt.NDArray[np.float32]]] = {}
        self._step = 0
        self._task: str | None = None

    def update(self, visits: Visits) -> list[BatchStep]:
        """Take visits and return their batches."""
        steps, self._task = steps_of(visits), visits.info.task
        self._step = steps[-1].step + (visits.phase == "train")
        if visits.phase != "train":
            if self._count and visits.info.task != "sequence" and has_losses(visits):
                self._worst.setdefault(visits.phase, Largest(self._count)).add(visits["loss"], lambda row: _sample(visits, row))
            if "margin" in visits:
                self._margins.setdefault(visits.phase, []).append(visits["margin"])
        return steps

    def finish(self, sums: Epoch) -> PhaseResult:
        """Return what was collected of the phase that `sums` ends, and forget it."""
        worst, margins = self._worst.pop(sums.phase, None), self._margins.pop(sums.phase, ())
        return PhaseResult(
            sums=sums,
            step=self._step,
            worst=[one for _, one in worst.falling] if worst else (),
            margins=margins,
            task=self._task,
        )


def steps_of(visits: Visits) -> list[BatchStep]:
    """Read step, loss and learning rate of each batch without parsing its record."""
    steps = []
    for number, line in enumerate(visits.lines):
        found = _HEADER.search(line.block, line.start, min(line.end, line.start + _HEADER_BYTES))
        if found and found[2] != b"null":
            steps.append(BatchStep(int(found[1]), float(found[2]), None if found[3] == b"null" else float(found[3])))
        else:
            record = visits.record(number)
            steps.append(BatchStep(record.step, record.loss, record.lr))
    return steps


def _sample(visits: Visits, row: int) -> EvaluatedSample:
    (visit,) = visits_at(visits, [row])
    return EvaluatedSample(visit, row - int(visits.starts[np.searchsorted(visits.starts, row, side="right") - 1]))
