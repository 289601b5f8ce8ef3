"""Verified lines of records: sequence, chain, and which kind may come where.

chain = Chain()
lines, reason = chain.take_all(follow_all(block, seq=chain.lines, previous=chain.chain))
lines[0].record()                   # the typed record, its fields checked
lines[0].column("losses")           # the JSON text of one column, without parsing the line
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
from capture_cli.records.chain import Followed
from capture_cli.records.checking import PHASE, check
from capture_cli.runs.cursor import Cursor

AFTER_THE_END = "comes after the end line, which seals the file"
_PHASE_AND_EPOCH = re.compile(
    rb'\{"seq":[0-9]+,"kind":"(?:batch|numbers|measures)","phase":"(%b)","epoch":([0-9]{1,18}),' % PHASE.encode()
)


class Line(NamedTuple):
    """A verified line: `block[start:end]`, without its newline."""

    seq: int
    """Counted from 0; editors show one more."""
    kind: str
    block: bytes
    start: int
    end: int

    @property
    def data(self) -> bytes:
        """The line without its newline."""
        return self.block[self.start : self.end]

    @property
    def size(self) -> int:
        """Length in bytes, without the newline."""
        return self.end - self.start

    @property
    def chain(self) -> str:
        """The chain of the line, 32 hex digits."""
        return self.block[self.end - 34 : self.end - 2].decode()

    def record(self) -> Record:
        """Decode the line. Raises RecordsError, with the line number, if its fields do not fit together."""
        import numpy as np

        try:
            with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
                record = decode(self.data)[1]
            check(record)
        except RecordsError as error:
            raise self.error(error.message, error.hint) from error
        return record

    def run(self, before: RunInfo | None = None) -> RunInfo:
        """Decode a run record; `before` is the one before it, if the run was resumed.

        Raises RecordsError if the line is another kind of record, or if `before` has other classes or another task.
        """
        record = self.record()
        if not isinstance(record, RunInfo):
            raise self.error("this is not a run record")
        if before is not None and (list(before.classes) != list(record.classes) or before.task != record.task):
            raise self.error("the classes or the task of this run record differ from those of the one before it")
        return record

    def column(self, name: str) -> bytes:
        """The JSON text of the array `name` of a batch, found without parsing the line. Raises RecordsError if it is missing.

        A quoted name cannot be confused with text in the line, where each quote follows a backslash.
        """
        return self._array(name, b"]")

    def table(self, name: str) -> bytes:
        """The JSON text of an array of arrays of numbers, found like `column`."""
        start = self.block.find(b',"%b":[]' % name.encode(), self.start, self.end)
        return b"[]" if start >= 0 else self._array(name, b"]]")

    def has_column(self, name: str) -> bool:
        """Tell if a batch has the array `name`; columns under `extra` do not count."""
        end = self.block.find(b',"extra":{', self.start, self.end)
        return self.block.find(b',"%b":[' % name.encode(), self.start, end if end >= 0 else self.end) >= 0

    def _array(self, name: str, closing: bytes) -> bytes:
        start = self.block.find(b',"%b":[' % name.encode(), self.start, self.end)
        end = self.block.find(closing, start, self.end)
        if start < 0 or end < 0:
            raise self.error(f"this {self.kind} record has no {name}")
        return self.block[start + len(name) + 4 : end + len(closing)]

    def phase_and_epoch(self) -> tuple[str, int]:
        """Phase and epoch of a batch, without parsing the line. Raises RecordsError if they are not in their place."""
        found = _PHASE_AND_EPOCH.match(self.block, self.start, self.end)
        if not found:
            raise self.error(f"this {self.kind} record has no phase and epoch")
        return found[1].decode(), int(found[2])

    def is_batch_of(self, beginning: bytes) -> bool:
        """Tell if kind, phase and epoch are those of `beginning` (see `batch_beginning`). Faster than `phase_and_epoch`."""
        return self.block.startswith(beginning, self.block.find(b",", self.start), self.end)

    def error(self, message: str, hint: str = "") -> RecordsError:
        """An error that names this line."""
        return RecordsError(f"line {self.seq + 1}: {message}", hint, line=self.seq + 1)


BATCHES = ("batch", "numbers", "measures")
"""Kinds of batch records; the task of a run decides which one it has."""


def batch_beginning(kind: str, phase: str, epoch: int) -> bytes:
    """The first bytes of a batch line after its sequence number."""
    return b',"kind":"%b","phase":"%b","epoch":%d,' % (kind.encode(), phase.encode(), epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """State of a file of records, as far as it has been read."""

    state: str
    """`sealed` (the last line is an end line), `unsealed` (no end line yet), `torn` (incomplete last line), or `damaged`."""
    status: str | None
    """Status in the end line: `completed`, `interrupted` or `failed`; None without one."""
    lines: int
    """Verified lines."""
    bytes: int
    """Length of the verified lines."""
    chain: str
    """Chain of the last verified line, 32 hex digits."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Verified lines by kind."""
    line: int = 0
    """Number of the first line that does not verify, from 1; 0 if all do."""
    reason: str = ""
    """The damage, a clause that begins with `line N`."""
    missing_folds: int = 0
    """Trainings of a run with folds that have not begun."""

    @property
    def sentence(self) -> str:
        """The state in words."""
        if self.missing_folds and self.state != "damaged":
            trainings = "1 training has" if self.missing_folds == 1 else f"{self.missing_folds} trainings have"
            return f"{trainings} not begun: still running or cut off"
        return {
            "sealed": f"sealed, {self.status}",
            "unsealed": "no end line: still running or cut off",
            "torn": "skipped an incomplete last line: still running or cut off",
        }.get(self.state, f"damaged: {self.reason}")

    def error(self, name: str) -> RecordsError | None:
        """The error for a file, called `name` in the message, that is damaged or has no records; None for any other."""
        if self.state != "damaged":
            hint = "it has just begun, or was cut off before its first record: `capture train --resume RUN` continues it"
            return None if self.lines else RecordsError(f"{name}: no records", hint)
        verified = f"the {self.lines:,} lines before it verify" if self.lines else "nothing before it verifies"
        return RecordsError(f"{name}: {self.reason}", f"{verified}; later lines are not trusted", line=self.line)


class Chain:
    """Verifies lines one after the other: sequence, chain, and which kind may come where."""

    def __init__(self, cursor: Cursor) -> None:
        self.chain = bytes.fromhex(cursor.at.chain)
        self.counts = Counter(cursor.counts)
        self.lines = cursor.at.seq
        self.bytes = cursor.at.bytes
        self.status = cursor.status

    def take_all(self, followed: Followed) -> tuple[list[Line], str]:
        """Take the next lines up to the first that does not verify, and the reason for that one (empty if all do)."""
        reason = followed.error.message if followed.error else ""
        lines = list(map(Line._make, followed.lines))
        kinds = [line.kind for line in lines]
        if self.lines and self.status is None and "run" not in kinds and "end" not in kinds:  # the others may come anywhere
            self.chain = followed.chains[-1] if lines else self.chain
            self.lines += len(lines)
            self.bytes += lines[-1].end + 1 if lines else 0
            self.counts.update(kinds)
            return lines, reason
        try:
            for number, chain in enumerate(followed.chains):
                self._take(lines[number], chain)
        except RecordsError as error:
            return lines[: self.lines - lines[0].seq], error.message
        return lines, reason

    def _take(self, line: Line, chain: bytes) -> None:
        """Take a line whose sequence and chain hold. Raises RecordsError if its kind may not come here."""
        if self.lines == 0 and line.kind != "run":
            raise line.error("the first line must be a run record")
        if self.status is not None and not (self.status == "completed" and line.kind == "run"):
            raise line.error(AFTER_THE_END)
        self.status = self._end(line) if line.kind == "end" else None
        self.chain = chain
        self.lines += 1
        self.bytes += line.size + 1
        self.counts[line.kind] += 1

    def _end(self, line: Line) -> str:
        end = line.record()
        if not isinstance(end, End) or end.counts != self.counts:
            raise line.error("the counts in this end line differ from the lines before it")
        return end.status

    def ending(self, state: str, *, reason: str = "") -> Ending:
        """The state of the file after the last line taken."""
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
