"""A file of raw tensor bytes that holds each kept input once.

    pack = Pack(folder / "inputs" / "pack-00000.bin")
    stored = pack.store(inputs, digests(inputs))        # {"pack": ..., "offsets": [...]}, for the record

A later visit with the same bytes refers to the bytes that are there already.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture_cli.errors import CaptureError
from capture_cli.files import sync_folder, write_all


class Pack:
    """An append-only file of inputs, created with the first input."""

    def __init__(self, path: Path, *, length: int = 0, offsets: Mapping[str, int] | None = None) -> None:
        """Begin a new file, or continue one at `length` bytes; `offsets` maps the digest of each input in it to its offset."""
        self.length = length
        self._path = path
        self._offsets = dict(offsets or {})
        self._fd = -1
        self._name_synced = False
        if length:
            self._open()

    def store(self, inputs: npt.NDArray[Any], digests: Sequence[str]) -> dict[str, Any]:
        """Append the inputs [B, ...] that are not in the file yet; return the offset of each of the B, in bytes."""
        new, offsets = bytearray(), {}
        for digest, one in zip(digests, inputs, strict=True):
            if digest not in self._offsets and digest not in offsets:
                offsets[digest] = self.length + len(new)
                new += one.tobytes()
        if new and self._fd < 0:
            self._open()
        try:
            write_all(self._fd, new, offset=self.length)  # a resumed run overwrites what was written after its checkpoint
        except OSError as error:
            raise self._failed(error) from error
        self.length += len(new)
        self._offsets |= offsets  # only now that the bytes are there: Ctrl-C may interrupt the write
        return {"pack": f"{self._path.parent.name}/{self._path.name}", "offsets": [self._offsets[digest] for digest in digests]}

    def sync(self) -> None:
        """Return once the bytes, the file's name and its folder's name would survive a power cut."""
        if self._fd < 0:
            return
        try:
            os.fsync(self._fd)
            if not self._name_synced:
                sync_folder(self._path.parent)
                sync_folder(self._path.parent.parent)
                self._name_synced = True
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            size = os.fstat(self._fd).st_size
        except OSError as error:
            raise self._failed(error) from error
        if size < self.length:
            raise CaptureError(f"'{self._path}' is shorter than the records say", "restore the run folder")

    def _failed(self, error: OSError) -> CaptureError:
        return CaptureError(
            f"inputs could not be written to '{self._path}': {error.strerror}", "the records are kept and valid"
        )
