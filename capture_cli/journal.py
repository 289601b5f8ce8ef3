"""Append records to a file, so that what was written is never lost, doubled or torn.

    with Journal.create(path) as journal:
        journal.append(record)          # one write; it survives a kill of this process
        journal.sync()                  # it survives a power cut
        journal.seal("completed")       # the end line

    with Journal.resume(path, place) as journal:
        journal.append(record)          # compared with the line that is there, appended once there is none

What it promises:

* One `write` per record, straight to the file: nothing waits in a buffer of this process.
* Group commit: about once a second `append` has everything before it made durable (fdatasync, in a thread), `sync` and `seal`
  do so at once, and return when it is.
* A write that fails (disk full) is taken back, so the file ends with its last whole line, and the journal refuses more.
  One that Ctrl-C breaks into is taken back, and the journal goes on.
* A failed fdatasync is never tried again: the system may have dropped the pages, and a second one would report success.
* The file is new, or was given up by its owner (`force`), and is locked (`lockf`, which a forked child does not hold) against
  other processes, and noted against another journal of this one.
* Resuming cuts no good record: those after the place are computed again and compared byte for byte, and a difference is an
  error. Only an incomplete last line, or an end that is not `completed`, is taken off, after it was copied aside.

A journal may also write to a pipe, where there is nothing to lock, sync or take back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.files import sync_folder, write_all
from capture_cli.records import End, Record, encode
from capture_cli.records.chain import GENESIS, follow
from capture_cli.records.comparing import first_difference

SYNC_EVERY_SECONDS = 1.0
Rest = Literal["compare", "aside", "keep"]
_COPIED_BYTES = 1 << 20
_held: set[tuple[int, int]] = set()
"""Device and inode of the files that journals of this process hold: a lock does not keep a process from itself."""
BEGINNING = {"seq": 0, "bytes": 0, "chain": GENESIS.hex()}
"""The place of a journal that holds nothing."""


class Journal:
    """An append-only file of chained records, or a pipe of them."""

    def __init__(self, fd: int, name: str, *, is_file: bool = False) -> None:
        """Write to the open descriptor `fd`, which the journal then owns; `name` is what messages call it.

        Only of a file that is its own (`is_file`) does it take a failed write back: standard output may be anybody's.
        """
        self.name = name
        self.counts: Counter[str] = Counter()
        """Records by kind so far."""
        self.chain = GENESIS
        self.copies: list[Callable[[bytes], object]] = []
        """Called with every line that was written; must not raise."""
        self._fd = fd
        self._seq = 0
        self.is_file = is_file
        """Whether it is a file of its own, not a pipe or a device."""
        self._length = 0
        self._synced_at = time.monotonic()
        self._broken: CaptureError | None = None
        self._syncing: threading.Thread | None = None
        self._unsynced: OSError | None = None
        """Why records could not be made durable."""
        self._expected: io.BufferedReader[Any] | None = None
        """What is left of the lines on disk that the next records must equal."""

    @classmethod
    def create(cls, path: Path, *, force: bool = False) -> Self:
        """Open `path` for a new run; a pipe or device that exists is written to as it is.

        Raises UsageError if the file exists and `force` is off, CaptureError if it cannot be written or is in use by another
        run.
        """
        flags = os.O_APPEND | os.O_CLOEXEC
        try:
            try:
                fd = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            except FileExistsError:
                regular = stat.S_ISREG(path.stat().st_mode)
                if regular and not force:
                    raise UsageError(f"'{path}' exists", "choose another -o or --name, or overwrite it with --force") from None
                _demand_not_held(path)
                fd = os.open(path, flags | (os.O_RDWR if regular else os.O_WRONLY))
        except OSError as error:
            raise CaptureError(f"'{path}' cannot be written: {error.strerror}", "choose another place with -o") from error
        journal = cls(fd, str(path), is_file=stat.S_ISREG(os.fstat(fd).st_mode))
        if journal.is_file:
            journal._lock()
            try:
                os.ftruncate(fd, 0)
                sync_folder(path.parent)  # records are not durable in a file whose name is not
            except OSError as error:
                journal.close()
                raise CaptureError(f"'{path}' cannot be written: {error.strerror}", "choose another place with -o") from error
        return journal

    @classmethod
    def resume(cls, path: Path, place: Mapping[str, Any], rest: Rest = "compare") -> Self:
        """Open the records of an earlier process, to go on from `place` (BEGINNING: compute everything again).

        With the whole lines behind the place, `rest` says what to do: `compare` the next records with them; put them `aside`,
        where results are known to come out otherwise; or `keep` them, where nothing but a completed end is there.
        Raises CaptureError if the file cannot be opened or is in use, RecordsError if it is damaged or the place is not of it.
        """
        try:
            _demand_not_held(path)
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise CaptureError(f"'{path}' cannot be opened: {error.strerror}", "give the folder of a run") from error
        journal = cls(fd, str(path), is_file=True)
        journal._lock()
        try:
            journal._stand_at(path, place, rest)
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def place(self) -> dict[str, Any]:
        """Where the next record goes: `seq`, `bytes` and `chain` (hex), for `resume`."""
        return {"seq": self._seq, "bytes": self._length, "chain": self.chain.hex()}

    @property
    def lines(self) -> int:
        """How many records there are."""
        return self._seq

    @property
    def comparing(self) -> bool:
        """Whether the next record is compared with one that is there already."""
        return self._expected is not None

    def append(self, record: Record) -> None:
        """Write one record as the next line. Raises CaptureError if it cannot be written; BrokenPipeError on a closed pipe.

        Of a resumed journal: raises RecordsError if the line that is there differs.
        """
        if self._broken:
            raise self._broken
        line, chain = encode(record, seq=self._seq, previous=self.chain)
        before = (self._seq, self.chain, self._length, self.counts[record.kind])
        try:
            if self._expected is not None:
                self._compare(line, self._expected)
            else:
                self._write_whole(line)
                for copy in self.copies:
                    copy(line)
            self._seq, self.chain, self._length = before[0] + 1, chain, before[2] + len(line)
            self.counts[record.kind] = before[3] + 1
        except Exception:
            raise
        except BaseException:  # a signal, such as Ctrl-C: it may come anywhere
            self._take_back(record.kind, before)
            raise
        if time.monotonic() - self._synced_at >= SYNC_EVERY_SECONDS:
            self._commit()

    def _commit(self) -> None:
        """Begin to make everything before now durable, in a thread that does nothing else: a slow disk holds no step up."""
        if self._syncing is not None and self._syncing.is_alive():
            return
        self._end_commit()
        if self.is_file:
            self._syncing = threading.Thread(target=self._fdatasync, name="fdatasync", daemon=True)
            self._syncing.start()
        self._synced_at = time.monotonic()

    def _end_commit(self) -> None:
        """Wait for the thread, if there is one, and raise what went wrong in it."""
        thread, self._syncing = self._syncing, None
        if thread is not None:
            thread.join()
        if self._unsynced is not None:
            self._broken = CaptureError(f"'{self.name}' could not be made durable: {self._unsynced.strerror}", "check the disk")
            raise self._broken from self._unsynced

    def _fdatasync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._unsynced = error

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes of the file, from `offset` on; none where it is a pipe or is closed. From any thread.

        Whoever opened the file again to read it would give up the lock on closing it. Raises OSError.
        """
        return os.pread(self._fd, count, offset) if self.is_file and self._fd >= 0 else b""

    def sync(self) -> None:
        """Return when every record appended so far would survive a power cut. Raises CaptureError if that cannot be had."""
        if self._broken:
            raise self._broken
        self._end_commit()
        if self.is_file:
            self._fdatasync()
            self._end_commit()
        self._synced_at = time.monotonic()

    def seal(self, status: str) -> None:
        """Write the end line with `status` (completed, interrupted, failed) and make everything durable.

        A run that ends while it is still being compared leaves the records as they are, unsealed.
        """
        if not self.comparing:
            self.append(End(status=status, counts=dict(self.counts)))
        self.sync()

    def close(self) -> None:
        """Close the file and give up its lock; what was appended stays. May be called twice."""
        if self._fd >= 0:
            if self._syncing is not None:
                self._syncing.join()
            _held.discard(_identity(os.fstat(self._fd)))
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise CaptureError(f"'{self.name}' is being written by another run", "wait, or choose another -o") from error
            raise CaptureError(f"'{self.name}' cannot be locked: {error.strerror}") from error
        _held.add(_identity(os.fstat(self._fd)))

    def _write_whole(self, line: bytes) -> None:
        try:
            write_all(self._fd, line)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self.is_file:
                with contextlib.suppress(OSError):  # readers pass over an incomplete last line anyway
                    os.ftruncate(self._fd, self._length)
            self._broken = CaptureError(
                f"record {self._seq} ({len(line)} bytes) could not be written to '{self.name}': {error.strerror}",
                "what was written before it is kept and valid",
            )
            raise self._broken from error

    def _take_back(self, kind: str, before: tuple[int, bytes, int, int]) -> None:
        """Stand where the journal stood before a write that was broken into."""
        self._broken = CaptureError(f"writing to '{self.name}' was interrupted", "what was written before it is kept and valid")
        self._seq, self.chain, self._length, self.counts[kind] = before
        self.counts += Counter()  # without those that are 0, as the end line has them
        if self.is_file and self._expected is None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._length)
                self._broken = None

    def _compare(self, line: bytes, expected: io.BufferedReader[Any]) -> None:
        there = expected.readline()
        if there != line:
            raise RecordsError(
                f"record {self._seq} in '{self.name}' was computed again and differs in '{first_difference(there, line)}'",
                "files, options, software and hardware must be those of the run; nothing was changed",
            )
        if not expected.peek(1):
            self._expected = None

    def _stand_at(self, path: Path, place: Mapping[str, Any], rest: Rest) -> None:
        """Verify the file from its beginning, take an unfinished end off, and be ready to go on from `place`."""
        lines: io.BufferedReader[Any] = io.BufferedReader(_AtOffset(self._fd), 2**20)
        whole: dict[str, Any] = dict(BEGINNING)
        found = dict(place) == whole
        cut = False
        for line in lines:
            if not line.endswith(b"\n"):
                cut = True
                break
            envelope = follow(line, seq=whole["seq"], previous=bytes.fromhex(whole["chain"]))
            if envelope.kind == End.kind and b'"status":"completed"' not in line:
                cut = True
                break
            whole = {"seq": whole["seq"] + 1, "bytes": whole["bytes"] + len(line), "chain": envelope.chain.hex()}
            if not found or rest == "keep":
                self.counts[envelope.kind] += 1
            found = found or whole == place
        if not found:
            raise RecordsError(f"the checkpoint is not of the records in '{path}'", "give the run folder as it was")
        if rest == "keep":
            place = whole
        elif rest == "aside":
            cut, whole = cut or place != whole, dict(place)
        if cut:
            self._set_aside(path, whole["bytes"])
        self._seq, self._length, self.chain = place["seq"], place["bytes"], bytes.fromhex(place["chain"])
        if place["bytes"] < whole["bytes"]:
            lines.seek(place["bytes"])
            self._expected = lines

    def _set_aside(self, path: Path, length: int) -> None:
        """Copy what lies behind `length` bytes to a file of its own, then take it off."""
        number = 0
        while (aside := path.with_name(f"{path.name}.cut-{number}")).exists():
            number += 1
        try:
            with aside.open("xb") as file:
                while part := os.pread(self._fd, _COPIED_BYTES, length + file.tell()):  # one read gives 2 GB at most
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)  # the copy is there before what it is of is not
            os.ftruncate(self._fd, length)
            os.fsync(self._fd)
        except OSError as error:
            raise CaptureError(f"'{aside}' could not be written: {error.strerror}", "the records are as they were") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _demand_not_held(path: Path) -> None:
    """Raise CaptureError if a journal of this process writes to the file. To open and close it would give up its lock."""
    if _identity(path.stat()) in _held:
        raise CaptureError(f"'{path}' is being written by another run", "wait, or choose another -o")


class _AtOffset(io.RawIOBase):
    """Reads a descriptor from its beginning without moving or closing it.

    A file of its own would not do: closing any descriptor of a file gives up every lock this process holds on it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = os.preadv(self._fd, [buffer], self._offset)
        self._offset += read
        return read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only from the beginning")
        self._offset = offset
        return offset

    def tell(self) -> int:
        return self._offset
