"""The pixels of a run: in memory if they fit, else in files of which a batch at a time is read.

    with closing(open_store(n, geometry, resources, warn=print)) as store:
        admission = store.admit(ids, lambda i: source.read(files[i]))   # each file is read and decoded once
        pixels, places = store.rows(ids)                                # pixels[places]: uint8 [B, C, H, W]

Which of the two holds them does not change what the network sees.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from capture_cli.errors import CaptureError, DataError, Unusable
from capture_cli.pixels.admission import Admission, Ids, Loaded, Loader, Read, Tally, Warnings, in_threads
from capture_cli.pixels.cache import RESERVE_BYTES, PixelCache, cache_folder
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.similarity import sampled
from capture_cli.pixels.slots import Location, SlotFile, checksum
from capture_cli.resources import Resources


class Store(Protocol):
    """The pixels of N images, one byte per channel, filled block by block."""

    usable: npt.NDArray[np.bool_]
    """[N], True where the image was admitted and can be used."""

    @property
    def held(self) -> str:
        """`memory` or `disk`."""

    @property
    def tally(self) -> Tally:
        """Counts of usable images by the origin of their pixels."""

    def admit(self, ids: Iterable[int], read: Read) -> Admission:
        """Read, digest and decode these files. What `read` raises other than Unusable ends the call.

        `read` is kept for images that have to be decoded again.
        """

    def rows(self, ids: Ids) -> tuple[Pixels, Ids]:
        """Return pixels, uint8 [M, C, H, W], and the places of the images `ids` [B] in them, int64 [B].

        Raises DataError if a file has to be decoded again and is no longer what it was.
        """

    def close(self) -> None:
        """Close every file. May be called twice."""


def open_store(n: int, geometry: Geometry, resources: Resources, *, warn: Callable[[str], object]) -> Store:
    """Make a store for N images within `resources`. `warn` is called by the thread that uses the store."""
    loader = Loader(geometry, threads=resources.workers, warnings=Warnings(warn))
    folders = [Path(tempfile.gettempdir())]
    fits = n * math.prod(geometry.shape) <= resources.pixel_bytes
    try:
        folders.insert(0, folder := cache_folder())
        if limit := resources.cache_bytes:
            loader.cache = PixelCache(folder, geometry, limit_bytes=limit, warn=loader.warnings, at_once=not fits)
    except OSError as error:
        loader.warnings(f"decoded pixels are not kept: {error}")
    return MemoryStore(n, loader) if fits else DiskStore(n, loader, folders)


class MemoryStore:
    """Pixels in one array, allocated at once; the system gives its memory page by page as it is filled.

    Raises CaptureError if the machine has less memory than that.
    """

    held: ClassVar[str] = "memory"

    def __init__(self, n: int, loader: Loader) -> None:
        self.pixels = _zeros((n, *loader.geometry.shape))
        """uint8 [N, C, H, W], 0 where nothing was admitted."""
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        self.tally = loader.tally
        self._loader = loader

    def admit(self, ids: Iterable[int], read: Read) -> Admission:
        """Read, digest and decode files; see Store."""
        pixels = self.pixels
        planes = sampled(pixels)
        load, usable = self._loader.load, self.usable
        return self._loader.admit(ids, lambda i: load(read(i), pixels[i]), usable, planes.__getitem__, pixels.__getitem__)

    def rows(self, ids: Ids) -> tuple[Pixels, Ids]:
        """Return all pixels and `ids`."""
        return self.pixels, ids

    def close(self) -> None:
        """Close what the cache has open."""
        if self._loader.cache:
            self._loader.cache.close()


def _zeros(shape: tuple[int, ...]) -> Pixels:
    needed = math.prod(shape)
    if not needed:
        return np.zeros(shape, np.uint8)
    # Asked first: a system that overcommits grants anything, and kills the process once the pages are filled.
    if needed <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        with contextlib.suppress(MemoryError, OSError):
            # A mapping of its own is given page by page, whatever the allocator was told (capture_cli.runtime).
            memory = mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            return np.frombuffer(memory, np.uint8).reshape(shape)
    images, channels, height, width = shape
    raise CaptureError(
        f"{images:,} images of {height}x{width} pixels and {channels} channels take {needed / 1e9:.1f} GB of memory, "
        "more than this machine has",
        "choose a smaller --img-size",
    )


class DiskStore:
    """Pixels in files: those of the cache, and for the others one that disappears with the process.

    An image that no file holds, because the disk is full or its pixels were damaged, is decoded at each visit. What is read is
    compared with its checksum: a batch holds what was decoded at first, or there is an error.
    """

    held: ClassVar[str] = "disk"

    def __init__(self, n: int, loader: Loader, folders: Iterable[Path]) -> None:
        """Make the file of the process, if it is needed, in the first of `folders` where that succeeds."""
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)
        self.tally = loader.tally
        self._loader = loader
        self._spill = _Spill(folders, math.prod(loader.geometry.shape), loader.warnings)
        self._lock = threading.Lock()
        self._files: list[SlotFile] = []
        self._file = np.full(n, -1, np.int16)  # place in _files
        self._slot = np.zeros(n, np.int64)
        self._checksums = np.zeros(n, np.uint64)
        self._digests = np.zeros((n, 16), np.uint8)

    def admit(self, ids: Iterable[int], read: Read) -> Admission:
        """Read, digest and decode files; see Store."""
        self._read = read
        planes: dict[int, Pixels] = {}

        def planes_of(usable: list[int]) -> Pixels:
            return np.stack([planes.pop(i) for i in usable]) if usable else np.empty((0, 1, 1), np.uint8)

        def admit_one(i: int) -> Loaded:
            pixels = np.empty(self._loader.geometry.shape, np.uint8)
            loaded = self._admit_one(i, pixels)
            planes[i] = sampled(pixels).copy()
            return loaded

        return self._loader.admit(ids, admit_one, self.usable, planes_of, lambda i: self.rows(np.array([i]))[0][0])

    def rows(self, ids: Ids) -> tuple[Pixels, Ids]:
        """Read the pixels of B images, uint8 [B, C, H, W]; their places are 0 to B - 1. See Store."""
        batch = np.empty((len(ids), *self._loader.geometry.shape), np.uint8)
        in_threads(list(zip(ids.tolist(), batch, strict=True)), self._fill, self._loader.threads)
        self._loader.warnings.pass_on()
        return batch, np.arange(len(ids))

    def _admit_one(self, i: int, pixels: Pixels) -> Loaded:
        loaded = self._loader.load(self._read(i), pixels)
        self._digests[i] = np.frombuffer(loaded.digest, np.uint8)
        self._checksums[i] = loaded.pixels
        if location := loaded.location or self._spill.keep(pixels):
            self._slot[i] = location.slot
            with self._lock:
                if location.file not in self._files:
                    self._files.append(location.file)
                self._file[i] = self._files.index(location.file)
        return loaded

    def _fill(self, wanted: tuple[int, Pixels]) -> None:
        i, row = wanted
        digest, file = self._digests[i].tobytes(), int(self._file[i])
        if file >= 0 and self._files[file].read(int(self._slot[i]), row) and checksum(row) == self._checksums[i]:
            return None
        try:
            data = self._read(i)
            if blake2b(data, digest_size=16).digest() == digest:
                return self._loader.decode(data, row)
        except Unusable as error:
            raise DataError(f"an image can no longer be read: {error}", "restore the file, then --resume") from error
        raise DataError("an image file changed during the run", "restore the file, or start a new run")

    def close(self) -> None:
        """Close every file; the one without a name disappears."""
        if self._loader.cache:
            self._loader.cache.close()
        self._spill.close()


class _Spill:
    """A file without a name, made when it is first needed. Any number of threads may keep pixels in it."""

    def __init__(self, folders: Iterable[Path], slot_bytes: int, warn: Warnings) -> None:
        self._folders = list(folders)
        self._slot_bytes = slot_bytes
        self._warn = warn
        self._lock = threading.Lock()
        self._file: SlotFile | None = None
        self._count = 0
        self._full = False

    def keep(self, pixels: Pixels) -> Location | None:
        """Write pixels and say where; None, after one warning, if the disk has no space."""
        try:
            with self._lock:
                if self._full:
                    return None
                self._file = self._file or SlotFile.unnamed(self._folders, self._slot_bytes)
                self._file.demand_space(RESERVE_BYTES)
                location = Location(self._file, self._count)
                self._count += 1
            location.file.write(location.slot, pixels)
        except OSError as error:
            with self._lock:
                if not self._full:
                    self._full = True
                    self._warn(f"images are decoded again at each visit, because their pixels cannot be stored: {error}")
            return None
        return location

    def close(self) -> None:
        if self._file:
            self._file.close()
