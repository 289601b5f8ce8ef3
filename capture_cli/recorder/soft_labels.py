"""Labels that are probabilities [B, C], as mixup, CutMix and distillation make them.

    header.soft_labels, forward = harden(forward)

The class of the largest probability is the sample's label, so predictions, losses and margins mean what they always do. The
record also has the K most probable classes of each label, and the loss of the batch is that of the soft labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capture_cli.config import DEFAULT_TOP_K
from capture_cli.errors import UsageError
from capture_cli.writer.columns import CLASSIFICATION, Forward

TOLERANCE = 1e-3
"""By which the probabilities of a label may miss 1: half precision has three digits."""


def are_given(task: str, forward: Forward) -> bool:
    """Tell if the labels are probabilities of classes."""
    import torch

    logits, labels = forward.logits, forward.labels
    if task != CLASSIFICATION or not (isinstance(logits, torch.Tensor) and isinstance(labels, torch.Tensor)):
        return False
    return logits.ndim == 2 and labels.shape == logits.shape and labels.is_floating_point() and not labels.is_meta


def harden(forward: Forward) -> tuple[dict[str, Any], Forward]:
    """Return the soft labels as they are recorded, and the results with the classes as labels.

    Waits for the labels if they are on a device. Raises UsageError for labels that are not probabilities.
    """
    soft = forward.labels.detach().float()
    values = soft.cpu().numpy()
    with np.errstate(invalid="ignore"):
        wrong = ~(np.isfinite(values).all(1) & (values >= 0).all(1) & (np.abs(values.sum(1) - 1) <= TOLERANCE))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UsageError(
            f"labels: those of sample {first} are not probabilities: they sum to {values[first].sum():.4g}",
            'use task="multilabel" for labels that do not exclude each other',
        )
    most = int((values > 0).sum(1).max(initial=1))
    classes = np.ascontiguousarray(np.argsort(-values, axis=1, kind="stable")[:, : min(most, DEFAULT_TOP_K)])
    kept = {"classes": classes, "weights": np.take_along_axis(values, classes, 1)}
    loss = forward.loss
    if loss is None:
        loss = -(soft * forward.logits.detach().float().log_softmax(-1)).sum(1).mean()
    return kept, forward._replace(labels=soft.argmax(1), loss=loss)
