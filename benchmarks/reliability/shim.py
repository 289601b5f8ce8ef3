"""Faults at the n-th file-system call of a run, installed in a forked child in place of the functions that the package calls.

    calls = Shim(folder)                            # counts and names the calls that touch `folder`
    Shim(folder, at=17, fault="ENOSPC").install()   # the 17th fails

It counts open, write, pwrite, read, preadv, pread, fsync, fdatasync, ftruncate, mkdir, rename and unlink, on paths and
descriptors in the folder, called through `os`, `pathlib` or the file objects of `open`. Calls by native code (safetensors
reading a checkpoint) are not seen.
"""

import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = ("kill", "kill after half", "ENOSPC", "ENOSPC from then on", "EIO", "EIO from then on", "short", "nothing written")
_ON_PATHS = ("open", "mkdir", "replace", "rename", "unlink", "rmdir")
_ON_DESCRIPTORS = ("write", "pwrite", "read", "pread", "preadv", "fsync", "fdatasync", "ftruncate")
_WRITES = ("write", "pwrite")
_CANNOT_BE_FULL = ("read", "pread", "preadv", "unlink", "rmdir")


def possible(fault: str, call: str) -> bool:
    """Whether a system may answer `call` so."""
    if fault in ("short", "nothing written"):
        return call in _WRITES
    return not (fault.startswith("ENOSPC") and call in _CANNOT_BE_FULL)


class Shim:
    """Counts the calls of this process on files below a folder, and lets one, or all from one on, go wrong."""

    def __init__(self, folder: Path, *, at: int = 0, fault: str = "", log: Path | None = None) -> None:
        self._folder = str(folder)
        self._at, self._fault = at, fault
        self._count = 0
        self._log = log and os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._real: dict[str, Any] = {name: getattr(os, name) for name in (*_ON_PATHS, *_ON_DESCRIPTORS)}

    def install(self) -> None:
        """From here on. The journal syncs after every record, and waits, so that which call is the n-th hangs on no clock."""
        from capture_cli import journal

        journal.SYNC_EVERY_SECONDS = 0
        journal.Journal._start_commit = journal.Journal.sync  # type: ignore[method-assign]
        for name in _ON_PATHS:
            setattr(os, name, self._counted(name, self._is_path_inside))
        for name in _ON_DESCRIPTORS:
            setattr(os, name, self._counted(name, self._is_descriptor_inside))
        real_open = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not self._is_path_inside(file):
                return real_open(file, mode, *args, **kwargs)
            self.step("open", lambda: None)
            if "b" not in mode:
                return real_open(file, mode, *args, **kwargs)
            raw: io.RawIOBase = _File(self, real_open(file, mode, buffering=0))
            if kwargs.get("buffering", args[0] if args else -1) == 0:
                return raw
            return io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)

        io.open = opened  # type: ignore[assignment]

    def _counted(self, name: str, inside: Callable[[Any], bool]) -> Callable[..., Any]:
        real = self._real[name]

        def call(what: Any, *args: Any, **kwargs: Any) -> Any:
            descriptor = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
            if not (inside(what) if descriptor is None else self._is_descriptor_inside(descriptor)):
                return real(what, *args, **kwargs)
            half = None
            if name in _WRITES and len(args[0]) > 1:
                data = memoryview(args[0])
                half = lambda: real(what, data[: len(data) // 2], *args[1:])  # noqa: E731
            return self.step(name, lambda: real(what, *args, **kwargs), half)

        return call

    def step(self, name: str, do: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do one call, or let it go wrong if its turn has come; `half` does half of a write."""
        stays = self._fault.endswith("from then on")
        self._count += 1
        if self._log is not None:
            self._real["write"](self._log, f"{name}\n".encode())
        if not self._at or self._count < self._at or (self._count > self._at and not stays):
            return do()
        return self._fail(name, do, half)

    def _fail(self, name: str, do: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        if self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "kill after half":
            try:
                (half or do)()
            finally:  # a call may fail by itself, as making a folder that is there
                os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "short":
            return half() if half else do()
        if self._fault == "nothing written":
            return 0
        code = errno.ENOSPC if self._fault.startswith("ENOSPC") else errno.EIO
        if code == errno.ENOSPC and name in _CANNOT_BE_FULL:
            return do()
        raise OSError(code, os.strerror(code))

    def _is_path_inside(self, path: Any) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        text = os.path.abspath(os.fspath(path))  # noqa: PTH100 - Path.absolute keeps `..`
        return text == self._folder or text.startswith(self._folder + "/")

    def _is_descriptor_inside(self, descriptor: Any) -> bool:
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}").startswith(self._folder)  # noqa: PTH115
        except OSError:
            return False


class _File(io.RawIOBase):
    """An unbuffered file whose reads and writes are counted."""

    def __init__(self, shim: Shim, file: Any) -> None:
        self._shim, self._file = shim, file

    def readable(self) -> bool:
        return bool(self._file.readable())

    def writable(self) -> bool:
        return bool(self._file.writable())

    def fileno(self) -> int:
        return int(self._file.fileno())

    def readinto(self, buffer: Any) -> Any:
        return self._shim.step("read", lambda: self._file.readinto(buffer))

    def write(self, data: Any) -> Any:
        view = memoryview(data)
        half = (lambda: self._file.write(view[: len(view) // 2])) if len(view) > 1 else None
        return self._shim.step("write", lambda: self._file.write(view), half)

    def close(self) -> None:
        self._file.close()
        super().close()
