"""The accuracy on held-out samples of a run with folds: every sample is judged by the one training that has not seen it.

    fold = HoldingOut()
    fold.update(block)                  # takes any block of a pass, uses FoldedEpoch
    found = fold.result()               # HeldOut, or None of any other run
    found.accuracy, found.spread

The last epoch of each training counts, not its best: which epoch is best was chosen with the held-out samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from capture_cli.answers.shares import percent
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import Block, FoldedEpoch, folds_of

MOST_NAMED = 10
"""Trainings up to this number are shown one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutFold:
    """One training, in its last epoch that was evaluated."""

    number: int
    epoch: int
    n: int
    """Samples that it held out."""
    accuracy: float
    loss: float | None
    """Mean, nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """All held-out samples together."""

    of: int
    """Trainings that were planned."""
    folds: tuple[HeldOutFold, ...]
    """Those that were evaluated, by number."""
    n: int
    accuracy: float
    """Over all n samples, captured or not."""
    mean: float
    """Mean of the accuracies of the trainings."""
    spread: float | None
    """Their standard deviation (n - 1); None for a single one."""

    @property
    def sentence(self) -> str:
        """The accuracy in words."""
        text = f"Held-out accuracy {percent(self.accuracy)} over {self.n:,} samples, each held out once"
        if len(self.folds) < self.of:
            text = f"{text}; {len(self.folds)} of {self.of} folds so far"
        if self.spread is None:
            return text
        each = ", ".join(percent(one.accuracy) for one in self.folds)
        if len(self.folds) > MOST_NAMED:
            accuracies = [one.accuracy for one in self.folds]
            each = f"{percent(min(accuracies))} to {percent(max(accuracies))}"
        return f"{text}; by fold {each} (mean {percent(self.mean)}, standard deviation {percent(self.spread)})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "folds": [asdict(one) for one in self.folds]}


class HoldingOut:
    """Works it out. A fold over one pass of a run."""

    def __init__(self) -> None:
        self._of = 0
        self._last: dict[int, Epoch] = {}

    def update(self, block: Block) -> None:
        """Take the next block."""
        if isinstance(block, RunInfo):
            self._of = folds_of(block)
        elif isinstance(block, FoldedEpoch) and block.phase == "val":
            self._last.update(block.folds)

    def result(self) -> HeldOut | None:
        """The answer; None of a run without folds, or before the first evaluation."""
        folds = tuple(
            HeldOutFold(number=number, epoch=one.epoch, n=one.n, accuracy=one.accuracy, loss=_finite(one.loss))
            for number, one in sorted(self._last.items())
            if one.accuracy is not None and one.n
        )
        if not self._of or not folds:
            return None
        n = sum(one.n for one in folds)
        return HeldOut(
            of=self._of,
            folds=folds,
            n=n,
            accuracy=sum(one.accuracy * one.n for one in folds) / n,
            mean=fmean(one.accuracy for one in folds),
            spread=stdev(one.accuracy for one in folds) if len(folds) > 1 else None,
        )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
