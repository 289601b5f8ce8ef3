"""Images that look alike: a small perceptual hash, and the pairs that it finds.

    hashes = perceptual_hashes(sampled(pixels))     # uint8 [N, 16], from decoded pixels uint8 [N, C, H, W]
    for a, b in similar_pairs(hashes): ...          # places of images whose hashes differ in at most MAX_DISTANCE bits
    alike(thinned(pixels), thinned(others))         # bool [P], from uint8 [P, C, h, w]: do they really look alike?

A picture is averaged to 9 x 9 cells of grey. Of the 128 bits, 64 say where a cell is brighter than the one to its left, and 64
where it is brighter than the one above it, by more than MARGIN levels, so that noise on an even ground changes no bit. Copies
that were compressed again or scaled keep the hash, or nearly; mirrored, turned or cut ones do not. Two different pictures may
have the same hash, such as a red and a blue one, or two that are almost even: `alike` compares their pixels. All bits are 0
for a picture of one colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from capture_cli.pixels.decoding import Pixels

HASH_BYTES = 16
CELLS = 9  # a side
MARGIN = 4  # levels of 256
MAX_DISTANCE = 7  # bits of 128
NEAR_LEVELS = 4  # mean difference of near-duplicates in green, of 255 levels
COLOUR_LEVELS = 8  # and in red and blue, of which JPEG keeps less
CELL_LEVELS = 20  # difference of their means in one cell and channel
_SAMPLED_SIDE = 36  # larger pictures are looked at in steps: four places a cell are enough
_NEIGHBOURS = 32  # images compared with each, in the order of their hashes

Hashes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def thinned(pixels: Pixels) -> Pixels:
    """Return a view of pictures [..., C, H, W] with sides of at most 71."""
    height, width = pixels.shape[-2:]
    return pixels[..., :: max(1, height // _SAMPLED_SIDE), :: max(1, width // _SAMPLED_SIDE)]


def sampled(pixels: Pixels) -> Pixels:
    """Return a view of what is hashed of pictures [..., C, H, W]: green, which has most of the luma, thinned."""
    return thinned(pixels[..., pixels.shape[-3] // 2, :, :])


def perceptual_hashes(planes: Pixels) -> Hashes:
    """Hash N pictures, as `sampled` returns them: uint8 [N, h, w] -> uint8 [N, 16]."""
    cells = _cells(planes)
    bits = np.empty((len(planes), 2, 8, 8), np.bool_)
    np.greater(cells[:, 1:, :8], cells[:, :-1, :8] + MARGIN, out=bits[:, 0])
    np.greater(cells[:, :8, 1:], cells[:, :8, :-1] + MARGIN, out=bits[:, 1])
    return np.packbits(bits.reshape(len(planes), 128), axis=1)


def alike(first: Pixels, second: Pixels) -> npt.NDArray[np.bool_]:
    """Compare P pairs of pictures, thinned, uint8 [P, C, h, w]; return [P], True for near-duplicates.

    Every channel differs little on average, and in no cell by more than CELL_LEVELS: so another colour tells, and so does a
    mark on an even ground.
    """
    most = np.full(first.shape[1], COLOUR_LEVELS)
    most[len(most) // 2] = NEAR_LEVELS
    near = np.flatnonzero((np.abs(first.astype(np.int16) - second).mean(axis=(2, 3)) <= most).all(axis=1))
    cells, others = (_cells(one[near].reshape(-1, *one.shape[2:])) for one in (first, second))
    apart = np.abs(cells - others).reshape(len(near), len(most) * CELLS**2)
    same = np.zeros(len(first), np.bool_)
    same[near] = (apart <= CELL_LEVELS).all(axis=1)
    return same


def _cells(planes: Pixels) -> npt.NDArray[np.float32]:
    """Average pictures uint8 [N, h, w] to cells [N, 9 across, 9 down]."""
    sums, heights = _summed(planes)  # [N, 9, w]
    sums, widths = _summed(sums.swapaxes(1, 2))
    return (sums * (1 / (widths[:, np.newaxis] * heights))).astype(np.float32, copy=False)


def _summed(values: npt.NDArray[np.unsignedinteger]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Sum rows [N, R, W] to CELLS rows of at most 8; return them with the rows in each. With fewer rows, some are repeated."""
    side = values.shape[1]
    edges = [k * side // CELLS for k in range(CELLS + 1)]
    sums = np.empty((len(values), CELLS, values.shape[2]), np.uint16)
    for k, (start, end) in enumerate(pairwise(edges)):
        sums[:, k] = values[:, start]
        for row in range(start + 1, end):  # six times as fast as np.add.reduceat
            sums[:, k] += values[:, row]
    return sums, np.maximum(np.diff(edges), 1).astype(np.float32)


def similar_pairs(hashes: Hashes) -> Iterator[tuple[Places, Places]]:
    """Yield pairs of places, [P] and [P], of hashes that differ in at most MAX_DISTANCE bits; a pair may come again.

    Hashes so close have one of eight parts in common. In the order of each part, every image is compared with the next
    _NEIGHBOURS, so of more images than that with one hash not every pair is found. Pictures of one colour are not compared.
    """
    places = np.flatnonzero(hashes.any(axis=1))
    words = hashes[places].view(np.uint64)  # [N, 2]
    parts = hashes[places].view(np.uint16)  # [N, 8]
    for part in parts.T:
        order = np.lexsort((words[:, 1], words[:, 0], part))
        for step in range(1, min(_NEIGHBOURS + 1, len(order))):
            first, second = order[:-step], order[step:]
            same = part[first] == part[second]
            if not same.any():
                break
            first, second = first[same], second[same]
            close = np.bitwise_count(words[first] ^ words[second]).sum(axis=1) <= MAX_DISTANCE
            if close.any():
                yield places[first[close]], places[second[close]]
