"""Curves in one line of characters.

sparkline([2.3, 1.1, 0.7, 0.6], width=4)    # '█▃▁▁'

curve = Curve()
curve.add(loss)                             # keeps a bounded number of means
curve.line(width=30)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
NOT_A_NUMBER = "×"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw `values` in at most `width` characters, scaled from their minimum to their maximum.

    More values than that are averaged over equal spans. A span with a NaN or an infinity is shown as a cross.
    """
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_bar(mean, low, high) for mean in means)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return NOT_A_NUMBER
    height = (value - low) / (high - low) if high > low else 0.0
    return BARS[min(int(height * len(BARS)), len(BARS) - 1)]


class Curve:
    """A series of any length in bounded memory: means over spans that double as the series grows."""

    def __init__(self, size: int = 128) -> None:
        """Keep at most `size` means, and at least half as many once there are enough values."""
        self.means: list[float] = []
        self.last = math.nan
        """The value added last."""
        self._size = size
        self._span = 1
        """Values per mean."""
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        """Append a value."""
        self.last = value
        self._sum += value
        self._count += 1
        if self._count == self._span:
            self.means.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
            if len(self.means) == self._size:
                self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=True)]
                self._span *= 2

    def line(self, width: int) -> str:
        """Draw the series so far, see `sparkline`."""
        return sparkline(self.means, width)
