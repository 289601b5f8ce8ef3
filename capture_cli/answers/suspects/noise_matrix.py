"""The noise matrix T of a run's labels: T[j, k] is the rate at which samples of class j carry the label k.

    start = shrink(anchor_counts(ensemble, labels, fraction=0.25)[0])
    T = fit(log_ensemble, rival, one_hot, start, confusion=0.01, sharpness=1.3)

No held-out predictions are needed: T is fitted to the ensemble of one training by expectation maximisation, and every estimate
is shrunk, since C x C rates from a few hundred contradicted labels would otherwise be noise themselves.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_log_gamma = np.vectorize(math.lgamma, otypes=[float])
COMMON_SHAPE = 30.0
"""Shape of the gamma prior of rates that are all about the same (uniform noise): narrow."""
OWN_SHAPE = 0.7
"""Shape of the gamma prior of rates that are each their own (look-alike classes): wide."""
MAX_RATE = 0.9
"""At most this much of a class may carry other labels."""


def log_normalise(logits: Floats) -> Floats:
    """Log-softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def anchor_counts(ensemble: Floats, labels: Ints, *, fraction: float) -> tuple[Floats, Floats]:
    """Count labels among the most confident samples of each predicted class.

    `ensemble` [N, C] are probabilities. Of the samples predicted as class j, the `fraction` with the highest probability are
    anchors: what the network is surest of. Returns the counts [C, C] (predicted, label) and the anchors' mean probability [C].
    """
    predicted, confidence = ensemble.argmax(1), ensemble.max(1)
    classes = ensemble.shape[1]
    counts, mean_confidence = np.zeros((classes, classes)), np.ones(classes)
    for j in np.unique(predicted):
        rows = np.flatnonzero(predicted == j)
        anchors = rows[confidence[rows] >= np.quantile(confidence[rows], 1 - fraction)]
        np.add.at(counts[j], labels[anchors], 1)
        mean_confidence[j] = confidence[anchors].mean()
    return counts, mean_confidence


def shrink(counts: Floats, *, steps: int = 30) -> Floats:
    """The noise matrix [C, C] behind counts [C, C] of (true class, label), shrunk by a mixture of two priors.

    Each off-diagonal rate is either the common one (a narrow gamma: uniform noise) or its own (a wide gamma: look-alikes). The
    mixture weight and both means are fitted by expectation maximisation to the negative binomial likelihood of the counts.
    """
    classes = len(counts)
    off = ~np.eye(classes, dtype=bool)
    observed = counts[off]
    exposure = np.repeat(counts.sum(1) + 1e-3, classes - 1)
    common = max(float(np.median(observed / exposure)), 1e-4)
    own = max(float((observed / exposure).mean()), 1e-4) * 1.5
    is_common = np.full(len(observed), 0.5)
    weight, log_factorial = 0.5, _log_gamma(observed + 1)
    # The part of the likelihood that does not depend on the means, which the steps below change.
    binomial = {shape: _log_gamma(shape + observed) - math.lgamma(shape) - log_factorial for shape in (COMMON_SHAPE, OWN_SHAPE)}

    def log_likelihood(shape: float, mean: float) -> Floats:
        expected = exposure * mean
        known = binomial[shape] + shape * np.log(shape / (shape + expected))
        return np.asarray(known + observed * np.log(expected / (shape + expected)))

    for _ in range(steps):
        log_odds = np.log(1 - weight) + log_likelihood(OWN_SHAPE, own) - np.log(weight) - log_likelihood(COMMON_SHAPE, common)
        is_common = 1 / (1 + np.exp(np.clip(log_odds, -500, 500)))
        weight = float(np.clip((is_common.sum() + 1) / (len(is_common) + 2), 0.02, 0.98))
        if is_common.sum() > 1:
            common = max(float((is_common * observed).sum() / max((is_common * exposure).sum(), 1e-9)), 1e-5)
        is_own = 1 - is_common
        if is_own.sum() > 0.5:
            own = max(float((is_own * observed).sum() / max((is_own * exposure).sum(), 1e-9)), 1e-5, common)
    matrix = np.zeros((classes, classes))
    matrix[off] = is_common * (COMMON_SHAPE + observed) / (COMMON_SHAPE / common + exposure)
    matrix[off] += (1 - is_common) * (OWN_SHAPE + observed) / (OWN_SHAPE / own + exposure)
    matrix *= np.minimum(1, MAX_RATE / np.maximum(matrix.sum(1), 1e-9))[:, None]
    np.fill_diagonal(matrix, 1 - matrix.sum(1))
    return matrix


def fit(
    log_ensemble: Floats, rival: Floats, one_hot: Floats, start: Floats, *, confusion: float, sharpness: float, steps: int = 20
) -> Floats:
    """The noise matrix by expectation maximisation, from `start` [C, C].

    The model: a sample's true class j has probability softmax(sharpness x log_ensemble)[j], and its label is a draw from
    (1 - confusion) T[j] + confusion x rival[j], where `rival` [N, C] is the probability that a sample of class j is naturally
    taken for its label. `sharpness` above 1 undoes that the ensemble was fitted to the wrong labels too: with 1, T becomes the
    identity.
    """
    prior = np.exp(log_normalise(sharpness * log_ensemble))
    natural = confusion * (prior * rival).sum(1) + 1e-300
    matrix, labels, ones = start, one_hot.argmax(1), np.ones(len(start))
    for _ in range(steps):
        posterior = prior * ((1 - confusion) * matrix.T)[labels]
        posterior /= (posterior @ ones + natural)[:, None]
        matrix = shrink(posterior.T @ one_hot + 1e-3, steps=10)
    return matrix


def between(matrix: Floats, other: Floats, weight: float) -> Floats:
    """[C, C] the geometric mean of the rates of two noise matrices; `weight` is the part of the other, 0 to 1."""
    rates = matrix ** (1 - weight) * other**weight
    np.fill_diagonal(rates, 0)
    rates *= np.minimum(1, MAX_RATE / np.maximum(rates.sum(1), 1e-9))[:, None]
    np.fill_diagonal(rates, 1 - rates.sum(1))
    return np.asarray(rates)


def noise(matrix: Floats) -> float:
    """The mean share of a class that carries another label."""
    return float(1 - np.trace(matrix) / len(matrix))
