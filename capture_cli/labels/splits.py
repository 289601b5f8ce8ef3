"""Splits: which images are trained on and which are held out. A label rule has no part in it.

    split = hashed_split(0.2)
    split(files, labels)                # ["train", "val", "train", ...], one for each file

A split is a function of names and labels alone, so a run can be resumed on another machine.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

from capture_cli.errors import UsageError

Split = Callable[[Sequence[str], Sequence[int]], list[str]]
"""Relative paths and class numbers of N images -> `train`, `val` or `test` for each."""


def hashed_split(val_share: float) -> Split:
    """Hold out about `val_share` of the images for validation: those whose hashed path, a number in [0, 1), is below it.

    Adding or removing files moves no other, with one exception: a class without any training image keeps the one with the
    largest hash in `train`. Raises UsageError unless 0 <= val_share < 1.
    """
    if not 0 <= val_share < 1:
        raise UsageError(f"--val-split {val_share} is not valid", "choose a share from 0 up to, but not including, 1")

    def split(files: Sequence[str], labels: Sequence[int]) -> list[str]:
        values = [_hash(file) for file in files]
        splits = ["val" if value < val_share else "train" for value in values]
        trained = {label for label, name in zip(labels, splits, strict=True) if name == "train"}
        kept: dict[int, int] = {}  # label -> its file with the largest hash
        for i, label in enumerate(labels):
            if label not in trained and (label not in kept or values[i] > values[kept[label]]):
                kept[label] = i
        for i in kept.values():
            splits[i] = "train"
        return splits

    return split


def single_split(name: str) -> Split:
    """Put every image into the split `name`."""
    return lambda files, _: [name] * len(files)


def _hash(file: str) -> float:
    """Hash a relative path to a number in [0, 1): 53 bits of BLAKE2b, all that a float holds exactly."""
    digest = blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8, key=b"capture split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
