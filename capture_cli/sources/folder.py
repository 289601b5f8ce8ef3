"""A folder on disk, with its subfolders, as a source.

It is opened at the first use and stays open, so it may be moved while a run reads it. What `list` skips, and why:

    hidden                 a name that begins with a dot; such a folder is one entry and is not entered
    symlink                a symbolic link, wherever it leads
    run-folder             a subfolder with records.jsonl and events.jsonl in it, which capture wrote; not entered
    not-a-regular-file     a FIFO, socket or device, or a folder with an image extension
    unsupported-extension  a file without an image extension
    empty-folder           a folder without any entry
    unreadable             a folder that cannot be listed (the detail is the errno, `EACCES`), an entry of unknown type
    missing                a folder that was removed while its parent was listed
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from capture_cli.errors import DataError, Unusable, UsageError
from capture_cli.sources import MAX_FILE_BYTES, Listing, Skipped, is_image
from capture_cli.sources.access import beneath, open_folder, path_parts, read_file, size_of, unusable

_RUN_FILES = ("records.jsonl", "events.jsonl")


class FolderSource:
    """The files below a folder. The folder itself may be a link; below it none is followed.

    With `val`, a second folder of images for validation, names are relative to the nearest folder that holds both: `within` is
    the beginning of names in the first, `val` that in the second.
    """

    def __init__(self, folder: str | os.PathLike[str], val: str | os.PathLike[str] | None = None) -> None:
        given = os.fspath(folder)
        self.typed = (given,) if val is None else (given, "--val", os.fspath(val))
        self.name, self.within, self.val = place_two_folders(given, None if val is None else os.fspath(val))
        self._descriptor = -1
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        """The absolute path; links in it are not resolved."""
        return str(Path(self.name).absolute())

    def list(self) -> Listing:
        """List the images below the folder; see capture_cli.sources.Source."""
        for name in self.typed[::2] if self.val is not None else ():
            os.close(open_folder(name))
        root, found, pending = self._root(), Listing([], []), [self.within]
        if self.within and self.val:
            pending.append(self.val)
        while pending:
            _list_folder(root, pending.pop(), found, pending)
        return found

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Read one file; see capture_cli.sources.access.read_file."""
        return read_file(self._root(), name, max_bytes=max_bytes)

    def size(self, name: str) -> int:
        """Return the size of one file in bytes; see capture_cli.sources.access.size_of."""
        return size_of(self._root(), name)

    def close(self) -> None:
        """Close the folder. May be called twice; a later call opens it again."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _root(self) -> int:
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = open_folder(self.name)
            return self._descriptor


def place_two_folders(folder: str, val: str | None) -> tuple[str, str, str | None]:
    """Return the folder that holds both, and the beginnings of names in each. Raises UsageError if `val` holds `folder`."""
    if val is None:
        return folder, "", None
    real = [os.path.realpath(name) for name in (folder, val)]
    above = os.path.commonpath(real)
    if above == real[1]:
        raise UsageError(f"--val '{val}' holds the training images in '{folder}' too", "name a folder of other images")
    within, beside = (os.path.relpath(name, above) + "/" for name in real)
    if above == real[0]:
        return folder, "", beside
    is_absolute = Path(folder).is_absolute() or Path(val).is_absolute()
    return above if is_absolute else os.path.relpath(above), within, beside


def _list_folder(root: int, folder: str, found: Listing, pending: list[str]) -> None:
    """Add the entries of one folder (a name that is empty or ends in `/`) to `found`, its subfolders to `pending`."""
    try:
        with beneath(root, path_parts(folder[:-1]) if folder else []) as descriptor, os.scandir(descriptor) as entries:
            kinds = {_name(entry): _kind(entry) for entry in entries}
    except (OSError, Unusable) as error:
        problem = unusable(error) if isinstance(error, OSError) else error
        if not isinstance(problem, Unusable):
            raise problem from error
        if not folder:
            raise DataError(f"the folder cannot be listed: {problem.detail or problem.reason}") from error
        found.skipped.append(Skipped(folder, problem.reason, problem.detail))
        return
    if folder and not kinds:
        found.skipped.append(Skipped(folder, "empty-folder"))
        return
    if folder and all(kinds.get(name) == "unsupported-extension" for name in _RUN_FILES):
        found.skipped.append(Skipped(folder, "run-folder"))
        return
    for name, kind in kinds.items():
        if kind == "image":
            found.files.append(folder + name)
        elif kind == "folder":
            pending.append(f"{folder}{name}/")
        else:
            reason = kind.rstrip("/")
            found.skipped.append(Skipped(folder + name + kind[len(reason) :], reason))


def _name(entry: os.DirEntry[str]) -> str:
    name = entry.name
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def _kind(entry: os.DirEntry[str]) -> str:
    """Return `image`, `folder`, or the reason to skip the entry, followed by `/` for a folder."""
    try:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            return "hidden/" if is_folder else "hidden"
        if entry.is_symlink():
            return "symlink"
        if is_folder:
            return "not-a-regular-file/" if is_image(entry.name) else "folder"
        if not entry.is_file(follow_symlinks=False):
            return "not-a-regular-file"
    except OSError:  # a file system that lists no types is asked for each, which may fail
        return "unreadable"
    return "image" if is_image(entry.name) else "unsupported-extension"
