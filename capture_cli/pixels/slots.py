"""A file of pictures of one size, uint8, one after the other.

    file = SlotFile.unnamed([folder], slot_bytes)   # disappears with the process
    file.write(7, pixels)
    file.read(7, into)                              # False if the file does not hold it
    checksum(into) == checksum(pixels)

Pictures are read by position, not mapped into memory: what is read stays in the page cache, which the system takes back when it
likes, and does not count as memory of the process. Any number of threads may read and write.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import xxhash

from capture_cli.files import write_all
from capture_cli.pixels.decoding import Pixels


class SlotFile:
    """An open file. Slots are numbered from 0; one that was never written reads as zeros, or not at all."""

    def __init__(self, descriptor: int, slot_bytes: int) -> None:
        self._descriptor = descriptor
        self._slot_bytes = slot_bytes

    @classmethod
    def unnamed(cls, folders: Iterable[Path], slot_bytes: int) -> Self:
        """Make a file without a name, which leaves nothing however the run ends, in the first folder where that succeeds.

        Raises OSError, the last one, if none does.
        """
        reason = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        for folder in folders:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                    return cls(os.dup(file.fileno()), slot_bytes)
            except OSError as error:
                reason = error
        raise reason

    def write(self, slot: int, pixels: Pixels) -> None:
        """Write contiguous pixels of one slot. Raises OSError."""
        write_all(self._descriptor, pixels.data.cast("B"), offset=slot * self._slot_bytes)

    def read(self, slot: int, into: Pixels) -> bool:
        """Fill contiguous pixels of one slot; False if the file is too short or cannot be read."""
        left, offset = into.data.cast("B"), slot * self._slot_bytes
        try:
            while left:
                count = os.preadv(self._descriptor, [left], offset)
                if not count:
                    return False
                left, offset = left[count:], offset + count
        except OSError:
            return False
        return True

    def demand_space(self, reserve_bytes: int) -> None:
        """Raise OSError if less than this is free on the disk of the file."""
        system = os.fstatvfs(self._descriptor)
        if system.f_bavail * system.f_frsize < reserve_bytes:
            raise OSError(f"less than {reserve_bytes // 2**20:,} MB of the disk are free")

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Location(NamedTuple):
    """The place of one picture's pixels on disk."""

    file: SlotFile
    slot: int


class Kept(NamedTuple):
    """A picture that is on disk, and the checksum of its pixels."""

    location: Location
    checksum: int


def checksum(pixels: Pixels) -> int:
    """XXH3-64 of contiguous pixels."""
    return xxhash.xxh3_64_intdigest(pixels.data)
