"""Many numbers in a few bins, as they come: the margins of an evaluation.

histogram = Histogram()
histogram.add(margins)                  # [B] in nats; what is not finite is left out
histogram.limits, histogram.counts      # right ends of the bins, and how many lie in each
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

FINEST, WIDEST, STEPS = 0.01, 128.0, 60
_POSITIVE = np.geomspace(FINEST, WIDEST, STEPS)
EDGES = np.concatenate([-_POSITIVE[::-1], [0.0], _POSITIVE])
"""Finer towards 0, where right and wrong part; a margin is never more than about 103."""


class Histogram:
    """Memory does not grow with what is added."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(EDGES), np.int64)
        """How many are above the edge before and at most the edge."""
        self.n = 0
        self.total = self.squares = 0.0
        self.least, self.greatest = np.inf, -np.inf

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count them; outside the edges they count as the last edge."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        places = np.searchsorted(EDGES, values, side="left").clip(0, len(EDGES) - 1)
        self.counts += np.bincount(places, minlength=len(EDGES))
        self.n += len(values)
        self.total += float(values.sum())
        self.squares += float(np.square(values).sum())
        self.least, self.greatest = min(self.least, float(values.min())), max(self.greatest, float(values.max()))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The same again."""
        histogram = cls()
        vars(histogram).update(values, counts=np.array(values["counts"], np.int64))
        return histogram
