"""The log odds that each label is wrong, from the predictions that one training made on its own training samples.

    scored = score_labels(probs, labels)        # probs [E, N, C]: softmax of the training forward passes, NaN where not visited
    scored.score                                # [N] log odds that the label is wrong; its order is what counts

The steps, each with the reason it is there. The figures of average precision (AP) in this module were taken while the method
was chosen, on seeds of their own, and cannot be had from this repository; what can be measured again is in
benchmarks/answers.py.

1. **Epochs** (capture_cli.answers.suspects.epochs). A network learns what most labels say first and wrong labels by heart
   later. Only epochs before the second are used, and where it never comes, only those after the first.
2. **Ensemble** of those epochs: half the mean of the probabilities, half of their logarithms.
3. **Uniform noise** (`uniform_share`). The share of labels that no confusion explains, from the rank of the label in the
   ensemble of the first of these epochs.
4. **Noise matrix** (capture_cli.answers.suspects.noise_matrix), fitted twice, loosely and strictly; it is believed as far as it
   survives the strict fit, and where there is a pattern it is held to the labels that the network is surest about.
5. **Score**: the log odds that the label is a draw from the noise matrix (or a natural confusion) of another class, by an
   ensemble in which epochs count the more the network has learnt by then (PROGRESS), unless labels are learnt by heart later.
   One likely class counts for more than several unlikely ones (BLEND).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capture_cli.answers.suspects.epochs import TINY, AnyFloats, Bools, ensemble_over, progress_of, telling_epochs
from capture_cli.answers.suspects.noise_matrix import Floats, Ints, anchor_counts, between, fit, noise, shrink

MIN_EPOCHS = 3
"""With fewer the mean margin ranks better (AP 0.679 against 0.628 with 2 epochs, 0.483 against 0.390 with 1)."""
EARLY = 3
"""Epochs that tell the share of uniform noise: a label that is being learnt by heart looks like a near miss, long before it is
learnt. With 40 % uniform noise on Fashion-MNIST and the default network, the share is 0.39, 0.37 and 0.35 by the first 2, 3 and
4 epochs, and 0.17 by nine. AP on 2,000 images, 10 % uniform noise, 0.912 in place of 0.881 by all epochs, with label smoothing
0.908 in place of 0.861; mean ECE of `p_wrong` over 49 kinds of runs 0.034 in place of 0.036."""
MAX_CLASSES = 200
"""The noise matrix of more classes takes too long to fit (200: about 2 s, in proportion to the square)."""
BLEND = 1.5
"""Norm over the other classes, between their sum (1: the log odds) and the likeliest (infinity: the margin).

The sum ranks better on Fashion-MNIST, the margin where a class is seldom in doubt or the network knows little. AP for 3 %
uniform noise on 2,000 images of Fashion-MNIST: 0.855 with 1, 0.845 with 1.5, 0.838 with 2; on the digits with a small CNN
0.917, 0.927, 0.928; mean of 55 kinds of runs: 0.8740, 0.8759, 0.8752."""
PROGRESS = 6
"""Power of p(label), over the labels that are agreed upon, by which epochs are weighted in the score.

Lead of the AP over the better of AUM and the probability margin, means of 24 and of 16 kinds of runs: 0.0253 and 0.0261 with 4,
0.0253 and 0.0272 with 6, and 0.0240 and 0.0108 without weights, LEARNT and HELD. The fits take all epochs alike: weighted, they
took natural confusions of Fashion-MNIST for noise (AP 0.871 in place of 0.889 for 3 % uniform noise)."""
HELD = 0.3
"""Share, in the logarithm of a noise matrix with a pattern, of the labels that the network is surest about: AP 0.979 for 0.971
on look-alikes of digits, 0.839 for 0.845 on those of Fashion-MNIST."""


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
    used, progress = telling_epochs(filled, seen, labels)
    filled, seen = filled[used], seen[used]
    one_hot = np.eye(classes)[labels]

    # 2.
    mean_probs, log_ensemble = ensemble_over(filled, seen, labels)
    ensemble = np.exp(log_ensemble)
    rival = _rival(ensemble, labels)

    # 3. and 4.
    # The matrix is applied to this ensemble, so it has the share that is still to be seen in it: with the early one AP is 0.964
    # in place of 0.969 for class-dependent noise on Fashion-MNIST with the default network.
    late = uniform_share(ensemble, labels)
    uniform, confused = _shares_of_noise(filled, seen, labels, late, agreed=ensemble.argmax(1) == labels)
    start = shrink(anchor_counts(ensemble, labels, fraction=0.25)[0])
    loose = fit(log_ensemble, rival, one_hot, start, confusion=0.01, sharpness=1.3)
    strict = fit(log_ensemble, rival, one_hot, start, confusion=0.03, sharpness=1.25)
    targeted, survived = noise(loose), noise(strict)
    uniform_trust = unit((uniform / max(confused, 1e-9) - 0.02) / 0.015)
    # The ratio of two noise levels means something only where there is noise: without the last factor 0.659 in place of 0.728
    # for 80 classes.
    matrix_trust = unit(max((survived - 0.003) / 0.008, (survived / (targeted + 0.001) - 0.1) / 0.3)) * min(1, targeted / 0.005)
    floor = max(0.003, late[0])
    off = ~np.eye(classes, dtype=bool)
    # Labels learnt by heart have hidden part of the noise from the fit, unevenly, and not from the labels that the network is
    # surest about; of those some are natural confusions, so little noise, or noise without a pattern, is left to the fit.
    pattern = unit((noise(start) - uniform_trust * late[0] - 0.02) / 0.04)
    fitted = matrix_trust * between(loose, start, HELD * pattern) + (1 - matrix_trust) * strict
    # A trusted matrix still misses errors of a class that are spread over many others (AP 0.952 in place of 0.917 for
    # class-dependent noise on the digits with a small CNN).
    missed = uniform_trust * max(0.0, late[0] - targeted)
    flat = matrix_trust * missed + (1 - matrix_trust) * floor
    matrix = fitted + np.where(off, flat / (classes - 1), -flat)

    # 5. Natural confusion, in proportion to the noise: a fixed rate lifts confused clean samples where few labels are wrong
    # (AP 0.853 in place of 0.861 for 1 to 3 %), and few images a class tell little about it (0.581 in place of 0.624 for 600).
    scarce = 10 ** unit((n / classes - 50) / 150)
    confusion = 0.003 * min(1, noise(matrix) / (0.35 * max(confused, 1e-3)))
    confusion += 0.003 * scarce * (1 - matrix_trust) * (1 - uniform_trust)

    if progress.min() < 1:
        mean_probs, log_ensemble = ensemble_over(filled, seen, labels, progress**PROGRESS)
        ensemble = np.exp(log_ensemble)
    label_rates = (1 - confusion) * (one_hot @ matrix.T) + confusion * _rival(ensemble, labels)  # [N, C] p(label | true class)
    wrong = ensemble * label_rates
    wrong[rows, labels] = 0
    right = (ensemble[rows, labels] + TINY) * (1 - confusion) * np.diag(matrix)[labels]
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


def _shares_of_noise(
    filled: AnyFloats, seen: Bools, labels: Ints, late: tuple[float, float], *, agreed: Bools
) -> tuple[float, float]:
    """`uniform_share` in EARLY epochs, from when half of most labels is learnt; where it is small there, `late`, that in all.

    A share of less than 0.01 that only early epochs see is of hard images, which are learnt because their labels are right: up
    to 0.008 of MNIST and 0.012 of the digits as they are.
    """
    learnt = progress_of(filled, seen, labels, agreed)
    first = int((learnt >= 0.5 * learnt.max()).argmax())
    chosen = slice(first, first + EARLY)
    early = uniform_share(np.exp(ensemble_over(filled[chosen], seen[chosen], labels)[1]), labels)
    believed = unit((early[0] - 0.01) / 0.02)
    return late[0] + believed * (early[0] - late[0]), late[1] + believed * (early[1] - late[1])


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


def _rival(ensemble: Floats, labels: Ints) -> Floats:
    """[N, C] the probability of the label once class j is ruled out: how naturally a sample of class j gets this label."""
    rows = np.arange(len(labels))
    rival = np.minimum(ensemble[rows, labels][:, None] / np.maximum(1 - ensemble, 1e-9), 1)
    rival[rows, labels] = 0
    return np.asarray(rival)


def unit(value: float) -> float:
    """Clip a value to 0 to 1."""
    return float(np.clip(value, 0, 1))
