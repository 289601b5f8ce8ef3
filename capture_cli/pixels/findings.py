"""Findings in the decoded pixels of a data set: images of one colour, copies, leaks between splits, contradicting labels.

    observed = Observed(n)
    observed.add(store.admit(ids, read))            # block by block
    found = find(observed, labels, splits, rows=store.rows)     # label NO_LABEL where it is not known

Two images are copies if their decoded pixels are equal, whatever their files. They are near-duplicates if their perceptual
hashes are close and their pixels are alike in every channel (capture_cli.pixels.similarity). Images of one colour are listed
as such, not as copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from capture_cli.errors import Unusable
from capture_cli.pixels.admission import Admission
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.similarity import HASH_BYTES, alike, similar_pairs, thinned

NO_LABEL = -1
SPLITS = ("train", "val", "test")
_AT_ONCE = 2**23  # bytes of pixels that are compared at a time

Ids = npt.NDArray[np.int64]
Rows = Callable[[Ids], tuple[Pixels, Ids]]
"""The pixels of images, as Store.rows returns them."""
Pair = tuple[int, int]


class Observed:
    """Observations of N images as they were decoded, one entry for each."""

    def __init__(self, n: int) -> None:
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        self.constant: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        """Every pixel has the same colour."""
        self.pixels = np.zeros(n, np.uint64)
        """XXH3-64 of the decoded pixels."""
        self.hashes = np.zeros((n, HASH_BYTES), np.uint8)
        self.skipped: dict[int, Unusable] = {}

    def add(self, admission: Admission) -> None:
        """Note the outcome for a block of files."""
        ids = admission.ids
        self.usable[ids] = True
        self.constant[ids] = admission.constant
        self.pixels[ids] = admission.pixels
        self.hashes[ids] = admission.hashes
        self.skipped.update(admission.skipped)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Images by their places in the data set. In a pair that leaks, the image that is held out is the second."""

    usable: int
    skipped: dict[int, Unusable] = field(default_factory=dict)
    constant: list[int] = field(default_factory=list)
    leaks: list[Pair] = field(default_factory=list)
    """Copies in different splits: one pair for each image that is held out, with a training image if there is one."""
    conflicts: list[Pair] = field(default_factory=list)
    """Copies with different labels: one pair for each further label of a group."""
    copies: list[Pair] = field(default_factory=list)
    """Other copies, each with the first of its group."""
    near_leaks: list[Pair] = field(default_factory=list)
    near_conflicts: list[Pair] = field(default_factory=list)
    near_copies: list[Pair] = field(default_factory=list)
    all_alike: bool = False
    """All usable images have the same pixels."""


def find(observed: Observed, labels: Sequence[int], splits: Sequence[str], *, rows: Rows) -> Findings:
    """Compare all usable images. `rows` is called for near-duplicates alone."""
    usable = np.flatnonzero(observed.usable)
    varied = usable[~observed.constant[usable]]
    held_out = np.asarray([SPLITS.index(split) for split in splits], np.int64)
    numbers = np.asarray(labels, np.int64)
    found = Findings(
        usable=len(usable),
        skipped=observed.skipped,
        constant=np.flatnonzero(observed.constant).tolist(),
        all_alike=len(usable) > 1 and len(np.unique(observed.pixels[usable])) == 1,
    )
    for group in _groups(observed.pixels, varied):
        _sort_pairs(_pairs_of(group, held_out), numbers, held_out, (found.leaks, found.conflicts, found.copies))
    near = sorted(_near(observed, varied, rows))
    _sort_pairs(near, numbers, held_out, (found.near_leaks, found.near_conflicts, found.near_copies))
    return found


def _groups(pixels: npt.NDArray[np.uint64], ids: Ids) -> Iterable[list[int]]:
    """Yield the images that are equal, in groups of two or more, in the order of their first."""
    order = ids[np.argsort(pixels[ids], kind="stable")]
    starts = np.flatnonzero(np.diff(pixels[order])) + 1
    groups = [group.tolist() for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups)


def _pairs_of(group: Sequence[int], held_out: Ids) -> list[Pair]:
    """Pair the first training image of a group, or if there is none the first of the next split, with each of the others."""
    first = min(group, key=lambda i: (held_out[i], i))
    return [(first, i) for i in group if i != first]


def _sort_pairs(pairs: Iterable[Pair], labels: Ids, held_out: Ids, lists: tuple[list[Pair], list[Pair], list[Pair]]) -> None:
    """Append each pair to the leaks, to the conflicts, to both, or to the rest."""
    leaks, conflicts, rest = lists
    for a, b in pairs:
        leak, conflict = held_out[a] != held_out[b], labels[a] != labels[b] and NO_LABEL not in (labels[a], labels[b])
        if leak:
            leaks.append((b, a) if held_out[a] > held_out[b] else (a, b))
        if conflict:
            conflicts.append((a, b))
        if not leak and not conflict:
            rest.append((a, b))


def _near(observed: Observed, ids: Ids, rows: Rows) -> set[Pair]:
    """Find pairs of near-duplicates that are no copies."""
    close: set[Pair] = set()
    for first, second in similar_pairs(observed.hashes[ids]):
        a, b = ids[np.minimum(first, second)], ids[np.maximum(first, second)]
        different = observed.pixels[a] != observed.pixels[b]
        close.update(zip(a[different].tolist(), b[different].tolist(), strict=True))
    if not close:
        return set()
    pairs = np.asarray(sorted(close), np.int64).reshape(-1, 2)
    found: set[Pair] = set()
    at_once = max(1, _AT_ONCE // (2 * rows(ids[:1])[0][0].size))
    for start in range(0, len(pairs), at_once):
        part = pairs[start : start + at_once]
        pixels, places = rows(part.reshape(-1))
        small = thinned(pixels)
        found.update(map(tuple, part[alike(small[places[::2]], small[places[1::2]])].tolist()))
    return found
