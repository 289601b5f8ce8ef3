"""Numbers that compare two runs: epoch by epoch, McNemar's test, and the measures that a gate can be put on.

diff = compare(a, b)
diff.measures()["accuracy_drop"]        # accuracy in a minus accuracy in b, over the images that both have
p = mcnemar(25, 9)                      # 0.0089: such a difference is rarely chance
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture_cli.answers.masks import mean_iou
from capture_cli.records import Epoch

if TYPE_CHECKING:
    from capture_cli.answers.predictions import PredictionChanges

MEASURES = {
    "accuracy_a": "accuracy in A, over the images that both runs have with the same label",
    "accuracy_b": "accuracy in B, over the same images",
    "accuracy_drop": "accuracy_a - accuracy_b",
    "loss_a": "mean loss in A, nats",
    "loss_b": "mean loss in B, nats",
    "loss_rise": "loss_b - loss_a",
    "ece_a": "expected calibration error in A",
    "ece_b": "expected calibration error in B",
    "ece_rise": "ece_b - ece_a",
    "right_to_wrong": "images that A has right and B wrong",
    "wrong_to_right": "images that A has wrong and B right",
    "flips": "right_to_wrong + wrong_to_right",
    "worst_class_drop": "the largest drop of a class's accuracy",
    "mcnemar_p": "p-value of McNemar's test",
    "mean_iou_a": "mean IoU of masks in A, over all captured pixels of the phase",
    "mean_iou_b": "mean IoU of masks in B",
    "mean_iou_drop": "mean_iou_a - mean_iou_b",
    "images": "images that both runs have with the same label",
    "labels_changed": "images that both runs have with different labels: they are not compared",
    "only_a": "images of A that B does not have",
    "only_b": "images of B that A does not have",
}
"""Name -> meaning of each measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPair:
    """One phase of one epoch in both runs; None where a run does not have it."""

    epoch: int
    phase: str
    loss_a: float | None
    loss_b: float | None
    accuracy_a: float | None
    accuracy_b: float | None
    mean_iou_a: float | None
    """None for another task than segmentation."""
    mean_iou_b: float | None


def epoch_pairs(
    a: Mapping[tuple[int, str], Epoch], b: Mapping[tuple[int, str], Epoch], task_a: str | None = None, task_b: str | None = None
) -> tuple[EpochPair, ...]:
    """The totals of both runs side by side, by epoch and phase."""
    pairs = []
    for key in sorted(a.keys() | b.keys(), key=lambda key: (key[0], key[1] != "train", key[1])):
        one, other = a.get(key), b.get(key)
        pairs.append(
            EpochPair(
                epoch=key[0],
                phase=key[1],
                loss_a=_finite(one.loss) if one else None,
                loss_b=_finite(other.loss) if other else None,
                accuracy_a=one.accuracy if one else None,
                accuracy_b=other.accuracy if other else None,
                mean_iou_a=mean_iou(one, task_a) if one else None,
                mean_iou_b=mean_iou(other, task_b) if other else None,
            )
        )
    return tuple(pairs)


def mcnemar(right_to_wrong: int, wrong_to_right: int) -> float:
    """The two-sided p-value of McNemar's exact test, 0 to 1.

    If the two models were equally good, an image that only one of them has right would be either's with probability 1/2:
    p = min(1, 2 P(X <= min)) for X binomial with n = right_to_wrong + wrong_to_right (McNemar 1947; exact form: Edwards 1948).
    """
    n, least = right_to_wrong + wrong_to_right, min(right_to_wrong, wrong_to_right)
    logs = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1))
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def measures(changes: PredictionChanges) -> dict[str, float | None]:
    """The value of each of MEASURES; None where it is not defined."""
    a, b, n = changes.a, changes.b, changes.both
    accuracy_a, accuracy_b = (one.correct / n if n else None for one in (a, b))
    ece_a, ece_b = (one.calibration.ece if one.calibration else None for one in (a, b))
    drops = [-one.change for one in changes.classes if one.change is not None]
    changed = changes.labels_changed.count
    right_to_wrong, wrong_to_right = changes.right_to_wrong.count, changes.wrong_to_right.count
    return {
        "accuracy_a": accuracy_a,
        "accuracy_b": accuracy_b,
        "accuracy_drop": _less(accuracy_a, accuracy_b),
        "loss_a": a.loss,
        "loss_b": b.loss,
        "loss_rise": _less(b.loss, a.loss),
        "ece_a": ece_a,
        "ece_b": ece_b,
        "ece_rise": _less(ece_b, ece_a),
        "right_to_wrong": right_to_wrong if n else None,
        "wrong_to_right": wrong_to_right if n else None,
        "flips": right_to_wrong + wrong_to_right if n else None,
        "worst_class_drop": max(drops, default=None),
        "mcnemar_p": changes.mcnemar_p if n else None,
        **dict.fromkeys(("mean_iou_a", "mean_iou_b", "mean_iou_drop")),
        "images": n,
        "labels_changed": changed,
        "only_a": a.n - n - changed,
        "only_b": b.n - n - changed,
    }


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
