"""Splits: which images are trained on and which are held out. A label rule has no part in it.

    split = stratified_split(0.2)
    split(files, labels, None)          # ["train", "val", "train", ...], one for each file
    folds_of(labels, files, None, 5)    # [3, 1, 5, ...], the fold that holds each file out

A split is a function of names and labels alone, so a run can be resumed on another machine.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate

from capture_cli.errors import UsageError

Split = Callable[[Sequence[str], Sequence[int], Sequence[str] | None], list[str]]
"""Relative paths, class numbers and groups, if any, of N images -> `train`, `val` or `test` for each."""


def stratified_split(val_share: float) -> Split:
    """Hold out about `val_share` of the images of each class for validation.

    Those whose hashed path, a number in [0, 1), is below the share are held out. Then each class is brought to its share of
    images, rounded down or up, by moving those with the hash nearest to it: one that is added moves at most one other of its
    class. A class of two images or more has at least one for validation and one for training, if anything is held out.

    Images of one group stay together. A group counts for the class that most of its images have; the share of images may then
    be missed by half a group.

    Raises UsageError unless 0 <= val_share < 1.
    """
    if not 0 <= val_share < 1:
        raise UsageError(f"--val-split {val_share} is not valid", "choose a share from 0 up to, but not including, 1")

    def split(files: Sequence[str], labels: Sequence[int], groups: Sequence[str] | None) -> list[str]:
        splits = ["train"] * len(files)
        if not val_share:
            return splits
        if groups is not None:
            held_out = _held_out_groups(labels, groups, val_share)
            return ["val" if group in held_out else "train" for group in groups]
        by_class: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for i, (file, label) in enumerate(zip(files, labels, strict=True)):
            by_class[label].append((_hash(file), i))
        for members in by_class.values():
            members.sort()
            for _, i in members[: _held_out(members, val_share)]:
                splits[i] = "val"
        return splits

    return split


def _held_out(members: Sequence[tuple[float, int]], share: float) -> int:
    """Return how many of a class, sorted by hash, are held out."""
    total = len(members)
    below = sum(value < share for value, _ in members)
    least, most = math.floor(total * share), math.ceil(total * share)
    return min(max(min(max(below, least), most), 1), total - 1)


def _held_out_groups(labels: Sequence[int], groups: Sequence[str], share: float) -> set[str]:
    """Choose groups for validation, class by class: as many, in the order of their hashes, as come nearest to the share."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        counts[group][label] += 1
    by_class: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for group, of in counts.items():
        by_class[_main_class(of)].append((_hash(group), group))
    held_out: set[str] = set()
    for members in by_class.values():
        members.sort()
        sizes = [counts[group].total() for _, group in members]
        wanted = share * sum(sizes)
        misses = [abs(total - wanted) for total in accumulate(sizes)][:-1]  # one group is left for training
        number = misses.index(min(misses)) + 1 if misses else 0
        held_out |= {group for _, group in members[:number]}
    return held_out


def folds_of(labels: Sequence[int], files: Sequence[str], groups: Sequence[str] | None, folds: int) -> list[int]:
    """Give each image the number, from 1, of the fold that holds it out.

    There are at least as many images, or groups, as folds. The images of each class are dealt out in the order of their
    hashes, one class after the other, so the sizes of two folds differ by at most one image, and so do their shares of a class.
    Groups stay together: the largest first, each goes to the fold with the fewest images of its main class, of equal ones to
    the smallest.
    """
    if groups is not None:
        return _folds_of_groups(labels, groups, folds)
    order = sorted(range(len(files)), key=lambda i: (labels[i], _hash(files[i]), files[i]))
    numbers = [0] * len(files)
    for place, i in enumerate(order):
        numbers[i] = 1 + place % folds
    return numbers


def _folds_of_groups(labels: Sequence[int], groups: Sequence[str], folds: int) -> list[int]:
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        counts[group][label] += 1
    held = [Counter[int]() for _ in range(folds)]
    fold_of: dict[str, int] = {}
    for group in sorted(counts, key=lambda one: (-counts[one].total(), _hash(one), one)):
        main = _main_class(counts[group])
        fold = min(range(folds), key=lambda k: (held[k][main], held[k].total(), k))
        held[fold] += counts[group]
        fold_of[group] = fold + 1
    return [fold_of[group] for group in groups]


def _main_class(counts: Counter[int]) -> int:
    """Return the class that most images of a group have, of equal ones the first."""
    return min(counts, key=lambda label: (-counts[label], label))


def divide(
    files: Sequence[str], labels: Sequence[int], told: Mapping[str, str], split: Split, groups: Sequence[str] | None
) -> list[str]:
    """Give each file the split that is told; divide the files by `split` if none is told to be for validation."""
    if any(told.get(file) == "val" for file in files):
        return [told.get(file, "train") for file in files]
    return split(files, labels, groups)


def single_split(name: str) -> Split:
    """Put every image into the split `name`."""
    return lambda files, _labels, _groups: [name] * len(files)


def _hash(file: str) -> float:
    """Hash a relative path to a number in [0, 1): 53 bits of BLAKE2b, all that a float holds exactly."""
    digest = blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8, key=b"capture split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
