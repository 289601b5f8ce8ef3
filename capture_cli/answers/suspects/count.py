"""The number of wrong labels, and the probability of each: the score of capture_cli.answers.suspects.score, calibrated.

n = wrong_count(probs, labels, scored)      # expected number of wrong labels, conservative
p = p_wrong(scored.score, n)                # [N], with sum n
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from capture_cli.answers.suspects.noise_matrix import anchor_counts
from capture_cli.answers.suspects.score import Floats, Ints, ScoredLabels, epochs_before_memorising, mean_over

CAUTION = 0.8
"""Share of the contradictions of an unsure network that is put down to the network. F1 of the flags, and the share of a clean
set that is flagged: with 0, 0.645 and 4.0 %; with 0.4, 0.662 and 0.78 %; with 0.8, 0.635 and 0.18 %."""
SLOPE = 2.0
"""Log odds are this much steeper than the score, by calibration."""


def wrong_count(probs: npt.NDArray[np.floating], labels: Ints, scored: ScoredLabels) -> int:
    """The number of wrong labels among N: the largest of three estimates, each of which sees what the others miss.

    At most as many as the mean predictions contradict: where wrong labels are of one class that looks nothing like the true
    one, the uniform share and the noise matrix both count them.
    """
    n = max(0.0, _by_model(scored, len(labels)))
    n = max(n, _by_anchors(probs, labels, n), _by_margins(scored, labels))
    return min(round(n), int(scored.contradicted.sum()))


def _by_model(scored: ScoredLabels, n: int) -> float:
    """By the fitted noise: the uniform share, and the targeted part of the noise matrix, each as far as it is believed."""
    matrix, classes = scored.fitted, len(scored.fitted)
    off = ~np.eye(classes, dtype=bool)
    mean_rate = max(float(1 - np.trace(matrix) / classes), 1e-9)
    uniform_part = min(1.0, float(np.median(matrix[off])) * (classes - 1) / mean_rate)
    return n * (scored.uniform * scored.uniform_trust + 2 * scored.targeted * scored.matrix_trust * (1 - uniform_part))


def _by_anchors(probs: npt.NDArray[np.floating], labels: Ints, n_model: float) -> float:
    """By the labels among the most confident samples of each predicted class, in the epochs before they are memorised."""
    seen = ~np.isnan(probs[:, :, 0])
    filled = np.where(seen[:, :, None], probs, 0)
    contradicted = mean_over(filled, seen).argmax(1) != labels
    used = epochs_before_memorising(filled, seen, labels, contradicted, factor=1.5)
    means = mean_over(filled[used], seen[used])
    counts, confidence = anchor_counts(means, labels, fraction=0.15)
    rates = 1 - np.diag(counts) / np.maximum(counts.sum(1), 1)
    # An unsure class contradicts some labels in a clean set as well; the model's own count takes this caution back.
    doubt = np.maximum(0, 1 - confidence / np.maximum(1 - rates, 0.05))
    rates = np.maximum(0, rates - CAUTION * (1 - min(1, 10 * n_model / len(labels))) * doubt)
    predicted = np.bincount(means.argmax(1), minlength=probs.shape[2])
    return float((predicted * np.minimum(rates, 2 * np.median(rates) + 0.003)).sum())


def _by_margins(scored: ScoredLabels, labels: Ints) -> float:
    """By the gap of well separated data: labels below margin 0 beyond what the flank above it extrapolates to."""
    others = scored.mean_probs.copy()
    rows = np.arange(len(labels))
    others[rows, labels] = -1
    margin = scored.mean_probs[rows, labels] - others.max(1)
    near = int(((margin >= 0) & (margin < 0.25)).sum())
    far = int(((margin >= 0.25) & (margin < 0.5)).sum())
    ratio = min((near + 1) / (far + 1), 1.0)
    expected = 1.5 * near * (ratio + ratio**2 + ratio**3 + ratio**4)
    return float((margin < 0).sum() - expected - 2 * np.sqrt(expected + 1))


def p_wrong(score: Floats, n: float) -> Floats:
    """[N] the probability that each label is wrong: a logistic function of the score whose sum is `n`."""

    def probabilities(offset: float) -> Floats:
        return np.asarray(1 / (1 + np.exp(-np.clip(SLOPE * score + offset, -500, 500))))

    if n <= 0:
        return probabilities(-SLOPE * float(score.max()) - 4)
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if probabilities(middle).sum() > n else (middle, high)
    return probabilities(high)
