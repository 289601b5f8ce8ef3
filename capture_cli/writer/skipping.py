"""Facts about a batch that `every` skips, for little more than its loss.

found = summary(logits, labels, loss)       # None if a label is no class
sums = sums.plus(n=..., loss=found.total, correct=found.correct, captured=False)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from capture_cli.writer import largest
from capture_cli.writer.columns import of_labels
from capture_cli.writer.log_probs import log_softmax

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from capture_cli.records import Ints


class Summary(NamedTuple):
    """Facts about a batch of which nothing else is kept."""

    total: float
    """Sum of the losses, in nats."""
    loss: float
    labels: Ints
    preds: Ints
    right: npt.NDArray[np.bool_]


def summary(logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor | float | None) -> Summary | None:
    """Return what is counted of a batch on the host that is not recorded; None if a label is no class.

    A prediction is the class of the largest logit.
    """
    values = labels.numpy()
    if np.maximum.reduce(values.view(np.uint64)) >= logits.shape[1]:  # a negative number is a very large one
        return None
    logits = logits.detach().float()
    log_probs = largest.log_softmax(logits) if logits.numel() >= largest.MANY else log_softmax(logits)
    own = of_labels(log_probs.numpy(), values)
    preds = logits.numpy().argmax(1)  # ten times as fast as torch's for many classes
    total = 0.0 - float(np.add.reduce(own, dtype=np.float64))
    mean = 0.0 - float(own.mean()) if loss is None else loss if isinstance(loss, float) else loss.item()
    return Summary(total, mean, values, preds, preds == values)
