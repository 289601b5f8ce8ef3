"""The training loss: cross-entropy, with class weights, label smoothing and mixed labels.

    objective = Objective(label_smoothing=0.1)
    loss = objective.loss(logits, labels)               # the loss to differentiate, a scalar in nats

The loss of a batch is what the update minimises. The losses of its samples are recorded apart from it and are always
-ln p(label), whatever the objective. Replay computes both again.

class weights     each sample counts as much as its class; the mean is over the weights (King and Zeng 2001)
label smoothing   the target is (1 - e) of the label and e spread over all classes (Szegedy et al. 2016, section 7)
mixed labels      weight * loss(label) + (1 - weight) * loss(label of the partner) (Zhang et al. 2018)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program


@dataclass(frozen=True)
class Objective:
    """The loss that a training minimises; without arguments the mean cross-entropy."""

    class_weights: torch.Tensor | None = None
    """[C] float32, on the device of the logits."""
    label_smoothing: float = 0.0

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        other_labels: torch.Tensor | None = None,
        weight: float = 1.0,
    ) -> torch.Tensor:
        """Return the loss of logits [B, C] and labels [B], a scalar in nats.

        Inputs that were mixed have `other_labels` [B], and `weight` is the share of their own.
        """
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=self.label_smoothing)
        if other_labels is None:
            return loss
        other = F.cross_entropy(logits, other_labels, weight=self.class_weights, label_smoothing=self.label_smoothing)
        return weight * loss + (1 - weight) * other


PLAIN = Objective()


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Return a weight for each class, N / (classes * samples of the class), so that each class counts alike.

    This is scikit-learn's "balanced". A class without samples has the weight 0.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]
