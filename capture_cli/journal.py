"""An append-only file of records: what was written is never lost, doubled or torn.

    with Journal.create(path) as journal:
        journal.append(record)          # one write; it survives a kill of this process
        journal.sync()                  # it survives a power cut
        journal.seal("completed")       # the end line

    with Journal.resume(path, position) as journal:
        journal.append(record)          # compared with the line on disk; appended once there is none

It promises:

* One `write` per record, straight to the file: nothing waits in a buffer of this process.
* Group commit: about once a second `append` makes everything before it durable (fdatasync, in a thread). `sync` and `seal`
  do so at once and return when it is done.
* A write that fails (disk full) is undone, so the file ends with its last whole line, and the journal refuses more. A write
  that Ctrl-C interrupts is undone, and the journal continues.
* A failed fdatasync is never repeated: the system may have dropped the pages, and a second call would report success.
* The file is new, or its owner gave it up (`force`). It is locked against other journals, of this process as well, until it is
  closed; a forked child does not hold the lock.
* A file that is removed while it is written is an error within a second, not a run without records.
* Resuming removes no good record: those after the position are computed again and compared byte for byte, and a difference is
  an error. Only an incomplete last line, or an end line that is not `completed`, is removed, after it was copied aside.

A journal can also write to a pipe, where nothing can be locked, synced or undone.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import stat
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypedDict

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.files import ReadAt, is_removed, lock, open_folder, sync_folder, write_all
from capture_cli.records import End, Record, encode
from capture_cli.records.chain import GENESIS, follow
from capture_cli.records.comparing import first_difference

SYNC_EVERY_SECONDS = 1.0
_COPY_BYTES = 1 << 20
_KEPT = "what was written before is kept and valid"
_open: weakref.WeakSet[Journal] = weakref.WeakSet()
"""Journals of this process: a forked child closes its copies of their descriptors, or it would hold their locks."""

Tail = Literal["compare", "set aside", "keep"]
"""Treatment of the records after the position by `resume`: compare the next records with them; set them aside, where results
are known to differ; or keep them, where only a completed end follows."""


class JournalPosition(TypedDict):
    """A place between two lines of a journal."""

    seq: int
    """Lines before it."""
    bytes: int
    """Their length."""
    chain: str
    """The chain of the last of them, 32 hex digits."""


BEGINNING: JournalPosition = {"seq": 0, "bytes": 0, "chain": GENESIS.hex()}


class VerifiedLine(NamedTuple):
    """A whole line that follows the line before it."""

    kind: str
    data: bytes
    """With its newline."""
    start: JournalPosition
    end: JournalPosition


def verified_lines(lines: Iterable[bytes]) -> Iterator[VerifiedLine]:
    """Yield the lines of a journal, up to an incomplete last one. Raises RecordsError at the first that does not verify."""
    start = BEGINNING
    for data in lines:
        if not data.endswith(b"\n"):
            return
        envelope = follow(data, seq=start["seq"], previous=bytes.fromhex(start["chain"]))
        end: JournalPosition = {"seq": start["seq"] + 1, "bytes": start["bytes"] + len(data), "chain": envelope.chain.hex()}
        yield VerifiedLine(envelope.kind, data, start, end)
        start = end


class Journal:
    """An append-only file of chained records, or a pipe of them."""

    def __init__(self, fd: int, name: str, *, is_file: bool = False) -> None:
        """Write to the open descriptor `fd`, which the journal then owns; messages call it `name`.

        `is_file` says that the file belongs to the journal alone, so that failed writes can be undone.
        """
        self.name = name
        self.is_file = is_file
        self.counts: Counter[str] = Counter()
        """Records so far, by kind."""
        self.chain = GENESIS
        self.copies: list[Callable[[bytes], object]] = []
        """Called with every line that was written; must not raise."""
        self._fd = fd
        self._seq = 0
        self._length = 0
        self._failure: CaptureError | None = None
        """The error that every later call raises again."""
        self._synced_at = time.monotonic()
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self._expected: io.BufferedReader[Any] | None = None
        """The lines on disk that the next records must equal."""

    @classmethod
    def create(cls, path: Path, *, force: bool = False, folder: int | None = None) -> Self:
        """Open `path` for a new run, or an existing pipe or device as it is; `folder` is a descriptor of the folder it is in.

        Raises UsageError if the file exists and `force` is off, CaptureError if it cannot be written or another run writes it.
        """
        flags = os.O_APPEND | os.O_CLOEXEC
        try:
            try:
                new = flags | os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                fd = os.open(_within(path, folder), new, 0o666, dir_fd=folder)
            except FileExistsError:
                regular = stat.S_ISREG(os.stat(_within(path, folder), dir_fd=folder).st_mode)
                if regular and not force:
                    raise UsageError(f"'{path}' exists", "choose another -o or --name, or overwrite it with --force") from None
                fd = os.open(_within(path, folder), flags | (os.O_RDWR if regular else os.O_WRONLY), dir_fd=folder)
        except OSError as error:
            raise CaptureError(f"'{path}' cannot be written: {error.strerror}", "choose another place with -o") from error
        journal = cls(fd, str(path), is_file=stat.S_ISREG(os.fstat(fd).st_mode))
        if journal.is_file:
            journal._lock()
            try:
                os.ftruncate(fd, 0)
                sync_folder(path.parent if folder is None else folder)  # records are not durable in a file whose name is not
            except OSError as error:
                journal.close()
                raise CaptureError(f"'{path}' cannot be written: {error.strerror}", "choose another place with -o") from error
        return journal

    @classmethod
    def resume(cls, path: Path, position: JournalPosition, tail: Tail = "compare", *, folder: int | None = None) -> Self:
        """Open the records of an earlier process to continue at `position`; with BEGINNING, everything is computed again.

        `folder` is a descriptor of the folder they are in.

        Raises CaptureError if the file cannot be opened or another run writes it, RecordsError if it is damaged or the
        position is not one of its own.
        """
        try:
            fd = os.open(_within(path, folder), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise CaptureError(f"'{path}' cannot be opened: {error.strerror}", "give the folder of a run") from error
        journal = cls(fd, str(path), is_file=True)
        journal._lock("wait for its end, or stop it first")
        try:
            journal._continue_at(position, path, tail, folder)
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def position(self) -> JournalPosition:
        """The position of the next record, for `resume`."""
        return {"seq": self._seq, "bytes": self._length, "chain": self.chain.hex()}

    @property
    def size(self) -> int:
        """Bytes of the file, those that are still compared included; 0 of a pipe."""
        return os.fstat(self._fd).st_size if self.is_file else 0

    @property
    def lines(self) -> int:
        """Number of records so far."""
        return self._seq

    @property
    def comparing(self) -> bool:
        """True while the next record is compared with one on disk."""
        return self._expected is not None

    def append(self, record: Record) -> None:
        """Write one record as the next line. Raises CaptureError if it cannot be written, BrokenPipeError on a closed pipe.

        A resumed journal raises RecordsError if the line on disk differs.
        """
        if self._failure:
            raise self._failure
        line, chain = encode(record, seq=self._seq, previous=self.chain)
        before = (self._seq, self.chain, self._length, self.counts[record.kind])
        try:
            if self._expected is not None:
                self._compare(line, self._expected)
            else:
                self._write(line)
                for copy in self.copies:
                    copy(line)
            self._seq, self.chain, self._length = before[0] + 1, chain, before[2] + len(line)
            self.counts[record.kind] = before[3] + 1
        except Exception:
            raise
        except BaseException:  # a signal such as Ctrl-C, which may come anywhere
            self._undo(record.kind, before)
            raise
        if time.monotonic() - self._synced_at >= SYNC_EVERY_SECONDS:
            self._start_commit()

    def _start_commit(self) -> None:
        """Start to make everything so far durable, in a thread, so that a slow disk delays no step."""
        if self._syncing is not None and self._syncing.is_alive():
            return
        self._finish_commit()
        if self.is_file:
            thread = threading.Thread(target=self._fdatasync, name="fdatasync", daemon=True)
            try:
                thread.start()
                self._syncing = thread
            except RuntimeError:  # the limit of threads is reached; then it takes the time of this one
                self._fdatasync()
        self._synced_at = time.monotonic()

    def _finish_commit(self) -> None:
        """Wait for the thread, if there is one, and raise its error."""
        thread, self._syncing = self._syncing, None
        if thread is not None:
            thread.join()
        if self._sync_error is not None:
            if isinstance(self._sync_error, FileNotFoundError):
                message, hint = f"'{self.name}' was removed while it was being written", "start the run again"
            else:
                message, hint = f"'{self.name}' could not be made durable: {self._sync_error.strerror}", "check the disk"
            self._failure = CaptureError(message, hint)
            raise self._failure from self._sync_error

    def _fdatasync(self) -> None:
        try:
            os.fdatasync(self._fd)
            if is_removed(self._fd):
                raise FileNotFoundError(errno.ENOENT, "it was removed")
        except OSError as error:
            self._sync_error = error

    def sync(self) -> None:
        """Return once every record so far would survive a power cut. Raises CaptureError if that fails."""
        if self._failure:
            raise self._failure
        self._finish_commit()
        if self.is_file:
            self._fdatasync()
            self._finish_commit()
        self._synced_at = time.monotonic()

    def seal(self, status: str) -> None:
        """Write the end line with `status` (completed, interrupted, failed) and make everything durable.

        A run that ends while its records are still being compared leaves them as they are, unsealed.
        """
        if not self.comparing:
            self.append(End(status=status, counts=dict(self.counts)))
        self.sync()

    def close(self) -> None:
        """Close the file and release its lock. May be called twice."""
        if self._fd >= 0:
            if self._syncing is not None:
                self._syncing.join()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lock(self, hint: str = "wait, or choose another -o") -> None:
        try:
            lock(self._fd)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise CaptureError(f"'{self.name}' is being written by another run", hint) from error
            raise CaptureError(f"'{self.name}' cannot be locked: {error.strerror}") from error
        _open.add(self)

    def _write(self, line: bytes) -> None:
        try:
            write_all(self._fd, line)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self.is_file:
                with contextlib.suppress(OSError):  # readers ignore an incomplete last line
                    os.ftruncate(self._fd, self._length)
            message = f"record {self._seq} ({len(line)} bytes) could not be written to '{self.name}': {error.strerror}"
            self._failure = CaptureError(message, "the file was removed" if is_removed(self._fd) else _KEPT)
            raise self._failure from error

    def _undo(self, kind: str, before: tuple[int, bytes, int, int]) -> None:
        """Return to the state before a write that was interrupted."""
        self._failure = CaptureError(f"writing to '{self.name}' was interrupted", _KEPT)
        self._seq, self.chain, self._length, self.counts[kind] = before
        self.counts += Counter()  # drops zeros, like the counts of the end line
        if self.is_file and self._expected is None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._length)
                self._failure = None

    def _compare(self, line: bytes, expected: io.BufferedReader[Any]) -> None:
        on_disk = expected.readline()
        if on_disk != line:
            raise RecordsError(
                f"record {self._seq} in '{self.name}' was computed again and differs in '{first_difference(on_disk, line)}'",
                "files, options, software and hardware must be those of the run; nothing was changed",
            )
        if not expected.peek(1):
            self._expected = None

    def _continue_at(self, position: JournalPosition, path: Path, tail: Tail, folder: int | None) -> None:
        """Verify the file from its beginning, remove an unfinished end, and continue at `position`."""
        last, found = BEGINNING, position == BEGINNING
        for line in verified_lines(self._read_lines(0)):
            if line.kind == End.kind and b'"status":"completed"' not in line.data:
                break
            if not found or tail == "keep":
                self.counts[line.kind] += 1
            last, found = line.end, found or line.end == position
        if not found:
            raise RecordsError(f"the checkpoint does not belong to the records in '{path}'", "restore the run folder as it was")
        if tail == "keep":
            position = last
        elif tail == "set aside":
            last = position
        if last["bytes"] < os.fstat(self._fd).st_size:
            self._set_aside(path, last["bytes"], folder)
        self._seq, self._length, self.chain = position["seq"], position["bytes"], bytes.fromhex(position["chain"])
        if position["bytes"] < last["bytes"]:
            self._expected = self._read_lines(position["bytes"])

    def _read_lines(self, offset: int) -> io.BufferedReader[Any]:
        return io.BufferedReader(ReadAt(self._fd, offset), 2**20)

    def _set_aside(self, path: Path, length: int, folder: int | None) -> None:
        """Copy everything after `length` bytes to a file of its own, then remove it."""
        aside = path
        try:
            with contextlib.ExitStack() as opened:
                folder = opened.enter_context(open_folder(path.parent)) if folder is None else folder
                names = set(os.listdir(folder))  # noqa: PTH208 - a descriptor
                number = next(n for n in itertools.count() if f"{path.name}.cut-{n}" not in names)
                aside = path.with_name(f"{path.name}.cut-{number}")
                copy = os.open(aside.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
                opened.callback(os.close, copy)
                done = 0
                while part := os.pread(self._fd, _COPY_BYTES, length + done):  # one read returns 2 GB at most
                    write_all(copy, part)
                    done += len(part)
                os.fsync(copy)
                sync_folder(folder)  # the copy is durable before the original is removed
            os.ftruncate(self._fd, length)
            os.fsync(self._fd)
        except OSError as error:
            raise CaptureError(f"'{aside}' could not be written: {error.strerror}", "the records are as they were") from error


def _within(path: Path, folder: int | None) -> str | Path:
    return path if folder is None else path.name


def _close_in_child() -> None:
    for journal in list(_open):
        journal.close()


os.register_at_fork(after_in_child=_close_in_child)
