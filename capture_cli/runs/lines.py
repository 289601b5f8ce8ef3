"""Lines of records that verify: their sequence, their chain, and which kind may come where.

chain = Chain()
line = chain.take(data)             # raises RecordsError and stays where it is
line.record()                       # the typed record, its fields checked
line.column(b"losses")              # the JSON text of one column, without parsing the line
chain.ending("sealed")
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from capture_cli.errors import RecordsError
from capture_cli.records import End, Record, RunInfo, decode
from capture_cli.records.chain import Followed, follow
from capture_cli.records.checking import PHASE, check
from capture_cli.runs.cursor import Cursor

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

    @property
    def chain(self) -> str:
        """Its chain, 32 hex digits."""
        return self.block[self.end - 34 : self.end - 2].decode()

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
        """The JSON text of the flat array `name` of a batch, found without parsing the line.

        A name in quotes cannot be mistaken for text in the line: inside a string a quote has a backslash before it.
        Raises RecordsError if there is none.
        """
        return self._array(name, b"]")

    def table(self, name: str) -> bytes:
        """The JSON text of an array of arrays of numbers, in the same way."""
        start = self.block.find(b',"%b":[]' % name.encode(), self.start, self.end)
        return b"[]" if start >= 0 else self._array(name, b"]]")

    def has_column(self, name: str) -> bool:
        """Whether a batch has the array `name`; columns that a caller added under `extra` do not count."""
        end = self.block.find(b',"extra":{', self.start, self.end)
        return self.block.find(b',"%b":[' % name.encode(), self.start, end if end >= 0 else self.end) >= 0

    def _array(self, name: str, closing: bytes) -> bytes:
        start = self.block.find(b',"%b":[' % name.encode(), self.start, self.end)
        end = self.block.find(closing, start, self.end)
        if start < 0 or end < 0:
            raise self.error(f"a {self.kind} record without {name}")
        return self.block[start + len(name) + 4 : end + len(closing)]

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

    def __init__(self, cursor: Cursor | None = None) -> None:
        """Start at `cursor`, by default at the beginning."""
        cursor = cursor or Cursor()
        self.chain = bytes.fromhex(cursor.at.chain)
        self.counts = Counter(cursor.counts)
        self.lines = cursor.at.seq
        self.bytes = cursor.at.bytes
        self.status = cursor.status

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
