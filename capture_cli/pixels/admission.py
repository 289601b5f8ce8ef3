"""Image files read, digested and decoded, in threads where that pays.

    loader = Loader(geometry, threads=2)
    admission = loader.admit(ids, load_one, usable, pixels_of)      # for the stores, which hold the pixels

The outcome is the same for any number of threads.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from capture_cli.errors import Unusable
from capture_cli.pixels.cache import PixelCache
from capture_cli.pixels.decoding import Pixels, decode, pillow_silenced
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.similarity import Hashes, perceptual_hashes
from capture_cli.pixels.slots import Location, checksum
from capture_cli.resources import processors

MAX_THREADS = 8
TRIED = 4  # items that are worked on one after the other, to see how long one takes
WORTH_A_THREAD_SECONDS = 2e-4  # for shorter work, threads cost more in taking turns than they save

Item = TypeVar("Item")
Result = TypeVar("Result")
Ids = npt.NDArray[np.int64]
Read = Callable[[int], bytes]
"""Reads the file of an image, from several threads at once, or raises Unusable."""


class Admission(NamedTuple):
    """The outcome for the files of one block. All but `skipped` have one item for each image that can be used."""

    ids: list[int]
    """In the order in which they were asked for."""
    sizes: list[int]
    """Sizes of the files, in bytes."""
    digests: list[str]
    """BLAKE2b (16 bytes, 32 hex digits) of the very bytes that were decoded."""
    pixels: list[int]
    """XXH3-64 of the decoded pixels: equal for files that look the same to the network."""
    hashes: Hashes
    """Perceptual hashes (capture_cli.pixels.similarity)."""
    constant: list[bool]
    """Every pixel has the same colour."""
    skipped: list[tuple[int, Unusable]]


@dataclass
class Tally:
    """Counts of usable images by the origin of their pixels."""

    decoded: int = 0
    from_cache: int = 0


class Loaded(NamedTuple):
    """One file that can be used."""

    size: int
    digest: bytes
    location: Location | None
    """In the cache, if it has the pixels."""
    from_cache: bool
    pixels: int
    """Checksum of the pixels."""


class Warnings:
    """Warnings from any thread, passed on by the thread that uses the store."""

    def __init__(self, warn: Callable[[str], object] = lambda _: None) -> None:
        self._warn = warn
        self._pending: list[str] = []

    def __call__(self, text: str) -> None:
        """Keep a warning for later."""
        self._pending.append(text)

    def pass_on(self) -> None:
        """Give the kept warnings to `warn`."""
        while self._pending:
            self._warn(self._pending.pop(0))


@dataclass
class Loader:
    """Turns files into pixels of one shape. The outcome is the same for any number of threads."""

    geometry: Geometry
    threads: int | None = None
    """That decode at once; None: one per usable processor, at most MAX_THREADS."""
    cache: PixelCache | None = None
    """Pixels in it are not decoded, and decoded ones are offered to it."""
    warnings: Warnings = field(default_factory=Warnings)
    tally: Tally = field(default_factory=Tally)

    def load(self, data: bytes, into: Pixels) -> Loaded:
        """Fill `into`, uint8 [C, H, W], with the pixels of a file; the cache may hold on to it. Raises Unusable."""
        digest = blake2b(data, digest_size=16).digest()
        kept = self.cache.read(digest, into) if self.cache else None
        if not kept:
            self.decode(data, into)
        location = kept.location if kept else self.cache.keep(digest, into, len(data)) if self.cache else None
        return Loaded(len(data), digest, location, bool(kept), kept.checksum if kept else checksum(into))

    def decode(self, data: bytes, into: Pixels) -> None:
        """Fill `into` with the decoded pixels of a file. Raises Unusable."""
        decode(data, self.geometry, into)

    def admit(
        self,
        ids: Iterable[int],
        load_one: Callable[[int], Loaded],
        usable: npt.NDArray[np.bool_],
        planes_of: Callable[[list[int]], Pixels],
        pixels_of: Callable[[int], Pixels],
    ) -> Admission:
        """Call `load_one` for each id and mark the usable ones; what it raises other than Unusable ends the call.

        `planes_of` returns what is hashed of usable images, as `sampled` does; `pixels_of` is asked for those of one colour.
        """
        wanted = [int(i) for i in ids]

        def outcome_of(i: int) -> Loaded | Unusable:
            try:
                return load_one(i)
            except Unusable as unusable:
                return unusable

        with pillow_silenced():
            outcomes = in_threads(wanted, outcome_of, self.threads)
        planes = planes_of([i for i, outcome in zip(wanted, outcomes, strict=True) if isinstance(outcome, Loaded)])
        admission = Admission([], [], [], [], perceptual_hashes(planes), [], [])
        for i, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Unusable):
                admission.skipped.append((i, outcome))
            else:
                admission.ids.append(i)
                admission.sizes.append(outcome.size)
                admission.digests.append(outcome.digest.hex())
                admission.pixels.append(outcome.pixels)
                self.tally.from_cache += outcome.from_cache
                self.tally.decoded += not outcome.from_cache
        usable[admission.ids] = True
        even = (planes == planes[:, :1, :1]).all(axis=(1, 2)).tolist()
        admission.constant.extend(maybe and is_constant(pixels_of(i)) for i, maybe in zip(admission.ids, even, strict=True))
        self.warnings.pass_on()
        return admission


_usable_processors = functools.cache(processors)


def is_constant(pixels: Pixels) -> bool:
    """Return True if every pixel of a picture [C, H, W] has the same colour."""
    return bool((pixels == pixels[:, :1, :1]).all())


def in_threads(items: Sequence[Item], work: Callable[[Item], Result], threads: int | None) -> list[Result]:
    """Map `work` over the items, in threads if it takes long enough; None: one per usable processor, at most MAX_THREADS."""
    if threads is None:
        threads = min(_usable_processors(), MAX_THREADS)
    started = perf_counter()
    results = [work(item) for item in items[:TRIED]]
    rest = items[TRIED:]
    if threads < 2 or not rest or perf_counter() - started < TRIED * WORTH_A_THREAD_SECONDS:
        return results + [work(item) for item in rest]
    made: dict[int, Result] = {}
    left = deque(enumerate(rest))

    def take_turns() -> None:
        while True:
            try:
                place, item = left.popleft()
            except IndexError:
                return
            try:
                made[place] = work(item)
            except BaseException:
                left.clear()  # so that the others stop
                raise

    with ThreadPoolExecutor(min(threads, len(rest)), thread_name_prefix="decode") as pool:
        workers = [pool.submit(take_turns) for _ in range(min(threads, len(rest)))]
    for worker in workers:
        worker.result()
    return results + [made[place] for place in range(len(rest))]
