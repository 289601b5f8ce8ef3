"""The log odds that each label is wrong, from the predictions that one training made on its own training samples.

    scored = score_labels(probs, labels)        # probs [E, N, C]: softmax of the training forward passes, NaN where not visited
    scored.score                                # [N] log odds that the label is wrong; its order is what counts

The steps, each with the reason it is there. Average precision (AP) is the mean over 196 trainings that were not used to choose
any constant (Fashion-MNIST, digits, MNIST; four networks; uniform, look-alike, class-dependent and instance-dependent noise):
0.802 with all of them. These figures were taken while the method was chosen and cannot be had from this repository; what can
be measured again is in benchmarks/answers.py.

1. **Epochs before memorising** (`epochs_before_memorising`). A network learns what most labels say first and wrong labels by
   heart later. Only epochs before that are used. Without: 0.793.
2. **Ensemble** of those epochs: half the mean of the probabilities, half of their logarithms.
3. **Uniform noise** (`uniform_share`). The share of labels that no confusion explains, from the rank of the label in the
   ensemble. Without: 0.791, and 0.687 in place of 0.789 for 2,000 images with 2 % wrong labels.
4. **Noise matrix** (capture_cli.answers.suspects.noise_matrix), fitted twice, loosely and strictly; it is believed as far as it
   survives the strict fit.
5. **Score**: the log odds that the label is a draw from the noise matrix (or a natural confusion) of another class. One likely
   class counts for more than several unlikely ones (BLEND).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capture_cli.answers.suspects.noise_matrix import anchor_counts, fit, log_normalise, noise, shrink

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
AnyFloats = npt.NDArray[np.floating]
"""Probabilities as they were recorded, float32; sums over them are float64."""

MIN_EPOCHS = 3
"""With fewer the mean margin ranks better (AP 0.679 against 0.628 with 2 epochs, 0.483 against 0.390 with 1)."""
MAX_CLASSES = 200
"""The noise matrix of more classes takes too long to fit (200: about 2 s, in proportion to the square)."""
BLEND = 1.5
"""Norm over the other classes, between their sum (1: the log odds) and the likeliest (infinity: the margin).

The sum ranks better on Fashion-MNIST, the margin where a class is seldom in doubt or the network knows little. AP for 3 %
uniform noise on 2,000 images of Fashion-MNIST: 0.855 with 1, 0.845 with 1.5, 0.838 with 2; on the digits with a small CNN
0.917, 0.927, 0.928; mean of 55 kinds of runs: 0.8740, 0.8759, 0.8752."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLabels:
    """The scores of N samples of C classes."""

    score: Floats
    """[N] log odds that the label is wrong: its order is meant, its value is calibrated by `count.p_wrong`."""
    suggested: Ints
    """[N] the likeliest other class."""
    suggested_share: Floats
    """[N] its share of the probability that the label is wrong, 0 to 1."""
    mean_probs: Floats
    """[N, C] mean probabilities over the epochs used."""
    contradicted: Bools
    """[N] whether these predict another class than the label."""
    fitted: Floats
    """[C, C] the noise matrix: the rate at which samples of a class carry each label."""
    uniform: float
    """Share of all samples whose wrong label could be any class."""
    uniform_trust: float
    """0 to 1: how far that share is believed."""
    targeted: float
    """Mean share of a class that the loosely fitted matrix gives other labels."""
    matrix_trust: float
    """0 to 1: how far the loosely fitted matrix survives the strict fit."""
    epochs_used: int


def score_labels(probs: AnyFloats, labels: Ints) -> ScoredLabels:
    """Score the labels [N] by `probs` [E, N, C], softmax outputs of E epochs; rows of NaN are samples that were not visited.

    Raises ValueError for fewer than 2 classes or samples.
    """
    _, n, classes = probs.shape
    if classes < 2 or n < 2:
        raise ValueError("a score needs at least two classes and two samples")
    rows = np.arange(n)
    seen = ~np.isnan(probs[:, :, 0])
    filled = np.where(seen[:, :, None], probs, 0)
    contradicted = mean_over(filled, seen).argmax(1) != labels
    doubted = most_doubted(filled, labels, contradicted)
    used = epochs_before_memorising(filled, seen, labels, doubted, ~contradicted)

    # 2.
    mean_probs = mean_over(filled[used], seen[used])
    log_ensemble = log_ensemble_of(filled[used], seen[used], mean_probs, labels)
    ensemble = np.exp(log_ensemble)
    one_hot = np.eye(classes)[labels]
    rival = _rival(ensemble, labels)

    uniform, confused = uniform_share(ensemble, labels)
    start = shrink(anchor_counts(ensemble, labels, fraction=0.25)[0])
    loose = fit(log_ensemble, rival, one_hot, start, confusion=0.01, sharpness=1.3)
    strict = fit(log_ensemble, rival, one_hot, start, confusion=0.03, sharpness=1.25)
    targeted, survived = noise(loose), noise(strict)
    uniform_trust = unit((uniform / max(confused, 1e-9) - 0.02) / 0.015)
    # The ratio of two noise levels means something only where there is noise: without the last factor 0.659 in place of 0.728
    # for 80 classes.
    matrix_trust = unit(max((survived - 0.003) / 0.008, (survived / (targeted + 0.001) - 0.1) / 0.3)) * min(1, targeted / 0.005)
    floor = max(0.003, uniform)
    off = ~np.eye(classes, dtype=bool)
    fitted = matrix_trust * loose + (1 - matrix_trust) * strict
    # A trusted matrix still misses errors of a class that are spread over many others (AP 0.952 in place of 0.917 for
    # class-dependent noise on the digits with a small CNN).
    missed = uniform_trust * max(0.0, uniform - targeted)
    flat = matrix_trust * missed + (1 - matrix_trust) * floor
    matrix = fitted + np.where(off, flat / (classes - 1), -flat)

    # 5. Natural confusion, in proportion to the noise: a fixed rate lifts confused clean samples where few labels are wrong
    # (AP 0.853 in place of 0.861 for 1 to 3 %), and few images a class tell little about it (0.581 in place of 0.624 for 600).
    scarce = 10 ** unit((n / classes - 50) / 150)
    confusion = 0.003 * min(1, noise(matrix) / (0.35 * max(confused, 1e-3)))
    confusion += 0.003 * scarce * (1 - matrix_trust) * (1 - uniform_trust)
    label_rates = (1 - confusion) * (one_hot @ matrix.T) + confusion * rival  # [N, C] p(label | true class)
    wrong = ensemble * label_rates
    wrong[rows, labels] = 0
    right = (ensemble[rows, labels] + _TINY) * (1 - confusion) * np.diag(matrix)[labels]
    suggested = wrong.argmax(1)
    return ScoredLabels(
        score=np.log((wrong**BLEND).sum(1) + 1e-300) / BLEND - np.log(right),
        suggested=suggested,
        suggested_share=wrong[rows, suggested] / np.maximum(wrong.sum(1), 1e-300),
        mean_probs=mean_probs,
        contradicted=mean_probs.argmax(1) != labels,
        fitted=fitted,
        uniform=uniform,
        uniform_trust=uniform_trust,
        targeted=targeted,
        matrix_trust=matrix_trust,
        epochs_used=int(used.sum()),
    )


def without_gaps(probs: AnyFloats) -> AnyFloats:
    """[E, N, C] with each visit that was not recorded in place of the next of the same sample, or else of the one before.

    Early epochs contradict more labels: of samples with few visits, some have only these. With every third batch of the MLP on
    10,000 images of Fashion-MNIST, 1 % of their labels wrong, 1,132 labels were flagged and the AP was 0.61 (with this 191 and
    0.78, with every batch 79 and 0.81).
    """
    if not np.isnan(probs[:, :, 0]).any():
        return probs
    filled = probs.copy()
    epochs = range(len(filled))
    for epoch, neighbour in (*zip(epochs[-2::-1], epochs[:0:-1], strict=True), *zip(epochs[1:], epochs[:-1], strict=True)):
        gaps = np.isnan(filled[epoch, :, 0])
        filled[epoch, gaps] = filled[neighbour, gaps]
    return filled


def mean_over(probs: AnyFloats, seen: Bools) -> Floats:
    """[N, C] mean over the epochs in which a sample was seen; uniform where it never was. `probs` [E, N, C], `seen` [E, N]."""
    visits = seen.sum(0)[:, None]
    return np.asarray(np.where(visits > 0, probs.sum(0, dtype=float) / np.maximum(visits, 1), 1 / probs.shape[2]))


def log_ensemble_of(probs: AnyFloats, seen: Bools, mean_probs: Floats, labels: Ints) -> Floats:
    """[N, C] normalised mean of the logarithm of `mean_probs` [N, C] and the mean logarithm over the epochs.

    Arithmetic alone costs 0.002 on uniform noise, geometric alone 0.01 to 0.02 on look-alikes. Each class is weighted so that
    its mean probability becomes its share of the labels: early epochs hardly predict rare classes (AP on four kinds of noise
    among classes of 50 to 1,000 images: 0.874 in place of 0.863).
    """
    logs = log_normalise(0.5 * np.log(mean_probs + _TINY) + 0.5 * _mean_log(probs, seen))
    shares = (np.bincount(labels, minlength=logs.shape[1]) + 0.5) / (len(labels) + 0.5 * logs.shape[1])
    return log_normalise(logs + np.log(shares / np.exp(logs).mean(0)))


def most_doubted(probs: AnyFloats, labels: Ints, contradicted: Bools) -> Bools:
    """[N] the half of the contradicted labels with the lowest p(label) in the first half of the epochs.

    The other half are mostly hard images, which are learnt because their labels are right (AP 0.949 in place of 0.931 for 3 %
    uniform noise on 2,000 images of MNIST, 0.957 in place of 0.927 for 1 % on the digits).
    """
    candidates = np.flatnonzero(contradicted)
    p_label = probs[: (len(probs) + 1) // 2, candidates, labels[candidates]].mean(0)
    chosen = np.zeros_like(contradicted)
    chosen[candidates[p_label.argsort(kind="stable")[: (len(candidates) + 1) // 2]]] = True
    return chosen


def epochs_before_memorising(
    probs: AnyFloats,
    seen: Bools,
    labels: Ints,
    doubted: Bools,
    agreed: Bools,
    *,
    rise: float = 0.1,
    factor: float = np.inf,
) -> Bools:
    """[E] the first epochs, until doubted labels are being learnt by heart; at least two.

    Memorising has begun once the mean p(label) of `doubted` labels is `rise` above its lowest, or `factor` times its lowest.
    The lowest is looked for only where `agreed` labels are at 55 % of their highest p(label): before that everything rises.
    """
    epochs = len(probs)
    used = np.ones(epochs, bool)
    if epochs <= 2 or not doubted.any() or not agreed.any():
        return used

    def mean_p_label(samples: Bools) -> Floats:
        p = probs[:, samples, labels[samples]]
        there = seen[:, samples]
        return np.asarray((p * there).sum(1) / np.maximum(there.sum(1), 1))

    wrong, others = mean_p_label(doubted), mean_p_label(agreed)
    lowest = np.minimum.accumulate(np.where(others < 0.55 * others.max(), np.inf, wrong) if factor == np.inf else wrong)
    risen: Bools = np.asarray((wrong > lowest + rise) | (wrong > factor * (lowest + 0.005)))
    used[2:] = ~np.maximum.accumulate(risen)[2:]
    return used


def uniform_share(ensemble: Floats, labels: Ints, *, steps: int = 200) -> tuple[float, float]:
    """Shares of all samples with a label that could be any class, and with one that is confused with their own.

    The rank of the label in the ensemble [N, C] (0: predicted) is a mixture of a geometric distribution over ranks 1 to C - 1
    (confusion: the label is a near miss) and a flat one (uniform noise), fitted by expectation maximisation. The flat part is
    capped by what the last third of the ranks holds. With fewer than 4 classes the two cannot be told apart: the first is 0.
    """
    n, classes = ensemble.shape
    ranks = (ensemble > ensemble[np.arange(n), labels][:, None]).sum(1)
    counts = np.bincount(ranks, minlength=classes)[1:].astype(float)
    contradicted = float(counts.sum())
    if classes < 4 or contradicted < 1:
        return 0.0, float(contradicted > 0)
    k = np.arange(1, classes)
    flat, geometric, decay = 0.5, 0.5, 0.4
    for _ in range(steps):
        near = geometric * (1 - decay) * decay ** (k - 1) / (1 - decay ** (classes - 1))
        is_flat = flat / (classes - 1) / (near + flat / (classes - 1))
        near_counts = (1 - is_flat) * counts
        flat, geometric = float((is_flat * counts).sum() / contradicted), float(near_counts.sum() / contradicted)
        decay = float(np.clip(1 - near_counts.sum() / max((near_counts * k).sum(), 1e-9), 0.02, 0.95))
    third = classes // 3
    cap = 1.3 * float((ranks >= classes - third).mean()) * (classes - 1) / third
    return min(flat * contradicted / n, cap), geometric * contradicted / n


def _mean_log(probs: AnyFloats, seen: Bools) -> Floats:
    visits = seen.sum(0)[:, None]
    logs = np.log(probs + probs.dtype.type(_TINY))
    logs = np.where(seen[:, :, None], logs, 0).sum(0, dtype=float) / np.maximum(visits, 1)
    return np.asarray(np.where(visits > 0, logs, -np.log(probs.shape[2])))


def _rival(ensemble: Floats, labels: Ints) -> Floats:
    """[N, C] the probability of the label once class j is ruled out: how naturally a sample of class j gets this label."""
    rows = np.arange(len(labels))
    rival = np.minimum(ensemble[rows, labels][:, None] / np.maximum(1 - ensemble, 1e-9), 1)
    rival[rows, labels] = 0
    return np.asarray(rival)


def unit(value: float) -> float:
    """Clip a value to 0 to 1."""
    return float(np.clip(value, 0, 1))
