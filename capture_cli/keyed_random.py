"""Random numbers without state: each is a hash of what it is for.

    keys = path_keys(files)                                     # one number per file, from its relative path
    order = epoch_order(keys, seed=0, epoch=3)                  # a permutation of range(N)
    numbers = draw(keys, seed=0, epoch=3, purpose="flip")       # uint64 [N], uniform

A number depends on (seed, epoch, purpose, relative path) and on nothing else. There is no random state to save, any number of
workers draws the same, and adding files leaves the draws and the relative order of the others as they were.

The method is part of the record format, because replay needs the same numbers. XXH3-64 of (seed, epoch, purpose) is the key of
a stream. A sample's number is its path key combined with that, twice through the finaliser of SplitMix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators"; constants of Stafford's variant 13). Seeds are never added to
anything: `seed + epoch` would make seed 0, epoch 1 the same as seed 1, epoch 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

Keys = npt.NDArray[np.uint64]


def path_keys(files: Sequence[str]) -> Keys:
    """Hash relative paths, as bytes on disk (UTF-8 with surrogateescape), with XXH3-64: uint64 [N]."""
    hashed = (xxhash.xxh3_64_intdigest(file.encode("utf-8", "surrogateescape")) for file in files)
    return np.fromiter(hashed, np.uint64, len(files))


def epoch_order(keys: Keys, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order the samples with these path keys for one epoch: the indices 0 to N - 1 as int64 [N]."""
    return np.argsort(draw(keys, seed=seed, epoch=epoch, purpose="order"), kind="stable").astype(np.int64, copy=False)


def draw(keys: Keys, *, seed: int, epoch: int, purpose: str) -> Keys:
    """Draw a number for each path key, uniform over all 64 bits: uint64 [N]. `purpose` is a word without a colon."""
    stream = np.uint64(xxhash.xxh3_64_intdigest(f"capture:{purpose}:{seed}:{epoch}".encode()))
    return _mixed(_mixed(keys ^ stream) + stream)


def below(numbers: Keys, limit: int, *, half: int = 0) -> npt.NDArray[np.int64]:
    """Reduce draws to int64 [N], uniform in [0, limit), `limit` at most 2^31, by their low (0) or high (1) 32 bits."""
    bits = (numbers >> np.uint64(32 * half)) & np.uint64(0xFFFFFFFF)
    return ((bits * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def _mixed(numbers: Keys) -> Keys:
    """Apply SplitMix64's finaliser: a change of any bit flips each bit of the result half the time. Modulo 2^64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def repeated(keys: Keys, repeats: npt.NDArray[np.int64]) -> Keys:
    """Return the keys of samples that come again in an epoch: those of the first time (0) are the path keys."""
    if not repeats.any():
        return keys
    return np.where(repeats > 0, _mixed(keys + repeats.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)), keys)
