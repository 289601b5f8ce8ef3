"""A file of pictures of one size, uint8, one after the other, each with a mark by which damage is seen.

    slots = Slots.unnamed([folder], slot_bytes)     # a file that ends with the process
    slots.write(7, pixels)
    slots.read(7, into)                             # False where the file does not hold it
    mark(digest, into) == mark(digest, pixels)      # it is what was written

Read and written by position rather than mapped into memory, so that what is read is in the page cache, which the system takes
back when it likes, and nothing of it counts as memory of the process. Any number of threads may read and write.
"""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import xxhash

from capture_cli.files import write_all

Pixels = npt.NDArray[np.uint8]


class Slots:
    """An open file. Slots are numbered from 0; one that was never written reads as zeros, or not at all."""

    def __init__(self, descriptor: int, slot_bytes: int) -> None:
        self._descriptor = descriptor
        self._slot_bytes = slot_bytes

    @classmethod
    def unnamed(cls, folders: Iterable[Path], slot_bytes: int) -> Self:
        """A file in the first of these folders that takes one; it has no name, so nothing is left of it, however the run ends.

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
        """Write contiguous pixels of the slots' size. Raises OSError."""
        write_all(self._descriptor, pixels.data.cast("B"), offset=slot * self._slot_bytes)

    def read(self, slot: int, into: Pixels) -> bool:
        """Fill contiguous pixels of the slots' size; False if the file is too short or cannot be read."""
        left, at = into.data.cast("B"), slot * self._slot_bytes
        try:
            while left:
                count = _read_at(self._descriptor, left, at)
                if not count:
                    return False
                left, at = left[count:], at + count
        except OSError:
            return False
        return True

    def demand_room(self, reserve_bytes: int) -> None:
        """Raise OSError if less than this is left of the disk that the file is on."""
        system = os.fstatvfs(self._descriptor)
        if system.f_bavail * system.f_frsize < reserve_bytes:
            raise OSError(f"less than {reserve_bytes // 2**20:,} MB of the disk are left")

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _read_at(descriptor: int, into: memoryview, at: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], at)
    data = os.pread(descriptor, len(into), at)
    into[: len(data)] = data
    return len(data)


def mark(digest: bytes, pixels: Pixels) -> int:
    """XXH3-64 of contiguous pixels, seeded by the digest of the file that they came from, so that neither fits another's."""
    return xxhash.xxh3_64_intdigest(pixels.data.cast("B"), seed=int.from_bytes(digest[:8], "little"))
