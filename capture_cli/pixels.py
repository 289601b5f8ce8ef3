"""The pixels of a folder: the size they are given, and the store that holds them, decoded once.

    size = geometry(scan, lambda file: read_file(folder, file))            # the size most images have
    store = PixelStore(len(scan.files), size)                              # uint8 [N, C, H, W]
    admission = store.admit(ids, lambda i: read_file(folder, files[i]))    # reads, decodes and judges each file once
    store.pixels[admission.ids]                                            # those that can be used

What the bytes of a file must be, and what is done to a picture on its way here, stands in capture_cli.decoding, whose `decode`
and `peek` may be used from here.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from capture_cli.decoding import Peek, Pixels, decode, peek, pillow_silenced
from capture_cli.draws import draw, path_keys
from capture_cli.errors import CaptureError, Unusable, UsageError

__all__ = ["Admission", "Geometry", "Peek", "PixelStore", "Pixels", "decode", "geometry", "peek"]

PEEKED = 1000
"""Files looked at to choose a size; more are not needed to see what most have."""
LONGEST_SIDE = 224
"""Of a size that nobody asked for: what pretrained classifiers expect, and what fits into memory."""
FALLBACK = (32, 32)
"""Height and width where no size has a majority."""
MAX_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The shape that every picture is given, in pixels. Raises UsageError if that is no shape for a picture."""

    height: int
    width: int
    channels: int
    """1 grey, 3 RGB."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise UsageError(f"an image size of {self.height}x{self.width} cannot be honoured", "sides are at least 1 pixel")
        if self.channels not in (1, 3):
            raise UsageError(f"{self.channels} channels cannot be honoured", "use 1 (grey) or 3 (RGB)")


class Listing(Protocol):
    """What `geometry` needs of capture_cli.folder.Scan."""

    @property
    def files(self) -> Sequence[str]:
        """Relative paths."""


def geometry(
    scan: Listing, read: Callable[[str], bytes], *, size: tuple[int, int] | None = None, channels: int | None = None
) -> Geometry:
    """The shape to train at, read from the headers of the files; `size` is (height, width), and what is given is kept.

    The size is the one that more than half of the images have, or 32 x 32 where there is no such size. A longer side above
    224 becomes 224, the other in proportion. Grey only if all images are. Up to PEEKED files are looked at: all, or that many
    chosen by the hash of their paths. Files that cannot be used have no say. `read` gives the bytes of a file of the scan.
    """
    if size is not None and channels is not None:
        return Geometry(height=size[0], width=size[1], channels=channels)
    seen = list(_peeked(scan.files, read))
    if channels is None:
        channels = 1 if seen and all(one.grey for one in seen) else 3
    height, width = size or _common_size(seen)
    return Geometry(height=height, width=width, channels=channels)


def _peeked(files: Sequence[str], read: Callable[[str], bytes]) -> Iterable[Peek]:
    chosen: Sequence[int] = range(len(files))
    if len(files) > PEEKED:
        chosen = np.argsort(draw(path_keys(files), seed=0, epoch=0, purpose="peek"), kind="stable")[:PEEKED].tolist()
    for i in chosen:
        try:
            yield peek(read(files[i]))
        except Unusable:  # it is judged and recorded when it is admitted
            continue


def _common_size(seen: Sequence[Peek]) -> tuple[int, int]:
    """(height, width)"""
    counts = Counter((one.height, one.width) for one in seen)
    if not counts:
        return FALLBACK
    (height, width), count = counts.most_common(1)[0]
    if 2 * count <= len(seen):
        return FALLBACK
    longest = max(height, width)
    if longest <= LONGEST_SIDE:
        return height, width
    return tuple(max(1, round(side * LONGEST_SIDE / longest)) for side in (height, width))  # type: ignore[return-value]


TRIED = 4
"""Files of a block that are decoded one after the other, to see how long one takes."""
WORTH_A_THREAD_SECONDS = 1e-3
"""A picture that takes less is decoded sooner than threads have agreed on who holds the interpreter."""


class Admission(NamedTuple):
    """What became of the files of one block. The first three have one item for each image that can be used."""

    ids: list[int]
    """In the order in which they were asked for."""
    sizes: list[int]
    """Of the files, in bytes."""
    digests: list[str]
    """BLAKE2b (16 bytes, 32 hex digits) of the very bytes that were decoded."""
    skipped: list[tuple[int, Unusable]]
    """The others, with the reason."""


class _Read(NamedTuple):
    size: int
    digest: str


class PixelStore:
    """The pixels of N images in memory, one byte a channel, filled block by block.

    `pixels` is uint8 [N, C, H, W], allocated once, 0 where nothing was admitted; `usable` is bool [N]. The system gives the
    memory page by page as it is filled. Raises CaptureError if the machine has not that much.
    """

    def __init__(self, n: int, geometry: Geometry, *, threads: int | None = None) -> None:
        """`threads` decode at once, by default as many as this process may use processors, at most MAX_THREADS."""
        self.geometry = geometry
        shape = (n, geometry.channels, geometry.height, geometry.width)
        self.pixels: Pixels = _zeros(shape)
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        self._threads = threads or min(_processors(), MAX_THREADS)

    def admit(self, ids: Iterable[int], read: Callable[[int], bytes]) -> Admission:
        """Read, digest and decode the files with these ids; the same is returned and stored for any number of threads.

        `read` gives the bytes of one file, from several threads at once, or raises Unusable; any other error ends the call.
        """
        wanted = [int(i) for i in ids]
        with pillow_silenced():
            outcomes = self._outcomes(wanted, functools.partial(self._admit_one, read))
        admission = Admission([], [], [], [])
        for i, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Unusable):
                admission.skipped.append((i, outcome))
            else:
                admission.ids.append(i)
                admission.sizes.append(outcome.size)
                admission.digests.append(outcome.digest)
        self.usable[admission.ids] = True
        return admission

    def _outcomes(self, wanted: Sequence[int], one: Callable[[int], _Read | Unusable]) -> list[_Read | Unusable]:
        started = perf_counter()
        outcomes = [one(i) for i in wanted[:TRIED]]
        rest = wanted[TRIED:]
        if self._threads > 1 and rest and perf_counter() - started > TRIED * WORTH_A_THREAD_SECONDS:
            with ThreadPoolExecutor(min(self._threads, len(rest)), thread_name_prefix="decode") as pool:
                return outcomes + list(pool.map(one, rest))
        return outcomes + [one(i) for i in rest]

    def _admit_one(self, read: Callable[[int], bytes], i: int) -> _Read | Unusable:
        size = self.geometry
        try:
            data = read(i)
            self.pixels[i] = decode(data, height=size.height, width=size.width, channels=size.channels)
        except Unusable as unusable:
            return unusable
        return _Read(len(data), blake2b(data, digest_size=16).hexdigest())


def _zeros(shape: tuple[int, ...]) -> Pixels:
    needed = math.prod(shape)
    # Asked first: a system that overcommits grants anything, and ends the process once the pages are filled.
    if needed <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        with contextlib.suppress(MemoryError):
            return np.zeros(shape, np.uint8)
    images, channels, height, width = shape
    raise CaptureError(
        f"{images:,} images of {height}x{width} pixels and {channels} channels take {needed / 1e9:.1f} GB of memory, "
        "more than this machine has",
        "choose a smaller --img-size",
    )


def _processors() -> int:
    """Those that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
