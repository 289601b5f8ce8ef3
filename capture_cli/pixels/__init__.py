"""The pixels of a folder: the size they are given, and the store that holds them, decoded once.

    size = geometry(scan.files, source.read)                               # the size most images have
    store = PixelStore(len(scan.files), size)                              # uint8 [N, C, H, W]
    admission = store.admit(ids, lambda i: source.read(files[i]))          # reads, decodes and judges each file once
    store.pixels[admission.ids]                                            # those that can be used

What the bytes of a file must be, and what is done to a picture on its way here, stands in capture_cli.pixels.decoding, whose
`decode` and `peek` may be used from here. Pixels that do not fit into memory are held by capture_cli.pixels.storage.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from time import perf_counter
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from capture_cli.errors import CaptureError, Unusable, UsageError
from capture_cli.keyed_random import draw, path_keys
from capture_cli.pixels.cache import PixelCache
from capture_cli.pixels.decoding import Peek, Pixels, decode, peek, pillow_silenced

__all__ = ["Admission", "Geometry", "Peek", "PixelStore", "Pixels", "admitted", "decode", "each", "geometry", "peek"]

PEEKED = 1000
"""Files looked at to choose a size; more are not needed to see what most have."""
LONGEST_SIDE = 224
"""Of a size that nobody asked for: what pretrained classifiers expect, and what fits into memory."""
FALLBACK = (32, 32)
"""Height and width where no size has a majority."""
MAX_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.channels, self.height, self.width


def geometry(
    files: Sequence[str], read: Callable[[str], bytes], *, size: tuple[int, int] | None = None, channels: int | None = None
) -> Geometry:
    """The shape to train at, read from the headers of the files; `size` is (height, width), and what is given is kept.

    The size is the one that more than half of the images have, or 32 x 32 where there is no such size. A longer side above
    224 becomes 224, the other in proportion. Grey only if all images are. Up to PEEKED files are looked at: all, or that many
    chosen by the hash of their paths. Files that cannot be used have no say. `read` gives the bytes of a file.
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
WORTH_A_THREAD_SECONDS = 2e-4
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


@dataclass
class Tally:
    """Where the pixels of the images that can be used came from."""

    decoded: int = 0
    from_cache: int = 0


class Read(NamedTuple):
    """One file that can be used."""

    size: int
    digest: bytes
    from_cache: bool
    """Its pixels were not decoded, but found in the cache under the digest."""


class PixelStore:
    """The pixels of N images in memory, one byte a channel, filled block by block.

    `pixels` is uint8 [N, C, H, W], allocated once, 0 where nothing was admitted; `usable` is bool [N]. The system gives the
    memory page by page as it is filled. Raises CaptureError if the machine has not that much.
    """

    def __init__(
        self,
        n: int,
        geometry: Geometry,
        *,
        threads: int | None = None,
        cache: PixelCache | None = None,
        speak: Callable[[], object] = lambda: None,
    ) -> None:
        """`threads` decode at once, by default as many as this process may use processors, at most MAX_THREADS.

        What `cache` has is not decoded, and what was decoded is offered to it. `speak` is called behind each block, from the
        thread that admits it.
        """
        self.geometry = geometry
        self.pixels: Pixels = _zeros((n, *geometry.shape))
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        self.tally = Tally()
        self._threads = threads
        self._cache = cache
        self._speak = speak

    def admit(self, ids: Iterable[int], read: Callable[[int], bytes]) -> Admission:
        """Read, digest and decode the files with these ids; the same is returned and stored for any number of threads.

        `read` gives the bytes of one file, from several threads at once, or raises Unusable; any other error ends the call.
        """
        admission = admitted(ids, functools.partial(self._admit_one, read), self._threads, self.tally)
        self.usable[admission.ids] = True
        self._speak()
        return admission

    def rows(self, ids: npt.NDArray[np.int64]) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """Where the pixels of B images are: an array uint8 [M, C, H, W], here the store itself, and places in it, int64 [B]."""
        return self.pixels, ids

    def _admit_one(self, read: Callable[[int], bytes], i: int) -> Read:
        data = read(i)
        digest = blake2b(data, digest_size=16).digest()
        row = self.pixels[i]
        found = self._cache is not None and self._cache.read(digest, row) is not None
        if not found:
            size = self.geometry
            row[...] = decode(data, height=size.height, width=size.width, channels=size.channels)
            if self._cache:
                self._cache.keep(digest, row, len(data))
        return Read(len(data), digest, found)

    def close(self) -> None:
        """Close what the cache has open."""
        if self._cache:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def admitted(ids: Iterable[int], one: Callable[[int], Read], threads: int | None, tally: Tally) -> Admission:
    """Call `one` for each id, in `threads` where that pays, and say what became of them; whatever else than Unusable it raises
    ends the call."""
    wanted = [int(i) for i in ids]

    def judged(i: int) -> Read | Unusable:
        try:
            return one(i)
        except Unusable as unusable:
            return unusable

    with pillow_silenced():
        outcomes = each(wanted, judged, threads)
    admission = Admission([], [], [], [])
    for i, outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, Unusable):
            admission.skipped.append((i, outcome))
        else:
            admission.ids.append(i)
            admission.sizes.append(outcome.size)
            admission.digests.append(outcome.digest.hex())
            tally.from_cache += outcome.from_cache
            tally.decoded += not outcome.from_cache
    return admission


def each(items: Sequence[Item], one: Callable[[Item], Result], threads: int | None) -> list[Result]:
    """What `one` makes of each item, in their order; in threads where it takes long enough, by default one a processor."""
    threads = min(_processors(), MAX_THREADS) if threads is None else threads
    started = perf_counter()
    results = [one(item) for item in items[:TRIED]]
    rest = items[TRIED:]
    if threads < 2 or not rest or perf_counter() - started < TRIED * WORTH_A_THREAD_SECONDS:
        return results + [one(item) for item in rest]
    made: dict[int, Result] = {}
    left = deque(enumerate(rest))

    def work() -> None:
        while True:
            try:
                place, item = left.popleft()
            except IndexError:
                return
            try:
                made[place] = one(item)
            except BaseException:
                left.clear()  # the others need not go on
                raise

    with ThreadPoolExecutor(min(threads, len(rest)), thread_name_prefix="decode") as pool:
        workers = [pool.submit(work) for _ in range(min(threads, len(rest)))]
    for worker in workers:
        worker.result()
    return results + [made[place] for place in range(len(rest))]


def _zeros(shape: tuple[int, ...]) -> Pixels:
    needed = math.prod(shape)
    if not needed:
        return np.zeros(shape, np.uint8)
    # Asked first: a system that overcommits grants anything, and ends the process once the pages are filled.
    if needed <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        with contextlib.suppress(MemoryError, OSError):
            # A mapping of its own, so that it is given page by page whatever the allocator was told (capture_cli.runtime).
            memory = mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            return np.frombuffer(memory, np.uint8).reshape(shape)
    images, channels, height, width = shape
    raise CaptureError(
        f"{images:,} images of {height}x{width} pixels and {channels} channels take {needed / 1e9:.1f} GB of memory, "
        "more than this machine has",
        "choose a smaller --img-size",
    )


def _processors() -> int:
    """Those that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
