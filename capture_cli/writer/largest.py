"""The most probable of very many classes.

log_probs = log_softmax(logits)             # in memory that is kept
values, classes = largest(log_probs, 10)    # as log_probs.topk(10), several times as fast
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MANY = 2**18
"""Probabilities of a batch for which memory is kept between batches."""
_memory = threading.local()
_PART = 32
"""Classes whose largest probability is sought first."""


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities that are valid until the next call in this thread: new memory costs as much as the rest."""
    import torch

    if getattr(_memory, "log_probs", None) is None or _memory.log_probs.shape != logits.shape:
        with torch.inference_mode(False):  # else it could not be written to after that mode
            _memory.log_probs = torch.empty(logits.shape)
    return torch.log_softmax(logits, -1, out=_memory.log_probs)


def largest(log_probs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `k` largest of each row and their places, as `topk` does, which sorts more than it must.

    The k + 1 largest lie in the k + 1 parts with the largest maxima. Where two are equal, `topk` itself decides.
    """
    width = log_probs.shape[-1]
    count = width // _PART
    whole = count * _PART
    if not log_probs.is_cpu or count < 4 * (k + 1):
        return log_probs.topk(k)
    import torch

    rows = log_probs.reshape(-1, width)
    # Classes of a part lie `count` apart: maxima of whole rows are found faster than those of neighbours.
    parts = rows[:, :whole].view(len(rows), _PART, count).amax(1).topk(k + 1).indices
    places = (parts[:, :, None] + torch.arange(0, whole, count)).flatten(1)
    places = torch.cat([places, torch.arange(whole, width).expand(len(rows), -1)], 1)
    values, order = rows.gather(1, places).topk(k + 1)
    if not (values[:, :-1] > values[:, 1:]).all():
        return log_probs.topk(k)
    shape = (*log_probs.shape[:-1], k)
    return values[:, :k].contiguous().view(shape), places.gather(1, order[:, :k]).reshape(shape)
