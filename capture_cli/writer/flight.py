"""Detect a loss that goes wrong; such a batch and the one before it are saved whole.

    rule = SpikeRule(factor=10)
    rule.judge(loss)        # "" if the loss is fine, else `nan`, `inf` or `spike`

A spike is a loss more than `factor` standard deviations above the mean of the training losses before it. Mean and variance
move exponentially: the newest loss weighs 1/50. Over the first 50 losses they are plain, and nothing counts as a spike. The
update is West's (1979), as in Finch, "Incremental calculation of weighted mean and variance" (2009), eqs. 124 and 143.
"""

from dataclasses import dataclass
from math import isfinite, isnan, sqrt

WINDOW = 50


@dataclass
class SpikeRule:
    """Moving mean and variance of a loss in nats, and a verdict on the next one."""

    factor: float
    """0: only a loss that is NaN or infinite counts."""
    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def judge(self, loss: float) -> str:
        """Return what is wrong with the next loss; add it to mean and variance if it is finite."""
        if not isfinite(loss):
            return "nan" if isnan(loss) else "inf"
        spike = self.is_spike(loss)
        n, mean, variance = self.n, self.mean, self.variance
        away = loss - mean
        weight = 1 / WINDOW if n >= WINDOW else 1 / (n + 1)
        self.n, self.mean, self.variance = n + 1, mean + weight * away, (1 - weight) * (variance + weight * away * away)
        return "spike" if spike else ""

    def is_spike(self, loss: float) -> bool:
        """Return True if the next loss would be a spike."""
        return bool(self.n >= WINDOW and self.factor and loss > self.mean + self.factor * sqrt(self.variance))
