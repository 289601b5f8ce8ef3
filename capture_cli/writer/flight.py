"""Detect a loss that goes wrong; such a batch and the one before it are saved whole.

    rule = SpikeRule(factor=10)
    rule.judge(loss)        # "" if the loss is fine, else `nan`, `inf` or `spike`

A spike is a loss more than `factor` standard deviations above the mean of the training losses before it. Mean and variance
move exponentially: the newest loss weighs 1/50. Over the first 50 losses they are plain, and nothing counts as a spike. The
update is West's (1979), as in Finch, "Incremental calculation of weighted mean and variance" (2009), eqs. 124 and 143.
"""

import math
from dataclasses import dataclass

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
        if not math.isfinite(loss):
            return "nan" if math.isnan(loss) else "inf"
        limit = self.mean + self.factor * math.sqrt(self.variance)
        spike = bool(self.factor) and self.n >= WINDOW and loss > limit
        self.n += 1
        weight, away = max(1 / self.n, 1 / WINDOW), loss - self.mean
        self.mean += weight * away
        self.variance = (1 - weight) * (self.variance + weight * away * away)
        return "spike" if spike else ""
