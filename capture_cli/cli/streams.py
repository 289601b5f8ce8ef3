"""The standard streams of a command: data alone on stdout, and a stderr that never fails.

open_streams()                  # once, at the start of a command
with other_code():              # models and libraries run here: what they print goes to stderr
    model = build()
"""

import contextlib
import errno
import io
import locale
import os
import stat
import sys
from collections.abc import Iterator

from capture_cli.files import write_all


def open_streams() -> None:
    """Open closed standard streams, so that no file gets their descriptors, and make stderr forgiving.

    Reading returns nothing, messages go nowhere, and writing data fails, as it should: nobody would receive it.
    """
    modes = {"stdin": ("r", os.O_RDONLY), "stdout": ("w", os.O_RDONLY), "stderr": ("w", os.O_WRONLY)}
    for number, (name, (mode, flags)) in enumerate(modes.items()):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if sys.__stdout__ in (None, sys.stdout) and isinstance(sys.stdout, io.TextIOWrapper):
        data = io.BufferedWriter(_Data(1, "wb", closefd=False))
        encoding = _encoding(sys.stdout)
        sys.stdout = io.TextIOWrapper(data, encoding, "backslashreplace", line_buffering=sys.stdout.line_buffering)
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        forgiving = io.BufferedWriter(_Forgiving(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(forgiving, _encoding(sys.stderr), "backslashreplace", line_buffering=True)


def _encoding(stream: io.TextIOWrapper) -> str:
    """Return the encoding of a stream: a terminal has that of the locale, in Python's UTF-8 mode too."""
    return locale.getencoding() if sys.flags.utf8_mode and stream.isatty() else stream.encoding


class StdoutError(OSError):
    """Data could not be written to stdout."""

    on_terminal = False
    """True if stdout is, or was, a terminal."""

    @property
    def reader_is_gone(self) -> bool:
        """True if the pipe or the terminal was closed by whoever read it."""
        return self.errno == errno.EPIPE or (self.errno == errno.EIO and self.on_terminal)


class _Data(io.FileIO):
    """Stdout, whose errors are told from those of other files."""

    def write(self, data: object) -> int:
        try:
            write_all(self.fileno(), data)  # type: ignore[arg-type] # bytes-like, from the buffer above
        except OSError as error:
            lost = StdoutError(error.errno, error.strerror)
            lost.on_terminal = stat.S_ISCHR(os.fstat(1).st_mode)
            raise lost from error
        return memoryview(data).nbytes  # type: ignore[arg-type]


class _Forgiving(io.FileIO):
    """A stream of messages: a reader or terminal that is gone, or a full disk, is no reason to end a run."""

    def write(self, data: object) -> int:
        with contextlib.suppress(OSError):
            write_all(self.fileno(), data)  # type: ignore[arg-type] # bytes-like, from the buffer above
        return memoryview(data).nbytes  # type: ignore[arg-type]


@contextlib.contextmanager
def other_code() -> Iterator[None]:
    """Send to stderr what models, their libraries and their processes print meanwhile, on descriptor 1 as well."""
    sys.stdout.flush()
    data = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _flush_printed()
        os.dup2(data, 1)
        os.close(data)


def end_output() -> None:
    """Finish the data: what is printed later, by threads and at exit, goes to stderr. Raises OSError."""
    sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def _flush_printed() -> None:
    """Write what C and Python still buffer for descriptor 1."""
    if sys.__stdout__ is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.__stdout__.flush()
    import ctypes

    fflush = getattr(ctypes.CDLL(None), "fflush", None)
    if fflush is not None:
        fflush(None)
