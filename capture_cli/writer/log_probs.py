"""Log-probabilities of few classes, with the very bits of torch's `log_softmax(-1)` in a fraction of its time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_MANY = 1024
"""Logits from which on the other way is faster."""


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of logits [..., C], float32.

    torch puts the classes of one sample into a register of the processor and adds those that do not fill it one by one, which
    is slow. Along the first dimension it adds them in the same order, a register of samples at once.
    """
    classes = logits.shape[-1]
    if not logits.is_cpu or logits.numel() < _MANY or classes >= _register():
        return logits.log_softmax(-1)
    import torch

    rows = logits.detach().numpy().reshape(-1, classes)
    n = len(rows)
    turned = np.zeros((classes, n + -n % _register()), np.float32)  # whole registers: the rest of one gets other bits
    turned[:, :n] = rows.T
    log_probs = torch.from_numpy(turned).log_softmax(0).numpy()[:, :n]
    return torch.from_numpy(np.ascontiguousarray(log_probs.T).reshape(logits.shape))


@cache
def _register() -> int:
    """Return how many numbers the registers hold that torch uses, 0 if that is not known."""
    import torch

    return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 0)
