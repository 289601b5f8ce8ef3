"""Read a run back, line by line, and trust nothing that does not verify.

    with open_run("runs/mine") as run:              # a run folder, a .jsonl file, or "-" for stdin
        for line in run:                            # lines whose sequence and chain hold
            if line.kind == "batch":
                batch = line.record()               # the typed record, its shapes checked
    run.ending                                      # how the file ended: sealed, unsealed, torn, damaged

What it promises:

* A line is handed out only if it is whole (has its newline), follows the line before it (sequence and chain) and stands
  where its kind may stand: `run` first, and after an `end` nothing but the `run` of one that was completed and went on.
  Reading stops at the first line that does not, and nothing raises: `ending` names the line and the reason, and
  `ending.error()` is the exception for it.
* An incomplete last line is what a run that is still going, or was cut off, looks like. It is left out, and said.
* Memory does not grow with the file; one line may have at most `MAX_LINE_BYTES`.
* A pipe is read as it fills: a line is handed out as soon as it has arrived.
"""

from __future__ import annotations

import os
import re
import select
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import NamedTuple, Self

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import End, Record, RunInfo, decode
from capture_cli.records.chain import GENESIS, Followed, claimed_chain, follow, follow_all
from capture_cli.records.checking import PHASE, check

MAX_LINE_BYTES = 256 << 20
"""A longer line is taken for damage: a batch of 1,024 samples with 10,000 probabilities each has about half of it."""
RECORDS = "records.jsonl"
_BLOCK_BYTES = 1 << 20
_PHASE_AND_EPOCH = re.compile(
    rb'\{"seq":[0-9]+,"kind":"(?:batch|numbers)","phase":"(%b)","epoch":([0-9]{1,18}),' % PHASE.encode()
)


class Line(NamedTuple):
    """One line that verifies."""

    seq: int
    """From 0; the line number, as editors count, is one more."""
    kind: str
    block: bytes
    """What it was read with, from `start` to `end` this line without its newline."""
    start: int
    end: int

    @property
    def data(self) -> bytes:
        """The line without its newline."""
        return self.block[self.start : self.end]

    @property
    def size(self) -> int:
        """Bytes without the newline."""
        return self.end - self.start

    def record(self) -> Record:
        """The typed record. Raises RecordsError, with the line number, if its fields do not fit together."""
        import numpy as np

        try:
            with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
                record = decode(self.data)[1]
            check(record)
        except RecordsError as error:
            raise self.error(error.message, error.hint) from error
        return record

    def run(self, before: RunInfo | None = None) -> RunInfo:
        """The run record on this line; where a run went on, `before` is the one before it, which has the same classes.

        Raises RecordsError if it has not, or if this is another kind of record.
        """
        record = self.record()
        if not isinstance(record, RunInfo):
            raise self.error("no run record")
        if before is not None and (list(before.classes) != list(record.classes) or before.task != record.task):
            raise self.error("a run record with other classes or another task than the one before it")
        return record

    def column(self, name: str) -> bytes:
        """The JSON text of the array `name` of a batch, found without reading the rest of the line.

        A name in quotes cannot be mistaken for file names in the line: inside a string a quote has a backslash before it.
        Raises RecordsError if there is none.
        """
        start = self.block.find(b',"%b":[' % name.encode(), self.start, self.end)
        end = self.block.find(b"]", start, self.end)
        if start < 0 or end < 0:
            raise self.error(f"a {self.kind} record without {name}")
        return self.block[start + len(name) + 4 : end + 1]

    def phase_and_epoch(self) -> tuple[str, int]:
        """Of a batch, without reading the rest of the line. Raises RecordsError if they are not where they belong."""
        found = _PHASE_AND_EPOCH.match(self.block, self.start, self.end)
        if not found:
            raise self.error(f"a {self.kind} record without phase and epoch")
        return found[1].decode(), int(found[2])

    def is_batch_of(self, beginning: bytes) -> bool:
        """The same for many lines: whether phase and epoch are those that `batch_beginning` was given."""
        return self.block.startswith(beginning, self.block.find(b",", self.start), self.end)

    def error(self, message: str, hint: str = "") -> RecordsError:
        """`message` as an error that names this line."""
        return RecordsError(f"line {self.seq + 1}: {message}", hint, line=self.seq + 1)


BATCHES = ("batch", "numbers")
"""The kinds of records that are of a batch; which of them a run has is a matter of its task."""


def batch_beginning(kind: str, phase: str, epoch: int) -> bytes:
    """How the batches of a kind, phase and epoch begin, behind their number."""
    return b',"kind":"%b","phase":"%b","epoch":%d,' % (kind.encode(), phase.encode(), epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a file of records ended, as far as it has been read."""

    state: str
    """`sealed` (its last line is an end line), `unsealed` (none yet), `torn` (an incomplete last line), or `damaged`."""
    status: str | None
    """What the end line says: `completed`, `interrupted`, `failed`; None without one."""
    lines: int
    """Lines that verify."""
    bytes: int
    """Their length: the file verifies up to here."""
    chain: str
    """Of the last line that verifies, 32 hex digits."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Lines that verify, by kind."""
    line: int = 0
    """The first line that does not verify, counted from 1; 0 if all do."""
    reason: str = ""
    """What is wrong with it, a clause that begins `line N`."""

    @property
    def sentence(self) -> str:
        """How it ended, for people."""
        return {
            "sealed": f"sealed, {self.status}",
            "unsealed": "no end line: still going or cut off",
            "torn": "an incomplete last line, left out: still going or cut off",
        }.get(self.state, f"damaged: {self.reason}")

    def error(self, name: str) -> RecordsError | None:
        """What is wrong with a file that is damaged or empty, for one that messages call `name`; None for any other."""
        if self.state != "damaged":
            return None if self.lines else RecordsError(f"{name}: no records", "nothing was captured, or not yet")
        verified = f"the {self.lines:,} before it verify" if self.lines else "nothing before it does"
        return RecordsError(f"{name}: {self.reason}", f"{verified}, what follows is not trusted", line=self.line)


class Chain:
    """Checks lines one after the other: sequence, chain, and which kind may stand where."""

    def __init__(self) -> None:
        self.chain = GENESIS
        self.counts: Counter[str] = Counter()
        self.lines = 0
        self.bytes = 0
        self.status: str | None = None

    def take(self, data: bytes) -> Line:
        """Check the next line (without its newline). Raises RecordsError, saying why, and stays where it is."""
        _, kind, _, chain = follow(data + b"\n", seq=self.lines, previous=self.chain)
        return self._place(Line(self.lines, kind, data, 0, len(data)), chain)

    def take_all(self, followed: Followed) -> tuple[list[Line], str]:
        """Lines that were checked from here on: those up to the first that does not verify, and why it does not."""
        reason = followed.error.message if followed.error else ""
        lines = list(map(Line._make, followed.lines))
        kinds = [line.kind for line in lines]
        if self.lines and self.status is None and "run" not in kinds and "end" not in kinds:  # the others may stand anywhere
            self.chain = followed.chains[-1] if lines else self.chain
            self.lines += len(lines)
            self.bytes += lines[-1].end + 1 if lines else 0
            self.counts.update(kinds)
            return lines, reason
        try:
            for number, chain in enumerate(followed.chains):
                self._place(lines[number], chain)
        except RecordsError as error:
            return lines[: self.lines - lines[0].seq], error.message
        return lines, reason

    def _place(self, line: Line, chain: bytes) -> Line:
        """Take a line whose sequence and chain hold, if its kind may stand here."""
        if self.lines == 0 and line.kind != "run":
            raise line.error("the run record belongs first")
        if self.status is not None and not (self.status == "completed" and line.kind == "run"):
            raise line.error("stands after the end line, which seals the file")
        self.status = self._end(line) if line.kind == "end" else None
        self.chain = chain
        self.lines += 1
        self.bytes += line.size + 1
        self.counts[line.kind] += 1
        return line

    def _end(self, line: Line) -> str:
        end = line.record()
        if not isinstance(end, End) or end.counts != self.counts:
            raise line.error("its counts are not those of the lines before it")
        return end.status

    def ending(self, state: str, *, reason: str = "") -> Ending:
        """The state of the file, given what came after the last line taken."""
        return Ending(
            state=state,
            status=self.status,
            lines=self.lines,
            bytes=self.bytes,
            chain=self.chain.hex(),
            counts=dict(self.counts),
            line=self.lines + 1 if reason else 0,
            reason=reason,
        )


def open_run(run: str | os.PathLike[str]) -> Reading:
    """Open a run folder, a file of records or, for `-`, stdin.

    Going through it ends at the first line that does not verify, without an error, so that what stands before it can be used;
    `run.ending.error(name)` then says whether that was the end of it, and what is wrong if it was not.

    Raises UsageError if there is no such thing, CaptureError if it cannot be read.
    """
    text = os.fspath(run)
    if text == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("stdin is a terminal, not records", "pipe a run into it, or name a run folder or file")
        return Reading(os.dup(sys.stdin.fileno()), "stdin")
    path = Path(text)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if is_folder:
            path = path / RECORDS
            if not stat.S_ISREG(path.stat().st_mode):  # a FIFO in a folder from elsewhere would hang us
                raise UsageError(f"{str(path)!r} is not a regular file")
        return Reading(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path), folder=Path(text) if is_folder else None)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"no {RECORDS} in {text!r}" if path != Path(text) else f"no such run: {text!r}"
        raise UsageError(
            what, "a run is a folder that `capture train` made, a .jsonl file of records, or - for stdin"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaptureError(f"{text!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


class Reading:
    """Lines that verify, from an open descriptor, which it then owns. May be gone through once."""

    def __init__(self, fd: int, name: str, *, folder: Path | None = None) -> None:
        self.name = name
        """What messages call the file."""
        self.folder = folder
        """The run folder, where one was given."""
        self.ending = Chain().ending("unsealed")
        self._fd = fd
        self._rest: list[bytes] = []
        """What has been read of the line that has not ended yet."""
        self._rest_bytes = 0

    def __iter__(self) -> Iterator[Line]:
        """The lines, in order."""
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[list[Line]]:
        """The lines in lists: what one read brought. Raises CaptureError if the file cannot be read on.

        Where more is there already, two blocks are checked at a time: the second in a thread, which goes on while the caller
        works on the first.
        """
        chain = Chain()
        # Once glibc has seen something large come and go, it uses what a block took for the next one, instead of giving it back
        # and fetching it again page by page.
        bytes(16 * _BLOCK_BYTES)
        with ThreadPoolExecutor(1) as helper:
            while (first := self._whole_lines()) is not None:
                second = (self._whole_lines() if first and self._more_is_there() else b"") or b""
                later = None
                if second:
                    seq = chain.lines + first.count(b"\n")
                    later = helper.submit(follow_all, second, seq=seq, previous=claimed_chain(first))
                lines, reason = chain.take_all(follow_all(first, seq=chain.lines, previous=chain.chain))
                if later and not reason:
                    yield from self._told(chain, lines, "")
                    lines, reason = chain.take_all(later.result())
                if not reason and self._rest_bytes > MAX_LINE_BYTES:
                    reason = f"line {chain.lines + 1} is longer than {MAX_LINE_BYTES >> 20} MB"
                yield from self._told(chain, lines, reason)
                if reason:
                    return
        if self._rest_bytes:
            # Behind a completed run this may be the beginning of the line with which it goes on.
            sealed = chain.status not in (None, "completed")
            reason = f"line {chain.lines + 1} stands after the end line, which seals the file" if sealed else ""
            self.ending = chain.ending("damaged" if reason else "torn", reason=reason)

    def _told(self, chain: Chain, lines: list[Line], reason: str) -> Iterator[list[Line]]:
        """`lines`, if there are any, once `ending` says how far they go."""
        self.ending = chain.ending("damaged" if reason else "sealed" if chain.status else "unsealed", reason=reason)
        if lines:
            yield lines

    def _whole_lines(self) -> bytes | None:
        """The lines that have become whole with what one read brings, which may be none; None at the end of the file."""
        data = self._read()
        if not data:
            return None
        end = data.rfind(b"\n") + 1
        if not end:
            self._rest.append(data)
            self._rest_bytes += len(data)
            return b""
        whole = b"".join([*self._rest, memoryview(data)[:end]])
        self._rest = [data[end:]]
        self._rest_bytes = len(data) - end
        return whole

    def _more_is_there(self) -> bool:
        """Whether a read would return at once."""
        ready = select.poll()
        ready.register(self._fd, select.POLLIN)
        return bool(ready.poll(0))

    def chunks(self, max_bytes: int) -> Iterator[list[Line]]:
        """The lines in lists of about `max_bytes`, read ahead in a thread while the caller works.

        A list holds what has arrived. An empty one says that nothing is waiting: who holds work back finishes it now.
        """
        waiting: Queue[list[Line] | BaseException | None] = Queue(maxsize=8)
        stopped = threading.Event()
        thread = threading.Thread(target=self._read_ahead, args=(waiting, stopped), daemon=True)
        thread.start()
        try:
            yield from _merged(waiting, max_bytes)
        finally:
            stopped.set()
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            thread.join(timeout=1)  # a pipe on which nothing comes would keep it for ever

    def _read_ahead(self, waiting: Queue[list[Line] | BaseException | None], stopped: threading.Event) -> None:
        last: BaseException | None = None
        try:
            for block in self.blocks():
                waiting.put(block)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits for it
            last = error
        waiting.put(last)

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _BLOCK_BYTES)
        except OSError as error:
            raise CaptureError(f"{self.name!r} cannot be read on: {error.strerror}") from error

    def located(self, error: RecordsError) -> RecordsError:
        """What `Line.record` and its like raised, as an error that names this file too."""
        return RecordsError(f"{self.name}: {error.message}", error.hint or "what follows is not shown", line=error.line)

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _merged(waiting: Queue[list[Line] | BaseException | None], max_bytes: int) -> Iterator[list[Line]]:
    while True:
        try:
            block = waiting.get_nowait()
        except Empty:
            yield []
            block = waiting.get()
        lines: list[Line] = []
        size = 0
        while isinstance(block, list):
            lines += block
            size += sum(line.size for line in block)
            if size >= max_bytes or waiting.empty():
                break
            block = waiting.get()
        if lines:
            yield lines
        if block is None:
            return
        if isinstance(block, BaseException):
            raise block
