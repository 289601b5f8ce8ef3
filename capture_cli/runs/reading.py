"""Lines that verify, read from an open descriptor as they arrive.

* A line is handed out only if it is complete (has its newline), follows the line before it (sequence and chain) and is of a
  kind that may come there. Reading ends at the first line that does not, without an error: `ending` says where and why.
* An incomplete last line is normal for a run that is still going or was cut off. It is not handed out, and `ending` says so.
* Memory does not grow with the file; a line may have at most `MAX_LINE_BYTES`.
* A pipe is read as it fills: a line is handed out as soon as it has arrived.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from queue import Empty, Queue
from types import TracebackType
from typing import Self

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records.chain import claimed_chain, follow, follow_all
from capture_cli.runs.compressed import CHUNK_BYTES, decompressing, is_compressed
from capture_cli.runs.cursor import START, Cursor, RewrittenError
from capture_cli.runs.lines import Chain, Line

MAX_LINE_BYTES = 256 << 20
"""A longer line is taken for damage: a batch of 1,024 samples with 10,000 probabilities each has about half of it."""
_BLOCK_BYTES = CHUNK_BYTES


class Reading:
    """Lines that verify, from an open descriptor, which it then owns. May be gone through once."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        """What messages call the file."""
        self._chain = Chain()
        self.ending = self._chain.ending("unsealed")
        self._fd = fd
        self._next: Callable[[], bytes] | None = None
        """What reads on, once it is known whether the file is compressed."""
        self._fault = ""
        """Why compressed data cannot be read on."""
        self._rest: list[bytes] = []
        """What has been read of the line that has not ended yet."""
        self._rest_bytes = 0

    def resume(self, cursor: Cursor) -> Cursor:
        """Stand at `cursor`, or before its end line where that was taken off; return which.

        Raises RewrittenError if the file no longer has the lines before it, UsageError for a compressed file.
        """
        if is_compressed(os.pread(self._fd, 4, 0)):
            raise UsageError(
                f"{self.name} is compressed and has no place to resume from", "decompress it, or follow it from None"
            )
        for one in (cursor, cursor.without_end()):
            if one is not None and self._holds(one):
                os.lseek(self._fd, one.at.bytes, os.SEEK_SET)
                self._chain = Chain(one)
                self.ending = self._chain.ending("sealed" if one.status else "unsealed")
                return one
        hint = "read the run from the beginning"
        raise RewrittenError(f"{self.name}: line {cursor.at.seq} or one before it is no longer what was read", hint)

    def _holds(self, cursor: Cursor) -> bool:
        """Whether the file still has the line that ends at `cursor`."""
        tail = os.pread(self._fd, 64, max(0, cursor.at.bytes - 64))
        return cursor.at == START or claimed_chain(tail).hex() == cursor.at.chain

    def info_line(self, cursor: Cursor) -> Line:
        """The run record in force at `cursor`, which is not the beginning, verified."""
        place = cursor.info or START
        data = bytearray()
        while b"\n" not in data[-_BLOCK_BYTES:] and len(data) <= MAX_LINE_BYTES:
            data += os.pread(self._fd, _BLOCK_BYTES, place.bytes + len(data)) or b"\n"
        line = bytes(data[: data.find(b"\n") + 1])
        follow(line, seq=place.seq, previous=bytes.fromhex(place.chain))
        return Line(place.seq, "run", line, 0, len(line) - 1)

    def line_blocks(self) -> Generator[list[Line], None, None]:
        """The lines in lists: what one read brought. Raises CaptureError if the file cannot be read on.

        Where more is there already, two blocks are checked at a time: the second in a thread, which goes on while the caller
        works on the first.
        """
        chain = self._chain
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
        if self._fault:
            self.ending = chain.ending("damaged", reason=f"line {chain.lines + 1} {self._fault}")
        elif self._rest_bytes:
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
        """What one read brings, decompressed; nothing at the end of the file, or where it cannot be decompressed."""
        try:
            if self._next is not None:
                return self._next()
            data, self._next = decompressing(self._read_some)
        except RecordsError as error:
            self._fault, data = error.message, b""
        return data

    def _more_is_there(self) -> bool:
        """Whether a read would return at once; of compressed data that is not known."""
        if self._next != self._read_some:
            return False
        ready = select.poll()
        ready.register(self._fd, select.POLLIN)
        return bool(ready.poll(0))

    def _read_some(self) -> bytes:
        try:
            return os.read(self._fd, _BLOCK_BYTES)
        except OSError as error:
            raise CaptureError(f"{self.name!r} cannot be read on: {error.strerror}") from error

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_ahead(blocks: Generator[list[Line], None, None], max_bytes: int) -> Iterator[list[Line]]:
    """The lines in lists of about `max_bytes`, read ahead in a thread while the caller works.

    A list holds what has arrived. An empty one says that nothing is waiting: who holds work back finishes it now.
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
        thread.join(timeout=1)  # a pipe on which nothing comes would keep it for ever


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
    except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits for it
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
    """Hand out a reading of a stream for the first pass; a second raises UsageError."""
    left = [reading]

    def open_reading() -> Reading:
        if not left:
            raise UsageError(f"{reading.name} can be read only once", "give a run folder or a file of records")
        return left.pop()

    return open_reading
