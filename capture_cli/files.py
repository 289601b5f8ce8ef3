"""Complete and durable writes.

    write_all(descriptor, data)                     # every byte, or OSError
    write_atomically(folder, "config.toml", data)   # the new file whole, or the old one; it survives a power cut
    sync_folder(folder)                             # so do the names in the folder

Calls go through the module `os` by name, so that a fault injected there is met here.
"""

import contextlib
import errno
import os
import select
from pathlib import Path


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


def write_atomically(folder: Path, name: str, data: bytes, *, keep_as: str = "") -> None:
    """Write `folder/name` so that at every moment the old file or the new one is there, and durable on return.

    The old file is kept under the name `keep_as`, if one is given. Raises OSError and leaves no part of the new file.
    """
    path, aside = folder / name, folder / f".{name}.part"
    try:
        with aside.open("wb", buffering=0) as file:
            write_all(file.fileno(), data)
            os.fsync(file.fileno())
        if keep_as and path.exists():
            path.replace(folder / keep_as)
        aside.replace(path)
        sync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)  # a full disk needs the space
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the answer of a file system that needs no such call
            raise
    finally:
        os.close(descriptor)
