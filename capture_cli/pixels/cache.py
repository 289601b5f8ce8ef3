"""Decoded pixels, kept in the user's cache folder and found by the content of the image file, so that each is decoded once.

    cache = PixelCache(cache_folder(), geometry, limit_bytes=10 * 2**30, warn=print)
    kept = cache.read(digest, into)                 # None: not there, or damaged; decode the file, and then
    location = cache.keep(digest, pixels, file_bytes)
    cache.close()

    for part in parts(cache_folder()): ...          # `remove(part)` deletes one

The key is the BLAKE2b digest of a file's bytes. Pixels are in a folder named for their shape, the rest of their
geometry and the decoder that made them (capture_cli.pixels.decoding.decoder_id). Each run that decodes WORTH_BYTES of files
leaves a part there:

    NAME.pixels     the pixels, one picture after the other
    NAME.index      24 bytes for each picture: the digest, and the checksum of the pixels (capture_cli.pixels.slots)

Nobody changes the part of another process, so runs need not wait for each other. Damaged or incomplete pixels do not fit their
checksum and are as good as absent. Nothing is synced: a lost part costs time and nothing else. All parts take at most
`limit_bytes`; those unused for longest are removed, and a disk is never filled to its end. If a part cannot be written, or the
folder belongs to somebody else, there is one warning and the run continues without.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capture_cli.files import write_all
from capture_cli.pixels.decoding import Pixels, decoder_id
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.slots import Kept, Location, SlotFile, checksum
from capture_cli.resources import CACHE_SIZE

WORTH_BYTES = 4 * 2**20  # about a hundred photographs, or a thousand small PNG files: half a second of decoding
RESERVE_BYTES = 2**30  # disk space that stays free for the records
CHUNK_BYTES = 64 * 2**20  # the most that is written between two looks at the free space
MAX_PARTS = 256  # per shape; each costs a descriptor when it is read
MAX_ENTRIES = 2**22  # looked up per shape, the newest first; each costs 40 bytes of memory
INDEX, PIXELS = ".index", ".pixels"

Entries = npt.NDArray[np.void]

_ENTRY = np.dtype([("key", "<u8"), ("rest", "<u8"), ("checksum", "<u8")])
"""Both halves of the digest, and the checksum; all zero where a run was killed before it wrote them."""
_PRIVATE = 0o600
_FORMAT = "2"


def cache_folder() -> Path:
    """Return capture/pixels in XDG_CACHE_HOME or ~/.cache. Raises OSError if there is no home folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(named) if named.startswith("/") else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return base / "capture" / "pixels"


class PixelCache:
    """Pictures of one shape. Any number of threads may read and keep."""

    def __init__(
        self,
        folder: Path,
        geometry: Geometry,
        *,
        limit_bytes: int,
        warn: Callable[[str], object],
        at_once: bool = False,
    ) -> None:
        """Look up what is there for pictures of this geometry; with `at_once` the first one kept begins a part.

        `warn` is called at most once, from any thread, if nothing more can be kept.
        """
        channels, height, width = geometry.shape
        made = ", ".join(f"{name} {value}" for name, value in asdict(geometry).items())
        name = blake2b(f"{_FORMAT}, {decoder_id()}, {made}".encode(), digest_size=6).hexdigest()
        self._folder = folder
        self._shape_folder = folder / f"{height}x{width}x{channels}-{name}"
        self._slot_bytes = channels * height * width
        self._limit_bytes = limit_bytes
        self._warn = warn
        self._worth_bytes = 0 if at_once else WORTH_BYTES
        self._lock = threading.Lock()
        self._opened: dict[Path, SlotFile | None] = {}
        self._own: _OwnPart | None = None
        self._pending: list[tuple[bytes, Pixels]] = []
        self._pending_bytes = 0
        self._ended = False
        self._load()

    def read(self, digest: bytes, into: Pixels) -> Kept | None:
        """Fill `into` with the pixels of the file with this digest; None if they are not there."""
        key, rest = np.frombuffer(digest, "<u8")
        at = int(np.searchsorted(self._keys, key))
        while at < len(self._keys) and self._keys[at] == key:
            number, slot = int(self._parts[at]), int(self._slots[at])
            if self._rests[at] == rest:
                file = self._open(self._paths[number])
                if file and file.read(slot, into) and _bound(digest, found := checksum(into)) == self._checksums[at]:
                    return Kept(Location(file, slot), found)
            at += 1
        return None

    def keep(self, digest: bytes, pixels: Pixels, file_bytes: int) -> Location | None:
        """Keep the pixels of a file of `file_bytes`; None if they are not kept, or not yet.

        The array must not change: it is written later if it is not yet known whether keeping pays.
        """
        with self._lock:
            if self._ended:
                return None
            self._pending.append((digest, pixels))
            self._pending_bytes += file_bytes
            if self._pending_bytes < self._worth_bytes:
                return None
            pending, self._pending = self._pending, []
        location = None
        for one in pending:
            location = self._write(*one)
        return location

    def close(self) -> None:
        """Close every file. May be called twice."""
        with self._lock:
            self._ended, self._pending = True, []
            for file in self._opened.values():
                if file:
                    file.close()
            self._opened.clear()
            if self._own:
                self._own.close()

    def _load(self) -> None:
        """Read the indexes, newest first, into columns sorted by digest."""
        found: list[Entries] = []
        self._paths: list[Path] = []
        with contextlib.suppress(OSError):
            _demand_own(self._folder)
            for part in sorted(_parts_of(self._shape_folder), key=lambda part: -part.used)[:MAX_PARTS]:
                found.append(_read_index(part.index)[: MAX_ENTRIES - sum(map(len, found))])
                self._paths.append(part.pixels)
        entries = np.concatenate([np.empty(0, _ENTRY), *found])
        order = np.argsort(entries["key"], kind="stable")
        self._keys, self._rests, self._checksums = (entries[name][order] for name in ("key", "rest", "checksum"))
        lengths = [len(one) for one in found]
        self._parts = np.repeat(np.arange(len(found), dtype=np.uint16), lengths)[order]
        self._slots = np.concatenate([np.empty(0, np.uint32), *(np.arange(n, dtype=np.uint32) for n in lengths)])[order]

    def _open(self, path: Path) -> SlotFile | None:
        """Open the pixels of a part at first use, and note the use for those that look for the oldest part."""
        with self._lock:
            if path not in self._opened:
                self._opened[path] = None
                with contextlib.suppress(OSError):
                    self._opened[path] = SlotFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), self._slot_bytes)
                    os.utime(path.with_suffix(INDEX))
            return self._opened[path]

    def _write(self, digest: bytes, pixels: Pixels) -> Location | None:
        try:
            with self._lock:
                if self._ended:
                    return None
                own = self._own or self._begin()
                slot = own.reserve()
            own.write(slot, digest, pixels)
        except OSError as error:
            with self._lock:
                if not self._ended:
                    self._ended, self._pending = True, []
                    self._warn(f"decoded pixels are no longer kept in '{self._folder}': {error.strerror or error}")
            return None
        return Location(own.file, slot)

    def _begin(self) -> _OwnPart:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _demand_own(self._folder)
        while not self._own:
            with contextlib.suppress(FileExistsError):  # also if it disappears before mkdir asks what it is
                self._shape_folder.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):  # another run has just removed the last part there, and the folder
                self._own = _OwnPart(self._shape_folder / secrets.token_hex(8), self._slot_bytes, self._make_space)
        return self._own

    def _make_space(self, own: Path, own_bytes: int, needed: int) -> int:
        """Return how many bytes may be written before the next call; if few, remove the oldest parts first."""
        others = sorted((part for part in parts(self._folder) if part.pixels != own), key=lambda part: part.used)
        unread = [part for part in others if not self._opened.get(part.pixels)]  # this run reads the rest
        taken = own_bytes + sum(part.size for part in others)
        wanted = max(needed, min(CHUNK_BYTES, self._limit_bytes // 8))
        while True:
            system = os.statvfs(self._folder)
            space = min(self._limit_bytes - taken, system.f_bavail * system.f_frsize - RESERVE_BYTES, wanted)
            crowded = sum(part.pixels.parent == self._shape_folder for part in unread) >= MAX_PARTS
            if not unread or (space == wanted and not crowded):
                return space
            oldest = unread.pop(0)
            remove(oldest)
            taken -= oldest.size


class _OwnPart:
    """The part that this run writes."""

    def __init__(self, path: Path, slot_bytes: int, make_space: Callable[[Path, int, int], int]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._path = path.with_suffix(PIXELS)
        self._slot_bytes = slot_bytes
        self._make_space = make_space
        self._count = self._space = 0
        self.file = SlotFile(os.open(self._path, flags, _PRIVATE), slot_bytes)
        try:
            self._index = os.open(path.with_suffix(INDEX), flags, _PRIVATE)
        except OSError:
            self.file.close()
            raise

    def reserve(self) -> int:
        """Reserve a slot. Raises OSError if there is no space for one."""
        each = self._slot_bytes + _ENTRY.itemsize
        if self._space < each:
            self._space = self._make_space(self._path, self._count * each, each)
            if self._space < each:
                raise OSError(f"there is no space left on the disk, or within {CACHE_SIZE}")
        self._space -= each
        self._count += 1
        return self._count - 1

    def write(self, slot: int, digest: bytes, pixels: Pixels) -> None:
        """Write pixels, then their index entry: what is found was written. Raises OSError."""
        self.file.write(slot, pixels)
        entry = digest + _bound(digest, checksum(pixels)).to_bytes(8, "little")
        write_all(self._index, entry, offset=slot * len(entry))

    def close(self) -> None:
        """Close both files, and remove them if they are empty."""
        if self._index < 0:
            return
        if not os.fstat(self._index).st_size:
            with contextlib.suppress(OSError):
                self._path.with_suffix(INDEX).unlink()
                self._path.unlink()
        os.close(self._index)
        self._index = -1
        self.file.close()


@dataclass(frozen=True, kw_only=True)
class Part:
    """The two files that one run left in the cache."""

    index: Path
    entries: int
    """Pictures in the index."""
    size: int
    """Bytes of both files."""
    used: float
    """Seconds since 1970 when a run last read or wrote it."""

    @property
    def pixels(self) -> Path:
        """The file of its pixels."""
        return self.index.with_suffix(PIXELS)

    @property
    def shape(self) -> str:
        """Height x width x channels of its pictures."""
        return self.index.parent.name.partition("-")[0]


def parts(folder: Path) -> Iterator[Part]:
    """List everything in the cache; a missing folder is empty. Raises OSError if it cannot be read."""
    try:
        shape_folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:
        return
    for path in shape_folders:
        yield from _parts_of(path)


def _parts_of(shape_folder: Path) -> Iterator[Part]:
    """List what has the name of a part, also half of one; other runs may be removing some."""
    stems: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        stems = {path.stem for path in shape_folder.iterdir() if path.suffix in (INDEX, PIXELS)}
    for stem in sorted(stems):
        files = [shape_folder / f"{stem}{suffix}" for suffix in (INDEX, PIXELS)]
        found = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found.append((file, file.lstat()))
        if found:
            entries = sum(status.st_size // _ENTRY.itemsize for file, status in found if file.suffix == INDEX)
            size = sum(status.st_size for _, status in found)
            yield Part(index=files[0], entries=entries, size=size, used=max(status.st_mtime for _, status in found))


def remove(part: Part) -> None:
    """Delete a part; a run that reads it keeps what it has opened. Raises OSError."""
    for file in (part.index, part.pixels):  # the index first, so that nothing is found that is not there
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        part.index.parent.rmdir()


def _bound(digest: bytes, checksum: int) -> int:
    """Bind a checksum to the digest of the image file, so that one picture never passes for another."""
    return checksum ^ int.from_bytes(digest[:8], "little")


def _read_index(path: Path) -> Entries:
    """Read the complete entries of an index; none if it is no regular file or has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return np.empty(0, _ENTRY)
    with os.fdopen(descriptor, "rb") as file:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        data = file.read(MAX_ENTRIES * _ENTRY.itemsize) if regular else b""
    return np.frombuffer(data[: len(data) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY)


def _demand_own(folder: Path) -> None:
    """Raise OSError unless the folder is this user's: no network is shown what others could have written."""
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others may write there: make it yours, with mode 700")
