"""Which epochs of a training tell right labels from wrong ones, and what they say together.

    used, progress = telling_epochs(probs, seen, labels)       # [E] which of them, and p(label) of most labels by then
    mean_probs = mean_over(probs[used], seen[used])            # [N, C]

A network that has learnt little knows nothing of any label; one that has learnt for long knows wrong ones by heart. `probs`
[E, N, C] are softmax outputs, 0 where a sample was not visited, and `seen` [E, N] is False there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from capture_cli.answers.suspects.noise_matrix import Floats, Ints, log_normalise

Bools = npt.NDArray[np.bool_]
AnyFloats = npt.NDArray[np.floating]
"""Probabilities as they were recorded, float32; sums over them are float64."""

LEARNT = 0.65
"""Without memorising, epochs count from when p(label) of the labels that are agreed upon is this share of its highest."""
TINY = 1e-12


def telling_epochs(probs: AnyFloats, seen: Bools, labels: Ints) -> tuple[Bools, Floats]:
    """[E] the epochs before labels are learnt by heart, at least two; and the share of most labels learnt by each of these.

    A training in which no label is learnt by heart is used from the epoch by which most labels are learnt. In any other the
    shares are 1: the later of these epochs have begun to learn by heart (AP on `sample_data` 0.594 in place of 0.533).
    """
    contradicted = mean_over(probs, seen).argmax(1) != labels
    doubted = most_doubted(probs, labels, contradicted)
    used = epochs_before_memorising(probs, seen, labels, doubted, ~contradicted)
    if not used.all():
        return used, np.ones(int(used.sum()))
    progress = progress_of(probs, seen, labels, ~contradicted)
    progress /= max(progress.max(), TINY)
    learnt = progress >= LEARNT
    used = learnt if learnt.sum() > 1 else used
    return used, progress[used]


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


def mean_over(probs: AnyFloats, seen: Bools, weights: Floats | None = None) -> Floats:
    """[N, C] mean over the epochs in which a sample was seen; uniform where it never was.

    `probs` [E, N, C] are 0 and `seen` [E, N] is False where it was not; `weights` [E] are those of the epochs.
    """
    visits = _visits(seen, weights)
    return np.asarray(np.where(visits > 0, _total(probs, weights) / np.maximum(visits, TINY), 1 / probs.shape[2]))


def ensemble_over(probs: AnyFloats, seen: Bools, labels: Ints, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """The mean probabilities [N, C] over the epochs, as `mean_over`; and the ensemble, normalised logarithms [N, C].

    The ensemble is half the mean of the probabilities, half of their logarithms: the first alone costs 0.002 on uniform noise,
    the second alone 0.01 to 0.02 on look-alikes. Each class is weighted so that its mean probability becomes its share of the
    labels: early epochs hardly predict rare classes (AP on four kinds of noise among classes of 50 to 1,000 images: 0.874 in
    place of 0.863).
    """
    means, visits = mean_over(probs, seen, weights), _visits(seen, weights)
    logs = (there[:, None] * np.log(epoch + epoch.dtype.type(TINY)) for epoch, there in zip(probs, seen, strict=True))
    mean_log = np.where(visits > 0, _total(logs, weights) / np.maximum(visits, TINY), -np.log(probs.shape[2]))
    ensemble = log_normalise(0.5 * np.log(means + TINY) + 0.5 * mean_log)
    shares = (np.bincount(labels, minlength=probs.shape[2]) + 0.5) / (len(labels) + 0.5 * probs.shape[2])
    return means, log_normalise(ensemble + np.log(shares / np.exp(ensemble).mean(0)))


def _total(epochs: Iterable[AnyFloats], weights: Floats | None) -> Floats:
    """[N, C] weighted sum of epochs [N, C]; one at a time, since all of them as float64 may not fit."""
    total: Floats = np.zeros(())
    for number, epoch in enumerate(epochs):
        total = total + np.multiply(epoch, 1.0 if weights is None else weights[number], dtype=float)
    return total


def _visits(seen: Bools, weights: Floats | None) -> Floats:
    """[N, 1] weighted visits of each sample."""
    return np.asarray((np.ones(len(seen)) if weights is None else weights) @ seen)[:, None]


def progress_of(probs: AnyFloats, seen: Bools, labels: Ints, samples: Bools) -> Floats:
    """[E] mean p(label) of some samples; 0 where none of them was visited."""
    p = probs[:, samples, labels[samples]]
    there = seen[:, samples]
    return np.asarray((p * there).sum(1, dtype=float) / np.maximum(there.sum(1), 1))


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

    wrong, others = (progress_of(probs, seen, labels, samples) for samples in (doubted, agreed))
    lowest = np.minimum.accumulate(np.where(others < 0.55 * others.max(), np.inf, wrong) if factor == np.inf else wrong)
    risen: Bools = np.asarray((wrong > lowest + rise) | (wrong > factor * (lowest + 0.005)))
    used[2:] = ~np.maximum.accumulate(risen)[2:]
    return used
