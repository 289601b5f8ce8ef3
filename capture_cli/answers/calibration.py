"""Calibration: is a probability of 0.9 right nine times out of ten?

    found = calibration(p_pred, correct)        # [N] probability of the predicted class, [N] whether it was the label
    found.ece                                   # 0: perfectly calibrated
    found.bins[-1].accuracy                     # of the samples predicted with the highest probabilities

Definitions: Guo et al. 2017, "On Calibration of Modern Neural Networks", equations 2 to 5, with bins of equal width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15
"""As in the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Samples whose predicted class has a probability above `low`, up to `high`."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    """Share of them that is correct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibration of one phase."""

    n: int
    """Samples with a finite probability."""
    ece: float
    """Expected calibration error, 0 to 1: the mean over the samples of their bin's |accuracy - confidence|."""
    mce: float
    """Maximum calibration error: the largest |accuracy - confidence| of a bin."""
    bin_count: int
    """Bins of equal width from 0 to 1, empty ones included."""
    bins: tuple[ReliabilityBin, ...]
    """The bins that hold samples, rising."""

    @property
    def error(self) -> str:
        """The ECE and its number of bins, without which it says little, for people."""
        return f"ECE {self.ece:.3f} over {self.bin_count} bins"

    @property
    def confidence(self) -> float:
        """Mean probability of the predicted class."""
        return sum(one.n * one.confidence for one in self.bins) / self.n

    @property
    def accuracy(self) -> float:
        """Share of the samples that is correct."""
        return sum(one.n * one.accuracy for one in self.bins) / self.n


def calibration(p: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], *, bins: int = BINS) -> Calibration | None:
    """Compare probabilities `p` [N] with outcomes `correct` [N]; None if no probability is finite."""
    finite = np.isfinite(p)
    p, correct = p[finite].astype(np.float64), correct[finite]
    if not len(p):
        return None
    place = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    n = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, weights=p, minlength=bins) / np.maximum(n, 1)
    accuracy = np.bincount(place, weights=correct, minlength=bins) / np.maximum(n, 1)
    gap = np.abs(accuracy - confidence)
    return Calibration(
        n=len(p),
        ece=float((n * gap).sum() / len(p)),
        mce=float(gap.max()),
        bin_count=bins,
        bins=tuple(
            ReliabilityBin(
                low=k / bins, high=(k + 1) / bins, n=int(n[k]), confidence=float(confidence[k]), accuracy=float(accuracy[k])
            )
            for k in np.flatnonzero(n).tolist()
        ),
    )
