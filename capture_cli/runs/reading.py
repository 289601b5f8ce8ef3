"""Read and verify lines from an open descriptor as they arrive.

* A line is yielded only if it is complete (has its newline), follows the line before it (sequence and chain) and is of a kind
  that may come there. Reading ends silently at the first that does not: `ending` says where and why.
* An incomplete last line is normal for a run that is still running or was cut off. It is skipped, and `ending` says so.
* Memory does not grow with the file; a line has at most `MAX_LINE_BYTES`.
* Lines from a pipe are yielded as soon as they arrive.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from queue import Empty, Queue

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records.chain import claimed_chain, follow, follow_all
from capture_cli.runs.compressed import CHUNK_BYTES, decompressing, is_compressed
from capture_cli.runs.cursor import START, Cursor, RewrittenError
from capture_cli.runs.lines import AFTER_THE_END, Chain, Line

MAX_LINE_BYTES = 256 << 20
"""A longer line is damage: a batch of 1,024 samples with 10,000 probabilities each has about half as many."""
_BLOCK_BYTES = CHUNK_BYTES


class Reading:
    """One pass over the verified lines of an open descriptor, which it owns."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        """Name of the file in messages."""
        self._chain = Chain(Cursor())
        self.ending = self._chain.ending("unsealed")
        self._fd = fd
        self._next: Callable[[], bytes] | None = None
        """Reads the next chunk, once it is known if the file is compressed."""
        self._fault = ""
        """The reason that compressed data cannot be decompressed."""
        self._rest: list[bytes] = []
        """Parts of a line whose end has not been read yet."""
        self._rest_bytes = 0

    def resume(self, cursor: Cursor) -> Cursor:
        """Start at `cursor`, or before the end line there if that was taken off; return which of the two.

        Raises RewrittenError if the lines before the cursor have changed, UsageError for a compressed file.
        """
        try:
            if is_compressed(os.pread(self._fd, 4, 0)):
                raise UsageError(f"{self.name} is compressed and has no place to resume from", "follow from None")
        except OSError as error:
            raise UsageError(f"{self.name} has no place to resume from: {error.strerror}", "follow from None") from error
        for one in (cursor, cursor.without_end()):
            if one is not None and self._holds(one):
                os.lseek(self._fd, one.at.bytes, os.SEEK_SET)
                self._chain = Chain(one)
                self.ending = self._chain.ending("sealed" if one.status else "unsealed")
                return one
        message = f"{self.name}: line {cursor.at.seq} or one before it has changed since it was read"
        raise RewrittenError(message, "read the run from the beginning")

    def _holds(self, cursor: Cursor) -> bool:
        """Tell if the line before the cursor is still there: its chain covers all before it."""
        tail = os.pread(self._fd, 64, max(0, cursor.at.bytes - 64))
        return cursor.at == START or claimed_chain(tail).hex() == cursor.at.chain

    def info_line(self, cursor: Cursor) -> Line:
        """Read the run record in force at `cursor`, which is not the beginning."""
        place = cursor.info or START
        data = bytearray()
        while b"\n" not in data[-_BLOCK_BYTES:] and len(data) <= MAX_LINE_BYTES:
            data += os.pread(self._fd, _BLOCK_BYTES, place.bytes + len(data)) or b"\n"
        line = bytes(data[: data.find(b"\n") + 1])
        follow(line, seq=place.seq, previous=bytes.fromhex(place.chain))
        return Line(place.seq, "run", line, 0, len(line) - 1)

    def line_blocks(self) -> Generator[list[Line], None, None]:
        """Yield the lines of one read at a time. Raises CaptureError if the file cannot be read.

        If more data is ready, two blocks are verified at a time, the second in a thread while the caller works on the first.
        """
        chain = self._chain
        bytes(16 * _BLOCK_BYTES)  # after one large free, glibc keeps the memory of a block for the next one
        with ThreadPoolExecutor(1) as helper:
            while (first := self._whole_lines()) is not None:
                second = (self._whole_lines() if first and self._more_is_there() else b"") or b""
                later = None
                if second:
                    seq = chain.lines + first.count(b"\n")
                    later = helper.submit(follow_all, second, seq=seq, previous=claimed_chain(first))
                lines, reason = chain.take_all(follow_all(first, seq=chain.lines, previous=chain.chain))
                if later and not reason:
                    yield from self._with_ending(lines, "")
                    lines, reason = chain.take_all(later.result())
                if not reason and self._rest_bytes > MAX_LINE_BYTES:
                    reason = f"line {chain.lines + 1} is longer than {MAX_LINE_BYTES >> 20} MB"
                yield from self._with_ending(lines, reason)
                if reason:
                    return
        if self._fault:
            self.ending = chain.ending("damaged", reason=f"line {chain.lines + 1} {self._fault}")
        elif self._rest_bytes:
            sealed = chain.status not in (None, "completed")  # a completed run may get more epochs: a second run record
            reason = f"line {chain.lines + 1}: {AFTER_THE_END}" if sealed else ""
            self.ending = chain.ending("damaged" if reason else "torn", reason=reason)

    def _with_ending(self, lines: list[Line], reason: str) -> Iterator[list[Line]]:
        """Bring `ending` up to date, then yield the lines, if any."""
        self.ending = self._chain.ending("damaged" if reason else "sealed" if self._chain.status else "unsealed", reason=reason)
        if lines:
            yield lines

    def _whole_lines(self) -> bytes | None:
        """Read once; return the lines that are complete now, maybe none, or None at the end of the file."""
        data = self._next_chunk()
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

    def _next_chunk(self) -> bytes:
        """Read once and decompress; return no bytes at the end of the file, or if they cannot be decompressed."""
        try:
            if self._next is not None:
                return self._next()
            data, self._next = decompressing(self._read_some)
        except RecordsError as error:
            self._fault, data = error.message, b""
        return data

    def _more_is_there(self) -> bool:
        """Tell if a read would return at once; False if the data is compressed."""
        if self._next != self._read_some:
            return False
        ready = select.poll()
        ready.register(self._fd, select.POLLIN)
        return bool(ready.poll(0))

    def _read_some(self) -> bytes:
        try:
            return os.read(self._fd, _BLOCK_BYTES)
        except OSError as error:
            raise CaptureError(f"{self.name!r} cannot be read any further: {error.strerror}") from error

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_ahead(blocks: Generator[list[Line], None, None], max_bytes: int) -> Iterator[list[Line]]:
    """Yield lists of about `max_bytes` of lines, read ahead in a thread while the caller works.

    An empty list means that nothing more has arrived: a caller that holds work back should finish it now.
    """
    waiting: Queue[list[Line] | BaseException | None] = Queue(maxsize=8)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(waiting, stopped, blocks), daemon=True)
    thread.start()
    try:
        yield from _joined(waiting, max_bytes)
    finally:
        stopped.set()
        with suppress(Empty):
            while True:
                waiting.get_nowait()
        thread.join(timeout=1)  # an idle pipe would keep it forever


def _fill(
    waiting: Queue[list[Line] | BaseException | None], stopped: threading.Event, blocks: Generator[list[Line], None, None]
) -> None:
    last: BaseException | None = None
    try:
        with closing(blocks):
            for block in blocks:
                waiting.put(block)
                if stopped.is_set():
                    return
    except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
        last = error
    waiting.put(last)


def _joined(waiting: Queue[list[Line] | BaseException | None], max_bytes: int) -> Iterator[list[Line]]:
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


def read_once(reading: Reading) -> Callable[[], Reading]:
    """A function that returns `reading` once; a second call raises UsageError."""
    left = [reading]

    def open_reading() -> Reading:
        if not left:
            raise UsageError(f"{reading.name} can be read only once", "save the records to a file, and name that")
        return left.pop()

    return open_reading
