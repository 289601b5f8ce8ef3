"""The image files of a run, found again: only a file with the recorded digest is decoded, and few pictures are held at a time.

    with opened(place_of(run, run_folder)) as folder:
        originals = Originals(folder, geometry)
        taken = originals.take([File("cat_1.png", digest), ...])
        originals.pixels[taken.slots]               # uint8 [n, C, H, W]; a slot is -1 where the file cannot be had
        taken.lost                                  # place in the list -> why

Records name the files and are hostile: nothing but regular files beneath the folder is opened (capture_cli.sources.access),
and no bytes but those with the recorded BLAKE2b reach a decoder.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.errors import Unusable, UsageError
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.store import MemoryStore
from capture_cli.records import RunInfo
from capture_cli.sources.access import read_file

CACHE_BYTES = 2**29
"""Of decoded pixels that are held, one byte a channel."""
MAX_SIDE = 4096
"""Of an input, in pixels: what `--img-size` takes."""
_EVENTS, _EVENTS_BYTES = "events.jsonl", 2**20

Slots = npt.NDArray[np.int64]


class File(NamedTuple):
    """One image file as a samples record has it."""

    name: str
    """Relative to the folder."""
    digest: str
    """BLAKE2b (16 bytes, hex) of its bytes."""


class Lost(NamedTuple):
    """Why a file cannot be had."""

    cause: str
    """`missing`, `changed` or `unreadable`."""
    detail: str


class Taken(NamedTuple):
    """Where the pixels of n files are."""

    slots: Slots
    """[n] places in `Originals.pixels`, -1 where there are none; good until the next `take`."""
    lost: dict[int, Lost]
    """By place in the list that was asked for."""


def place_of(run: RunInfo, run_folder: Path | None) -> Path:
    """The folder of a run's images: as it was given, seen from here, or else where the run says that it was last.

    Raises UsageError where neither is there.
    """
    names = [run.folder]
    if run_folder is not None:
        with contextlib.suppress(Unusable):
            events = read_file(run_folder, _EVENTS)[:_EVENTS_BYTES].splitlines()
            names += reversed([name for name in map(_folder_of_event, events) if name])
    for name in dict.fromkeys(names):
        if name and "\0" not in name and Path(name).is_dir():
            return Path(name)
    raise UsageError(f"the folder '{run.folder}' of this run is not here", "--folder PATH says where its images are now")


def _folder_of_event(line: bytes) -> str:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return ""
    folder = event.get("folder_absolute") if isinstance(event, dict) and event.get("event") == "start" else ""
    return folder if isinstance(folder, str) else ""


class Originals:
    """Pictures by file, decoded at their first use and held while there is room; the one not used for longest goes first."""

    def __init__(self, folder: int, geometry: Geometry, *, cache_bytes: int = CACHE_BYTES) -> None:
        """Look for files below `folder`, a descriptor. Raises UsageError for sides beyond MAX_SIDE."""
        if max(geometry.height, geometry.width) > MAX_SIDE:
            raise UsageError(
                f"inputs of {geometry.height}x{geometry.width} pixels are not made again", f"sides go up to {MAX_SIDE}"
            )
        self.room = max(1, cache_bytes // math.prod((geometry.channels, geometry.height, geometry.width)))
        """The most files that `take` can be asked for at once."""
        self._folder = folder
        self._geometry = geometry
        self._store = MemoryStore(0, geometry)
        self._slots: OrderedDict[File, int] = OrderedDict()
        self._free: list[int] = []

    @property
    def pixels(self) -> Pixels:
        """uint8 [slots, C, H, W]."""
        return self._store.pixels

    def take(self, files: Sequence[File]) -> Taken:
        """Have the pixels of at most `room` files in the store at once; a file may be named more than once."""
        self._grow(len(files))
        missing = [file for file in dict.fromkeys(files) if file not in self._slots]
        for file in files:
            if file in self._slots:
                self._slots.move_to_end(file)
        lost = self._admit({self._slot(file): file for file in missing}) if missing else {}
        slots = np.fromiter((self._slots.get(file, -1) for file in files), np.int64, len(files))
        return Taken(slots, {i: lost[file] for i, file in enumerate(files) if file in lost})

    def _grow(self, n: int) -> None:
        """Begin with as little as a small job needs: a store is as large as it is made."""
        size = len(self._store.pixels)
        if n + len(self._slots) <= size or size == self.room:
            return
        larger = MemoryStore(min(self.room, max(2 * size, 2 * n)), self._geometry)
        larger.pixels[:size] = self._store.pixels
        self._free += range(size, len(larger.pixels))
        self._store = larger

    def _slot(self, file: File) -> int:
        slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
        self._slots[file] = slot
        return slot

    def _admit(self, wanted: Mapping[int, File]) -> dict[File, Lost]:
        """Read and decode files into their slots; those that cannot be had give theirs back."""
        lost = {}
        for slot, unusable in self._store.admit(wanted, lambda slot: self._read(wanted[slot])).skipped:
            file = wanted[slot]
            lost[file] = _lost(unusable)
            del self._slots[file]
            self._free.append(slot)
        return lost

    def _read(self, file: File) -> bytes:
        """The bytes that the run had. Raises Unusable."""
        data = read_file(self._folder, file.name)
        digest = blake2b(data, digest_size=16).hexdigest()
        if digest != file.digest:
            raise Unusable("changed", f"its BLAKE2b was {file.digest}, is {digest}")
        return data


def _lost(unusable: Unusable) -> Lost:
    if unusable.reason in ("missing", "changed"):
        return Lost(unusable.reason, unusable.detail)
    return Lost("unreadable", str(unusable))
