"""One file or stream of records: lines, typed records and blocks, from the beginning or from a cursor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import numpy as np

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import KINDS, NO_LABEL, End, Epoch, Record, RunInfo, Samples, Skip
from capture_cli.runs.cursor import START, Cursor
from capture_cli.runs.lines import BATCHES, Chain, Ending, Line, batch_beginning
from capture_cli.runs.reading import Reading, read_ahead
from capture_cli.runs.visits import Visits, located

T = TypeVar("T")
Block = RunInfo | Samples | Skip | Visits | Epoch | End
"""A part of a pass over a run, in the order of the records: a record, or batches as a block of visits."""


class File:
    """The verified records of one file, which each pass reads again; a stream can be read once."""

    def __init__(self, open_reading: Callable[[], Reading], name: str) -> None:
        """Call `open_reading` for each pass, and once now. Raises what it raises."""
        self.name = name
        """Name of the file in messages."""
        self.ending: Ending = Chain(Cursor()).ending("unsealed")
        """State of the file, as far as the latest pass has read."""
        self._open_reading = open_reading
        self._reading: Reading | None = open_reading()
        self._started: tuple[Generator[list[Line], None, None], list[Line]] | None = None
        self._info: RunInfo | None = None

    @property
    def info(self) -> RunInfo:
        """The first run record. Raises RecordsError if there is none that can be read."""
        if self._info is None:
            before = self.ending
            lines = self.line_blocks()
            first = next(lines, [])
            self._started = lines, first
            if not first:
                error = self.ending.error(self.name)  # there is one, since there are no lines
                raise error or RecordsError(f"{self.name}: no records")
            self._info = self._info_after(first[0], None)
            if before.lines:  # what a pass over all of it has found
                self.ending = before
        return self._info

    def line_blocks(self) -> Generator[list[Line], None, None]:
        """Yield the verified lines of one read at a time. Ends silently at the first line that does not verify."""
        if self._started:
            (lines, first), self._started = self._started, None
            yield first
            yield from lines
            return
        yield from self._pass(self._next_reading())

    def chunks(self, max_bytes: int) -> Iterator[list[Line]]:
        """Yield them in lists of about `max_bytes`, read ahead in a thread; an empty list means nothing more has arrived."""
        return read_ahead(self.line_blocks(), max_bytes)

    def records(self) -> Iterator[Record]:
        """Yield every record, decoded and checked."""
        for lines in self.line_blocks():
            for line in lines:
                if line.kind in KINDS:
                    yield self._located(line.record)

    def since(self, cursor: Cursor | None) -> Generator[tuple[Block | None, Cursor], None, None]:
        """Yield blocks from `cursor` to the present end of the file, and the cursor after each; None for an unknown kind.

        Ends silently at damage. Raises RewrittenError if lines before the cursor have changed, RecordsError for a verified line
        with invalid fields.
        """
        lines, info, at = self.line_blocks(), None, Cursor()
        if cursor is not None and cursor.at != START:
            self.close()  # what was read for `info` may be out of date
            reading = self._next_reading()
            lines = self._pass(reading)
            try:
                at = reading.resume(cursor)
                info = self._info_after(reading.info_line(at), None)
            except BaseException:
                reading.close()
                raise
        with closing(lines):
            for block, its_lines in self._grouped(lines, info):
                at = at.after(its_lines, block)
                yield block, at
        if self.ending.state == "damaged" and at.before_end and self._was_resumed(at):
            self.ending = replace(self.ending, state="torn", reason="", line=0)

    def blocks_and_lines(self) -> Iterator[tuple[Block | None, Sequence[Line]]]:
        """Yield each block with its lines; None for a line of an unknown kind."""
        return self._grouped(self.line_blocks(), None)

    def close(self) -> None:
        """Close what is open. May be called twice."""
        if self._started:
            self._started[0].close()
            self._started = None
        if self._reading:
            self._reading.close()
            self._reading = None

    def _next_reading(self) -> Reading:
        reading, self._reading = self._reading, None
        return reading or self._open_reading()

    def _pass(self, reading: Reading) -> Generator[list[Line], None, None]:
        with closing(reading):
            for block in reading.line_blocks():
                self.ending = reading.ending
                yield block
            self.ending = reading.ending

    def _was_resumed(self, cursor: Cursor) -> bool:
        """Tell if the end line before the cursor was taken off while the lines after it were read."""
        try:
            with closing(self._next_reading()) as reading:
                return reading.resume(cursor) is not cursor
        except UsageError:  # a stream
            return False

    def _grouped(
        self, line_blocks: Iterable[list[Line]], info: RunInfo | None
    ) -> Iterator[tuple[Block | None, Sequence[Line]]]:
        """Yield blocks and their lines; `info` is the run record in force."""
        batches: list[Line] = []
        phase, epoch, beginning = "", 0, b""
        for lines in line_blocks:
            for line in lines:
                if batches and line.is_batch_of(beginning):  # nearly all are
                    batches.append(line)
                    continue
                if batches and info:
                    yield Visits(info, phase, epoch, batches, name=self.name), batches
                    batches = []
                if line.kind in BATCHES:
                    phase, epoch = self._located(line.phase_and_epoch)
                    beginning, batches = batch_beginning(line.kind, phase, epoch), [line]
                elif line.kind == "run":
                    info = self._info_after(line, info)
                    yield info, [line]
                else:
                    yield self._block(line, info), [line]
            if batches and info:
                yield Visits(info, phase, epoch, batches, name=self.name), batches
                batches = []

    def _block(self, line: Line, info: RunInfo | None) -> Samples | Skip | Epoch | End | None:
        record = self._located(line.record) if line.kind in KINDS else None
        if isinstance(record, Samples) and info:
            classes = len(info.classes)
            labels = np.asarray(record.labels)
            if labels.min(initial=0) < NO_LABEL or labels.max(initial=NO_LABEL) >= classes:
                error = line.error(f"a label in this samples record is outside the {classes:,} classes")
                raise located(error, self.name)
        return record if isinstance(record, Samples | Skip | Epoch | End) else None

    def _info_after(self, line: Line, before: RunInfo | None) -> RunInfo:
        info = self._located(lambda: line.run(before))
        self._info = self._info or info
        return info

    def _located(self, read: Callable[[], T]) -> T:
        """Call `read`; a RecordsError that it raises then names this file."""
        try:
            return read()
        except RecordsError as error:
            raise located(error, self.name) from error
