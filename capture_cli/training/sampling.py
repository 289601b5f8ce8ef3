"""The order of a training epoch: each sample once, or each class equally often.

    order, repeats = balanced_order(keys, labels, seed=0, epoch=3)

Both depend only on the seed, the epoch and the relative paths.
"""

import numpy as np
import numpy.typing as npt

from capture_cli.keyed_random import Keys, draw, epoch_order, repeated

Ints = npt.NDArray[np.int64]


def balanced_order(keys: Keys, labels: Ints, *, seed: int, epoch: int) -> tuple[Ints, Ints]:
    """Order N places of an epoch so that each class has as many, rounded; return the samples and how often each came before.

    `keys` and `labels` [N] are of the samples. A class takes its samples in a random order again and again, so that none comes
    twice more often than another. The second array [N] counts from 0.
    """
    classes = np.unique(labels)
    places = np.diff(np.arange(len(classes) + 1) * len(keys) // len(classes))
    chosen, counts = [], []
    for label, wanted in zip(classes.tolist(), places.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        for repeat in range(-(-wanted // len(members))):
            numbers = draw(repeated(keys[members], np.full(len(members), repeat)), seed=seed, epoch=epoch, purpose="balance")
            some = members[np.argsort(numbers, kind="stable")][: wanted - repeat * len(members)]
            chosen.append(some)
            counts.append(np.full(len(some), repeat))
    samples, repeats = np.concatenate(chosen), np.concatenate(counts)
    order = epoch_order(repeated(keys[samples], repeats), seed=seed, epoch=epoch)
    return samples[order], repeats[order]
