"""The one safe way to read a file below a folder, whoever made the folder, the file or its name.

    with opened("photos") as folder:
        data = read_file(folder, "cat/1.png")       # or read_file("photos", "cat/1.png"), which opens the folder each time

Nothing outside the folder is reached, neither by `..` nor by a link. No FIFO, socket or device is read or waited for. At most
`max_bytes` are read. A file that cannot be read raises `Unusable` with one of these reasons:

    bad-path            empty, absolute, with `.`, `..` or a NUL in it, or no possible file name
    missing             no such file, or no longer
    symlink             the file, or a folder on the way to it, is a symbolic link
    not-a-regular-file  a folder, FIFO, socket or device
    file-too-large      more than `max_bytes`
    unreadable          any other failure; the detail is its errno, `EACCES` or `EIO`
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from capture_cli.errors import CaptureError, DataError, Unusable, UsageError, absent
from capture_cli.sources import MAX_FILE_BYTES

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def open_folder(folder: str | os.PathLike[str]) -> int:
    """Open `folder`, which may be a link, for `read_file`; the caller closes the descriptor.

    Raises UsageError if there is no such folder, DataError if it may not be read.
    """
    name = os.fspath(folder)
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise UsageError(absent(name, "folder"), "name a folder that holds images") from error
    except NotADirectoryError as error:
        raise UsageError(f"'{name}' is not a folder", "name the folder that holds the images") from error
    except PermissionError as error:
        raise DataError(f"no permission to read the folder '{name}'", "`ls -ld` shows its owner") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UsageError(f"the folder '{name}' cannot be opened: {reason}") from error


@contextlib.contextmanager
def opened(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Open `folder` as `open_folder` does, and close it in the end."""
    descriptor = open_folder(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(folder: int | str | os.PathLike[str], relative: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read the regular file `relative` below `folder` (a path, or a descriptor from `open_folder`).

    Safe for paths from anywhere. A FIFO, socket or device is not opened; one that takes the file's place at that very moment is
    opened without waiting and not read. Any number of threads may call this.

    Raises Unusable with one of the reasons above; CaptureError if the process is out of file descriptors or memory, which is
    not the file's fault.
    """
    if not isinstance(folder, int):
        with opened(folder) as descriptor:
            return read_file(descriptor, relative, max_bytes=max_bytes)
    descriptor = open_file(folder, relative, max_bytes=max_bytes)
    try:
        return _read_all(descriptor, os.fstat(descriptor).st_size, max_bytes)
    except OSError as error:
        raise unusable(error) from error
    finally:
        os.close(descriptor)


def open_file(folder: int, relative: str, *, max_bytes: int) -> int:
    """Open the regular file `relative` below a folder, as safely as `read_file`; the caller closes it. Raises as that does."""
    *folders, name = path_parts(relative)
    try:
        with beneath(folder, folders) as parent:
            # Looked at before it is opened: opening a device can act on it, a tape rewinds.
            _demand_regular(os.stat(name, dir_fd=parent, follow_symlinks=False), max_bytes)
            descriptor = os.open(name, _FILE, dir_fd=parent)
        try:
            _demand_regular(os.fstat(descriptor), max_bytes)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise unusable(error) from error
    return descriptor


def size_of(folder: int, relative: str) -> int:
    """Return the size of the file `relative` below a folder, which is not opened; a link has its own. Raises as `read_file`."""
    *folders, name = path_parts(relative)
    try:
        with beneath(folder, folders) as parent:
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
    except OSError as error:
        raise unusable(error) from error


def _read_all(descriptor: int, size: int, max_bytes: int) -> bytes:
    """Read to the end, which may have moved since `size` was taken. Raises Unusable beyond `max_bytes`."""
    chunks: list[bytes] = []
    left = max_bytes + 1
    while left > 0:
        chunk = os.read(descriptor, min(left, max(size + 1, 2**16)))
        if not chunk:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.append(chunk)
        left -= len(chunk)
    raise Unusable("file-too-large", f"more than {max_bytes} bytes")


def _demand_regular(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unusable("symlink" if stat.S_ISLNK(status.st_mode) else "not-a-regular-file")
    if status.st_size > max_bytes:
        raise Unusable("file-too-large", f"{status.st_size} bytes, more than {max_bytes}")


def path_parts(relative: str) -> list[bytes]:
    """Split a relative path into its parts as they are on disk. Raises Unusable."""
    try:
        parts = relative.encode("utf-8", "surrogateescape").split(b"/")
    except UnicodeEncodeError as error:  # a surrogate that stands for no byte: no file has such a name
        raise Unusable("bad-path") from error
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise Unusable("bad-path")
    return parts


@contextlib.contextmanager
def beneath(root: int, folders: Sequence[bytes]) -> Iterator[int]:
    """Open the folder that the parts `folders` lead to from `root`, step by step and through no link."""
    at = root
    try:
        for part in folders:
            try:
                below = os.open(part, _FOLDER, dir_fd=at)
            except NotADirectoryError:
                if stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode):
                    raise Unusable("symlink") from None
                raise
            if at != root:
                os.close(at)
            at = below
        yield at
    finally:
        if at != root:
            os.close(at)


_REASONS = {
    errno.ELOOP: "symlink",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ENXIO: "not-a-regular-file",
    errno.ENODEV: "not-a-regular-file",
}


def unusable(error: OSError) -> CaptureError:
    """Convert a failed call to Unusable if the file is to blame, to CaptureError if this process is."""
    number = error.errno or 0
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return CaptureError(f"files can no longer be read: {os.strerror(number)}", "see `ulimit -n` and the memory left")
    if number in _REASONS:
        return Unusable(_REASONS[number])
    return Unusable("unreadable", errno.errorcode.get(number, str(number)))
