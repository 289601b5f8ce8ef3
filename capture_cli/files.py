"""Complete and durable writes, and locks.

    write_all(descriptor, data)                     # every byte, or OSError
    write_atomically(folder, "config.toml", data)   # the new file whole, or the old one; it survives a power cut
    sync_folder(folder)                             # so do the names in the folder
    lock(descriptor)                                # or OSError

Calls go through the module `os` by name, so that a fault injected there is met here.
"""

import contextlib
import errno
import fcntl
import io
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_all(descriptor: int, data: bytes | bytearray | memoryview, *, offset: int | None = None) -> None:
    """Write every byte of `data` at the descriptor's position, or `offset` bytes into the file.

    A system may take a part of the data only; the rest follows. Raises OSError, also if it takes nothing at all.
    """
    left = memoryview(data)
    while left:
        try:
            written = os.write(descriptor, left) if offset is None else os.pwrite(descriptor, left, offset)
        except BlockingIOError:  # a pipe that another process made non-blocking
            select.select([], [descriptor], [])
            continue
        if not written:
            raise OSError(errno.EIO, "a write took no bytes")
        left = left[written:]
        if offset is not None:
            offset += written


def write_atomically(folder: Path | int, name: str, data: bytes, *, keep_as: str = "") -> None:
    """Write `folder/name` so that at every moment the old file or the new one is there, and durable on return.

    `folder` is a path, or a descriptor that finds the folder wherever it was moved to. The old file is kept under the name
    `keep_as`, if one is given. Raises OSError and leaves no part of the new file.
    """
    if isinstance(folder, Path):
        with open_folder(folder) as descriptor:
            return write_atomically(descriptor, name, data, keep_as=keep_as)
    aside, places = f".{name}.part", {"src_dir_fd": folder, "dst_dir_fd": folder}
    try:
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=folder)
        try:
            write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        if keep_as:
            with contextlib.suppress(FileNotFoundError):
                os.replace(name, keep_as, **places)  # noqa: PTH105 - a Path has no descriptor
        os.replace(aside, name, **places)  # noqa: PTH105
        sync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(aside, dir_fd=folder)  # a full disk needs the space
        raise
    return None


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Give a descriptor of a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_folder(folder: Path | int) -> None:
    """Make the names in a folder durable. Raises OSError."""
    if isinstance(folder, Path):
        with open_folder(folder) as descriptor:
            return sync_folder(descriptor)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the answer of a file system that needs no such call
            raise
    return None


def is_removed(descriptor: int) -> bool:
    """Return True if the open file or folder has no name any more: what is written there will be gone."""
    return os.fstat(descriptor).st_nlink == 0


def lock(descriptor: int) -> None:
    """Lock a whole file for this open descriptor alone, until it is closed. Raises OSError if another one holds it.

    Neither another descriptor of this process, nor closing one, nor a forked child that closed its copy releases the lock.
    """
    if hasattr(fcntl, "F_OFD_SETLK"):
        whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole_file)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ReadAt(io.RawIOBase):
    """Reads a descriptor from an offset on, without moving or closing it.

    The path may lead to another file by now.
    """

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._offset = fd, offset

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = os.preadv(self._fd, [buffer], self._offset)
        self._offset += read
        return read
