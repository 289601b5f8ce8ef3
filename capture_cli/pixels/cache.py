"""Decoded pixels, kept in the user's cache folder and found again by what the file holds, so that a file is decoded once.

    cache = PixelCache(cache_folder(), (3, 224, 224), limit_bytes=10 * 2**30, warn=print)
    place = cache.read(digest, into)                # None: not there, or damaged; decode it, and then
    place = cache.keep(digest, pixels, file_bytes)
    cache.close()

    for part in parts(cache_folder()): ...          # what is there; `remove(part)` takes it away

What is asked for is a digest, the BLAKE2b of a file's bytes; whoever asks has read the file. Pixels lie in a folder for their
shape and for the decoder that made them (capture_cli.pixels.decoding.decoder), so that another decoder never finds them. In
it each run that decoded something leaves a part of its own:

    NAME.pixels     the pixels, one picture after the other
    NAME.index      for each of them 24 bytes: the digest, and the mark of the pixels (capture_cli.pixels.slots)

A part is written by one process alone and never changed afterwards, so runs need not wait for each other; one that was killed
leaves what it had written. Whatever is read is compared with its mark: what is damaged, or was never written whole, is as if it
were not there. Nothing is synced, since a lost part costs time and nothing else.

A part is begun once WORTH_BYTES of files were decoded: fewer are decoded sooner than the folder gets in anyone's way. Parts
together take at most `limit_bytes`; those that were not used for longest make room, and a disk is never filled to its end.
Where a part cannot be written, or the folder is somebody else's, there is one warning, and the run goes on without.
"""

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.files import write_all
from capture_cli.pixels.decoding import decoder
from capture_cli.pixels.slots import Pixels, Slots, mark
from capture_cli.resources import CACHE_SIZE

WORTH_BYTES = 4 * 2**20
"""Some hundred photographs, some thousand small PNG files: half a second of decoding."""
RESERVE_BYTES = 2**30
"""Of a disk that stay free: the records need them more."""
CHUNK_BYTES = 64 * 2**20
"""Written at most between two looks at how much room there is."""
MAX_PARTS = 256
"""Of one shape; each costs a descriptor when it is read."""
MAX_ENTRIES = 2**22
"""Looked up of one shape, the newest; each costs 40 bytes of memory."""
INDEX, PIXELS = ".index", ".pixels"

Entries = npt.NDArray[np.void]

_ENTRY = np.dtype([("key", "<u8"), ("rest", "<u8"), ("mark", "<u8")])
"""The digest in two halves, and the mark; all zero where a run was killed before it wrote it."""
_PRIVATE = 0o600
_FORMAT = "1"


def cache_folder() -> Path:
    """XDG_CACHE_HOME, or ~/.cache, and in it capture/pixels. Raises OSError where there is no home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(named) if named.startswith("/") else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return base / "capture" / "pixels"


class Place(NamedTuple):
    """Where pixels lie."""

    slots: Slots
    slot: int


class PixelCache:
    """The pictures of one shape. Any number of threads may read and keep at once."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int],
        *,
        limit_bytes: int,
        warn: Callable[[str], object],
        at_once: bool = False,
    ) -> None:
        """For pictures uint8 `shape` (channels, height, width); `at_once` begins a part with the first picture kept.

        `warn` is told at most once, from whichever thread it is, why nothing more is kept.
        """
        channels, height, width = shape
        name = blake2b(f"{_FORMAT}, {decoder()}".encode(), digest_size=6).hexdigest()
        self._folder = folder
        self._shelf = folder / f"{height}x{width}x{channels}-{name}"
        self._slot_bytes = channels * height * width
        self._limit_bytes = limit_bytes
        self._warn = warn
        self._worth_bytes = 0 if at_once else WORTH_BYTES
        self._lock = threading.Lock()
        self._opened: dict[Path, Slots | None] = {}
        self._own: _Writing | None = None
        self._pending: list[tuple[bytes, Pixels]] = []
        self._pending_bytes = 0
        self._ended = False
        self._load()

    def read(self, digest: bytes, into: Pixels) -> Place | None:
        """Fill `into` with the pixels of the file with this digest, and say where they lie; None if they are not there."""
        key, rest = np.frombuffer(digest, "<u8")
        at = int(np.searchsorted(self._keys, key))
        while at < len(self._keys) and self._keys[at] == key:
            number, slot = int(self._parts[at]), int(self._slots[at])
            if self._rests[at] == rest:
                slots = self._slots_of(self._paths[number])
                if slots and slots.read(slot, into) and mark(digest, into) == self._marks[at]:
                    return Place(slots, slot)
            at += 1
        return None

    def keep(self, digest: bytes, pixels: Pixels, file_bytes: int) -> Place | None:
        """Keep the pixels of a file of so many bytes; None if they are not kept, or not yet.

        They are looked at later, if it is not yet known whether keeping pays: they must stay as they are.
        """
        with self._lock:
            if self._ended:
                return None
            self._pending.append((digest, pixels))
            self._pending_bytes += file_bytes
            if self._pending_bytes < self._worth_bytes:
                return None
            pending, self._pending = self._pending, []
        place = None
        for one in pending:
            place = self._write(*one)
        return place

    def close(self) -> None:
        """Close all files. May be called twice."""
        with self._lock:
            self._ended, self._pending = True, []
            for slots in self._opened.values():
                if slots:
                    slots.close()
            self._opened.clear()
            if self._own:
                self._own.close()

    def _load(self) -> None:
        """Read the indexes, the newest first, into columns sorted by digest."""
        found: list[Entries] = []
        self._paths: list[Path] = []
        with contextlib.suppress(OSError):
            _demand_own(self._folder)
            for part in sorted(_parts_of(self._shelf), key=lambda part: -part.used)[:MAX_PARTS]:
                entries = _read_index(part.index)[: MAX_ENTRIES - sum(map(len, found))]
                found.append(entries)
                self._paths.append(part.pixels)
        entries = np.concatenate(found) if found else np.empty(0, _ENTRY)
        order = np.argsort(entries["key"], kind="stable")
        self._keys, self._rests, self._marks = (entries[name][order] for name in ("key", "rest", "mark"))
        lengths = [len(one) for one in found]
        self._parts = np.repeat(np.arange(len(found), dtype=np.uint16), lengths)[order]
        self._slots = np.concatenate([np.empty(0, np.uint32), *(np.arange(n, dtype=np.uint32) for n in lengths)])[order]

    def _slots_of(self, path: Path) -> Slots | None:
        """The pixels of a part, opened at first use, which is noted for those that look for the oldest."""
        with self._lock:
            if path not in self._opened:
                self._opened[path] = None
                with contextlib.suppress(OSError):
                    self._opened[path] = Slots(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), self._slot_bytes)
                    os.utime(path.with_suffix(INDEX))
            return self._opened[path]

    def _write(self, digest: bytes, pixels: Pixels) -> Place | None:
        try:
            with self._lock:
                if self._ended:
                    return None
                own = self._own or self._begin()
                slot = own.reserve()
            own.write(slot, digest, pixels)
        except OSError as error:
            with self._lock:
                self._end(error)
            return None
        return Place(own.slots, slot)

    def _begin(self) -> "_Writing":
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _demand_own(self._folder)
        while not self._own:
            with contextlib.suppress(FileExistsError):  # also where it is gone again by the time it is asked what it is
                self._shelf.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):  # another run has just taken away the last part there, and the folder
                self._own = _Writing(self._shelf / secrets.token_hex(8), self._slot_bytes, self._make_room)
        return self._own

    def _make_room(self, own: Path, own_bytes: int, needed: int) -> int:
        """Bytes that may be written before this is asked again; where they are few, after the oldest parts have gone."""
        others = sorted((part for part in parts(self._folder) if part.pixels != own), key=lambda part: part.used)
        spare = [part for part in others if not self._opened.get(part.pixels)]  # this run reads the rest
        taken = own_bytes + sum(part.size for part in others)
        wanted = max(needed, min(CHUNK_BYTES, self._limit_bytes // 8))
        while True:
            system = os.statvfs(self._folder)
            room = min(self._limit_bytes - taken, system.f_bavail * system.f_frsize - RESERVE_BYTES, wanted)
            crowded = sum(part.pixels.parent == self._shelf for part in spare) >= MAX_PARTS
            if not spare or (room == wanted and not crowded):
                return room
            oldest = spare.pop(0)
            remove(oldest)
            taken -= oldest.size

    def _end(self, error: OSError) -> None:
        """Keep nothing more, and say so once."""
        if not self._ended:
            self._ended, self._pending = True, []
            self._warn(f"decoded pixels are no longer kept in '{self._folder}': {error.strerror or error}")


class _Writing:
    """The part that this run leaves."""

    def __init__(self, path: Path, slot_bytes: int, make_room: Callable[[Path, int, int], int]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._path = path.with_suffix(PIXELS)
        self._slot_bytes = slot_bytes
        self._make_room = make_room
        self._count = self._room = 0
        self.slots = Slots(os.open(self._path, flags, _PRIVATE), slot_bytes)
        try:
            self._index = os.open(path.with_suffix(INDEX), flags, _PRIVATE)
        except OSError:
            self.slots.close()
            raise

    def reserve(self) -> int:
        """A slot that nobody else writes to. Raises OSError where there is no room for one."""
        each = self._slot_bytes + _ENTRY.itemsize
        if self._room < each:
            self._room = self._make_room(self._path, self._count * each, each)
            if self._room < each:
                raise OSError(f"there is no room left, of the disk or of {CACHE_SIZE}")
        self._room -= each
        self._count += 1
        return self._count - 1

    def write(self, slot: int, digest: bytes, pixels: Pixels) -> None:
        """Raises OSError. The entry comes last, so that what is found was written."""
        self.slots.write(slot, pixels)
        entry = digest + mark(digest, pixels).to_bytes(8, "little")
        write_all(self._index, entry, offset=slot * len(entry))

    def close(self) -> None:
        """Close both files, and take them away if nothing is in them."""
        if self._index < 0:
            return
        if not os.fstat(self._index).st_size:
            with contextlib.suppress(OSError):
                self._path.with_suffix(INDEX).unlink()
                self._path.unlink()
        os.close(self._index)
        self._index = -1
        self.slots.close()


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one run left in the cache."""

    index: Path
    entries: int
    """Pictures, as many as its index speaks of."""
    size: int
    """Bytes of both files."""
    used: float
    """Seconds since 1970: when a run last read or wrote it."""

    @property
    def pixels(self) -> Path:
        """The file of its pixels."""
        return self.index.with_suffix(PIXELS)

    @property
    def shape(self) -> str:
        """Of its pictures: height x width x channels."""
        return self.index.parent.name.partition("-")[0]


def parts(folder: Path) -> Iterator[Part]:
    """Everything in the cache. Raises OSError where it cannot be read; a folder that is not there is empty."""
    try:
        shelves = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:
        return
    for shelf in shelves:
        yield from _parts_of(shelf)


def _parts_of(shelf: Path) -> Iterator[Part]:
    """Whatever has the name of a part, half of one as well; other runs may be taking some away."""
    stems: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        stems = {path.stem for path in shelf.iterdir() if path.suffix in (INDEX, PIXELS)}
    for stem in sorted(stems):
        files = [shelf / f"{stem}{suffix}" for suffix in (INDEX, PIXELS)]
        found = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found.append((file, file.lstat()))
        if found:
            entries = sum(status.st_size // _ENTRY.itemsize for file, status in found if file.suffix == INDEX)
            size = sum(status.st_size for _, status in found)
            yield Part(index=files[0], entries=entries, size=size, used=max(status.st_mtime for _, status in found))


def remove(part: Part) -> None:
    """Take a part away; a run that reads it keeps what it has opened. Raises OSError."""
    for file in (part.index, part.pixels):  # in this order, so that nothing is found that is not there
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other parts are in it
        part.index.parent.rmdir()


def _read_index(path: Path) -> Entries:
    """The whole entries of an index; none where it is no regular file or has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return np.empty(0, _ENTRY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return np.empty(0, _ENTRY)
        data = file.read(MAX_ENTRIES * _ENTRY.itemsize)
    return np.frombuffer(data[: len(data) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY)


def _demand_own(folder: Path) -> None:
    """Raise OSError unless the folder is this user's: what others can write to is not shown to a network."""
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others than you may write there: it should be yours, with mode 700")
