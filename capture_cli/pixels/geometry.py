"""The shape of a run's inputs: height, width and channels.

size = choose_geometry(files, source.read)              # the size most images have
size = choose_geometry(files, source.read, size=(64, 64), channels=3)
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from capture_cli.errors import Unusable, UsageError
from capture_cli.keyed_random import draw, path_keys
from capture_cli.pixels.decoding import Peek, peek

PEEKED_FILES = 1000  # files looked at to choose a size; more are not needed to see what most have
LONGEST_SIDE = 224  # of a size that nobody asked for, in pixels: what pretrained classifiers expect, and what fits into memory
FALLBACK = (32, 32)  # height and width where no size has a majority


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The shape that every picture is given, in pixels. Raises UsageError if no picture can have it."""

    height: int
    width: int
    channels: int
    """1 grey, 3 RGB."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise UsageError(f"image size {self.height}x{self.width} is not valid", "sides are at least 1 pixel")
        if self.channels not in (1, 3):
            raise UsageError(f"{self.channels} channels are not valid", "choose 1 (grey) or 3 (RGB)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.channels, self.height, self.width


def choose_geometry(
    files: Sequence[str], read: Callable[[str], bytes], *, size: tuple[int, int] | None = None, channels: int | None = None
) -> Geometry:
    """Choose the shape to train at from the headers of the files; what is given, `size` as (height, width), is kept.

    The size is the one that more than half of the images have, or 32x32 if there is none. A longer side above 224 becomes
    224, the other in proportion. Grey only if all images are. At most PEEKED_FILES are looked at, chosen by the hash of their
    paths; files that cannot be used do not count. `read` returns the bytes of a file.
    """
    if size is not None and channels is not None:
        return Geometry(height=size[0], width=size[1], channels=channels)
    seen = list(_peeked(files, read))
    if channels is None:
        channels = 1 if seen and all(one.grey for one in seen) else 3
    height, width = size or _common_size(seen)
    return Geometry(height=height, width=width, channels=channels)


def _peeked(files: Sequence[str], read: Callable[[str], bytes]) -> Iterable[Peek]:
    chosen: Sequence[int] = range(len(files))
    if len(files) > PEEKED_FILES:
        chosen = np.argsort(draw(path_keys(files), seed=0, epoch=0, purpose="peek"), kind="stable")[:PEEKED_FILES].tolist()
    for i in chosen:
        try:
            yield peek(read(files[i]))
        except Unusable:  # recorded when it is admitted
            continue


def _common_size(seen: Sequence[Peek]) -> tuple[int, int]:
    """Return (height, width)."""
    counts = Counter((one.height, one.width) for one in seen)
    (height, width), count = counts.most_common(1)[0] if counts else (FALLBACK, 0)
    if 2 * count <= len(seen):
        return FALLBACK
    longest = max(height, width)
    if longest <= LONGEST_SIDE:
        return height, width
    return max(1, round(height * LONGEST_SIDE / longest)), max(1, round(width * LONGEST_SIDE / longest))
