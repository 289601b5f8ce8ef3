"""Where the pixels of a run are held: in memory if they fit, else in files of which a batch at a time is read.

    with open_store(n, geometry, resources, reread=lambda i: source.read(files[i]), warn=print) as store:
        store.admit(ids, read)
        pixels, places = store.rows(ids)            # pixels[places] are theirs, uint8 [B, C, H, W]

Both kinds of store do the same, and neither changes what the network sees.
"""

from __future__ import annotations

import functools
import math
import tempfile
import threading
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from capture_cli.errors import DataError, Unusable
from capture_cli.pixels import Admission, Geometry, Pixels, PixelStore, Read, Tally, admitted, decode, each
from capture_cli.pixels.cache import RESERVE_BYTES, PixelCache, Place, cache_folder
from capture_cli.pixels.slots import Slots, mark
from capture_cli.resources import Resources

Ids = npt.NDArray[np.int64]


def open_store(
    n: int, geometry: Geometry, resources: Resources, *, reread: Callable[[int], bytes], warn: Callable[[str], object]
) -> PixelStore | DiskStore:
    """A store for N images, within what `resources` allow.

    `reread` gives the bytes of one file once more, from several threads at once, or raises Unusable. `warn` is told, from the
    thread that uses the store, what goes wrong beside the work itself.
    """
    unsaid: list[str] = []

    def speak() -> None:
        while unsaid:
            warn(unsaid.pop(0))

    fits = n * math.prod(geometry.shape) <= resources.pixel_bytes
    folder = _folder(unsaid)
    cache = None
    if folder and resources.cache_bytes:
        limit = resources.cache_bytes
        cache = PixelCache(folder, geometry.shape, limit_bytes=limit, warn=unsaid.append, at_once=not fits)
    if fits:
        return PixelStore(n, geometry, threads=resources.workers, cache=cache, speak=speak)
    spill = [*([folder] if folder else []), Path(tempfile.gettempdir())]
    return DiskStore(
        n,
        geometry,
        threads=resources.workers,
        cache=cache,
        spill=spill,
        reread=reread,
        unsaid=unsaid,
        speak=speak,
    )


def _folder(unsaid: list[str]) -> Path | None:
    try:
        return cache_folder()
    except OSError as error:
        unsaid.append(f"decoded pixels are not kept: {error}")
        return None


class DiskStore:
    """The pixels of N images in files: those that the cache keeps, and one that ends with the process for the others.

    Of an image that no file has, since the disk is full or what it had was damaged, the pixels are decoded at each visit.
    Whatever is read is compared with its mark, so that a batch holds what was decoded at first, or there is an error.
    """

    def __init__(
        self,
        n: int,
        geometry: Geometry,
        *,
        threads: int | None,
        cache: PixelCache | None,
        spill: Iterable[Path],
        reread: Callable[[int], bytes],
        unsaid: list[str],
        speak: Callable[[], object],
    ) -> None:
        self.geometry = geometry
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        self.tally = Tally()
        self._threads = threads
        self._cache = cache
        self._spill = _Spill(spill, math.prod(geometry.shape), unsaid)
        self._reread = reread
        self._speak = speak
        self._lock = threading.Lock()
        self._files: list[Slots] = []
        self._file = np.full(n, -1, np.int16)
        self._slot = np.zeros(n, np.int64)
        self._marks = np.zeros(n, np.uint64)
        self._digests = np.zeros((n, 16), np.uint8)

    def admit(self, ids: Iterable[int], read: Callable[[int], bytes]) -> Admission:
        """As PixelStore.admit."""
        admission = admitted(ids, functools.partial(self._admit_one, read), self._threads, self.tally)
        self.usable[admission.ids] = True
        self._speak()
        return admission

    def rows(self, ids: Ids) -> tuple[Pixels, Ids]:
        """The pixels of B images, uint8 [B, C, H, W], and their places, 0 to B - 1.

        Raises DataError if one has to be decoded again, and its file is no longer what it was.
        """
        batch = np.empty((len(ids), *self.geometry.shape), np.uint8)
        each(list(zip(ids.tolist(), batch, strict=True)), self._fill, self._threads)
        self._speak()
        return batch, np.arange(len(ids))

    def _admit_one(self, read: Callable[[int], bytes], i: int) -> Read:
        data = read(i)
        digest = blake2b(data, digest_size=16).digest()
        pixels = np.empty(self.geometry.shape, np.uint8)
        place = self._cache.read(digest, pixels) if self._cache else None
        found = place is not None
        if not found:
            pixels = self._decoded(data)
            place = (self._cache.keep(digest, pixels, len(data)) if self._cache else None) or self._spill.keep(pixels)
        self._digests[i] = np.frombuffer(digest, np.uint8)
        self._marks[i] = mark(digest, pixels)
        if place:
            self._slot[i] = place.slot
            self._file[i] = self._number(place.slots)
        return Read(len(data), digest, found)

    def _decoded(self, data: bytes) -> Pixels:
        size = self.geometry
        return decode(data, height=size.height, width=size.width, channels=size.channels)

    def _number(self, slots: Slots) -> int:
        with self._lock:
            if slots not in self._files:
                self._files.append(slots)
            return self._files.index(slots)

    def _fill(self, wanted: tuple[int, Pixels]) -> None:
        i, row = wanted
        digest, number = self._digests[i].tobytes(), int(self._file[i])
        if number >= 0 and self._files[number].read(int(self._slot[i]), row) and mark(digest, row) == self._marks[i]:
            return
        try:
            data = self._reread(i)
            if blake2b(data, digest_size=16).digest() == digest:
                row[...] = self._decoded(data)
                return
        except Unusable as error:
            raise DataError(f"an image can no longer be read: {error}", "put it back, and go on with --resume") from error
        raise DataError("an image is no longer the file that the run began with", "put it back, or start a new run")

    def close(self) -> None:
        """Close all files; the one without a name is gone then."""
        if self._cache:
            self._cache.close()
        self._spill.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Spill:
    """A file without a name, made when it is first needed. Any number of threads may keep at once."""

    def __init__(self, folders: Iterable[Path], slot_bytes: int, unsaid: list[str]) -> None:
        self._folders = list(folders)
        self._slot_bytes = slot_bytes
        self._unsaid = unsaid
        self._lock = threading.Lock()
        self._slots: Slots | None = None
        self._count = 0
        self._ended = False

    def keep(self, pixels: Pixels) -> Place | None:
        """Where they are now, None if the disk has no room, of which the first is said."""
        try:
            with self._lock:
                if self._ended:
                    return None
                if not self._slots:
                    self._slots = Slots.unnamed(self._folders, self._slot_bytes)
                self._slots.demand_room(RESERVE_BYTES)
                place = Place(self._slots, self._count)
                self._count += 1
            place.slots.write(place.slot, pixels)
        except OSError as error:
            with self._lock:
                if not self._ended:
                    self._ended = True
                    self._unsaid.append(f"images are decoded at each visit, for their pixels have no place: {error}")
            return None
        return place

    def close(self) -> None:
        if self._slots:
            self._slots.close()
