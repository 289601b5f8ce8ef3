"""How a run learned: the training dynamics summed up by class, and the samples that stand out.

    with open_run("runs/mine") as run:
        learning = find_learning(run, most=8)
    learning.phases[0].classes[0].learned           # epoch since which half of the class was right for good

One row a sample is in `capture rows RUN --per sample`; the definitions are those of capture_cli.answers.dynamics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from capture_cli.answers.dynamics import PHASES, Dynamics, SampleDynamics
from capture_cli.answers.state import RunState
from capture_cli.errors import RecordsError
from capture_cli.runs import Run, folds_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLearning:
    """The samples with one label; means over them."""

    label: str
    n: int
    aum: float | None
    """Nats."""
    confidence: float | None
    variability: float | None
    correctness: float | None
    forgetting: float
    """Forgetting events a sample."""
    never: int
    """Samples that no visit predicted right."""
    learned: int | None
    """The epoch by which half of the samples were learned: right at that visit and all later ones. None if fewer were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLearning:
    """One sample that stands out."""

    file: str
    label: str
    aum: float | None
    confidence: float | None
    variability: float | None
    correctness: float | None
    forgetting: int
    learned: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLearning:
    """One phase."""

    phase: str
    n: int
    epochs: int
    classes: tuple[ClassLearning, ...]
    """Those with samples, the lowest mean margin first."""
    hardest: tuple[SampleLearning, ...]
    """The lowest mean margin first."""
    forgotten: tuple[SampleLearning, ...]
    """The most forgetting events first; only samples with more than one."""
    ambiguous: tuple[SampleLearning, ...]
    """The highest variability first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicsSummary:
    """Every phase of a run."""

    phases: tuple[PhaseLearning, ...]
    state: RunState

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values."""
        return {**self.state.to_json(), "dynamics": [asdict(one) for one in self.phases]}


def find_learning(run: Run, *, most: int = 8) -> DynamicsSummary:
    """Sum up the dynamics of a run in one pass; list at most `most` samples of each kind.

    Of a run with folds they are those of the samples while they were held out.

    Raises RecordsError where nothing was captured, UsageError where samples do not have one label each.
    """
    folds = [Dynamics(phase) for phase in PHASES if phase == "val" or not folds_of(run.info)]
    error = run.fold(*folds)
    found = [fold.result() for fold in folds if fold]
    if not found:
        raise error or RecordsError(f"{run.name}: no captured visits", "nothing was captured, or not yet")
    return DynamicsSummary(phases=tuple(_phase(one, most) for one in found), state=RunState.of(run, error))


def _phase(found: SampleDynamics, most: int) -> PhaseLearning:
    aum, forgetting = np.nan_to_num(found.aum, nan=np.inf), found.forgetting
    classes = [one for place in range(len(found.classes)) if (one := _class(found, place))]
    forgotten = [i for i in np.argsort(-forgetting, kind="stable")[:most].tolist() if forgetting[i] > 1]
    ambiguous = np.argsort(-np.nan_to_num(found.variability, nan=-1), kind="stable")[:most].tolist()
    return PhaseLearning(
        phase=found.phase,
        n=len(found),
        epochs=len(found.epochs),
        classes=tuple(sorted(classes, key=lambda one: (one.aum is None, one.aum or 0.0))),
        hardest=_samples(found, np.argsort(aum, kind="stable")[:most].tolist()),
        forgotten=_samples(found, forgotten),
        ambiguous=_samples(found, ambiguous) if len(found.epochs) > 1 else (),
    )


def _class(found: SampleDynamics, place: int) -> ClassLearning | None:
    rows = np.flatnonzero(found.labels == place)
    if not len(rows):
        return None
    learned = np.sort(np.where(found.learned[rows] < 0, np.iinfo(np.int64).max, found.learned[rows]))
    half = int(learned[(len(rows) - 1) // 2])
    means = {name: _mean(getattr(found, name)[rows]) for name in ("aum", "confidence", "variability", "correctness")}
    return ClassLearning(
        label=found.classes[place],
        n=len(rows),
        **means,
        forgetting=float(found.forgetting[rows].mean()),
        never=int((found.first_learned[rows] < 0).sum()),
        learned=half if half <= int(found.epochs[-1]) else None,
    )


def _samples(found: SampleDynamics, rows: Sequence[int]) -> tuple[SampleLearning, ...]:
    columns = {name: getattr(found, name) for name in ("aum", "confidence", "variability", "correctness")}
    forgetting, learned = found.forgetting, found.learned
    return tuple(
        SampleLearning(
            file=found.files[i],
            label=found.classes[int(found.labels[i])],
            **{name: _number(column[i]) for name, column in columns.items()},
            forgetting=int(forgetting[i]),
            learned=int(learned[i]) if learned[i] >= 0 else None,
        )
        for i in rows
    )


def _mean(values: Any) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else None


def _number(value: Any) -> float | None:
    return float(str(value)) if isfinite(value) else None
