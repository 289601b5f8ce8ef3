"""When a loss goes wrong: which batches are kept whole, whatever the options keep of inputs.

    rule = SpikeRule(factor=10)
    rule.judge(loss)        # "" while all is well, else `nan`, `inf` or `spike`

A spike is a loss more than `factor` standard deviations above the mean of the training losses before it, both moving
exponentially (weight 1/50 for the newest; plain means over the first 50, in which nothing is judged). The update is West's
(1979), as in Finch, "Incremental calculation of weighted mean and variance" (2009), eqs. 124 and 143.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

WINDOW = 50


@dataclass
class SpikeRule:
    """The moving mean and variance of a loss, in nats, and what they say of the next."""

    factor: float
    """0: only a loss that is not a number counts."""
    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def judge(self, loss: float) -> str:
        """Say what is wrong with the next loss, and take it into the means if it is a number."""
        if not math.isfinite(loss):
            return "nan" if math.isnan(loss) else "inf"
        limit = self.mean + self.factor * math.sqrt(self.variance)
        spike = bool(self.factor) and self.n >= WINDOW and loss > limit
        self.n += 1
        weight, away = max(1 / self.n, 1 / WINDOW), loss - self.mean
        self.mean += weight * away
        self.variance = (1 - weight) * (self.variance + weight * away * away)
        return "spike" if spike else ""

    def state(self) -> dict[str, float]:
        """For a checkpoint: exact, since JSON keeps doubles."""
        return asdict(self)

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)
