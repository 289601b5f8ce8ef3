"""A run as its readers see it; `open_run` (capture_cli.runs) makes one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import KINDS, End, Epoch, Record, RunInfo, Samples, Skip
from capture_cli.runs.images import RunImages
from capture_cli.runs.lines import BATCHES, Chain, Cursor, Ending, Line, batch_beginning
from capture_cli.runs.reading import Reading
from capture_cli.runs.visits import Visits

Block = RunInfo | Samples | Skip | Visits | Epoch | End
"""What a pass over a run consists of, in the order of the records: records, and batches as blocks of visits."""
RECORD_KINDS = tuple(KINDS)


class Fold(Protocol):
    """An answer under construction: it is given every block of a pass, and keeps what it needs."""

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError for one that verifies but makes no sense."""


class Run:
    """The records of one run. A file is read anew by each pass; stdin can be read once.

    Passes hand out only what verifies. A pass over damaged records raises RecordsError where the damage begins, after all
    that comes before it; an incomplete last line is no damage. `ending` says how far the latest pass came.
    """

    def __init__(self, open_reading: Callable[[], Reading], name: str, *, folder: Path | None = None) -> None:
        """`open_reading` is called for each pass, and once now. Raises what it raises."""
        self.name = name
        """What messages call the file."""
        self.folder = folder
        """The run folder, where one was given."""
        self.ending: Ending = Chain().ending("unsealed")
        """How the records end, as far as the latest pass has read."""
        self.cursor = Cursor()
        """Behind the block that `follow` yielded last."""
        self._open_reading = open_reading
        self._reading: Reading | None = open_reading()
        self._started: tuple[Generator[list[Line], None, None], list[Line]] | None = None
        self._info: RunInfo | None = None
        self._opened = ExitStack()
        self._error: RecordsError | None = None

    @property
    def info(self) -> RunInfo:
        """The first run record. Raises RecordsError if there is none that can be read."""
        if self._info is None:
            lines = self.line_blocks()
            first = next(lines, [])
            self._started = lines, first
            if not first:
                raise self.error() or RecordsError(f"{self.name}: no records", "nothing was captured, or not yet")
            self._info = self._first_info(first[0])
        return self._info

    def error(self) -> RecordsError | None:
        """What the latest pass found wrong: damage, records that a fold could not use, or no records at all."""
        return self._error or self.ending.error(self.name)

    def line_blocks(self) -> Generator[list[Line], None, None]:
        """One pass over the lines that verify, in lists as they were read. Ends silently at the first that does not."""
        if self._started:
            (lines, first), self._started = self._started, None
            yield first
            yield from lines
            return
        yield from self._line_blocks_of(self._next_reading())

    def _line_blocks_of(self, reading: Reading) -> Generator[list[Line], None, None]:
        with closing(reading):
            for block in reading.line_blocks():
                self.ending = reading.ending
                yield block
            self.ending = reading.ending

    def lines(self) -> Iterator[Line]:
        """The same, one by one."""
        for block in self.line_blocks():
            yield from block

    def chunks(self, max_bytes: int) -> Iterator[list[Line]]:
        """The same in lists of about `max_bytes`, read ahead in a thread; an empty list says that nothing is waiting."""
        reading = self._next_reading()
        with closing(reading):
            for block in reading.chunks(max_bytes):
                self.ending = reading.ending
                yield block
            self.ending = reading.ending

    def records(self, kinds: Collection[str] = RECORD_KINDS) -> Iterator[Record]:
        """The records, by default of all kinds, typed, their fields checked. Raises RecordsError where they are damaged."""
        for line in self.lines():
            if line.kind in kinds:
                yield self._record(line)
        self._demand_whole()

    def blocks(self) -> Iterator[Block]:
        """One pass: records, typed, and batches as `Visits` of one phase and epoch. Raises RecordsError as `records` does."""
        for block, _ in self.blocks_and_lines():
            if block is not None:
                yield block

    def blocks_and_lines(self) -> Iterator[tuple[Block | None, Sequence[Line]]]:
        """The same, each block with its lines; None for a line of a kind that this version does not know."""
        yield from self._grouped(self.line_blocks(), None)
        self._demand_whole()

    def follow(self, cursor: Cursor | None = None) -> Iterator[Block]:
        """Yield the blocks that have been written since `cursor` (None: all), up to the present end of the file.

        Never waits for more: `run.cursor` is always behind the block yielded last, so call `follow(run.cursor)` again later,
        in this process or, with `Cursor.to_json`, in another. Batches of one phase and epoch may come in any number of blocks.

        When a run that did not complete is resumed, its end line is taken off, and blocks follow after the `End`. If anything
        else before the cursor has changed (the run was overwritten, or resumed in another environment), RewrittenError is
        raised: discard what was read, and follow from None. Otherwise raises RecordsError as `records` does.
        """
        lines, info = self.line_blocks(), None
        if cursor is not None:
            reading = self._next_reading()
            lines = self._line_blocks_of(reading)
            with ExitStack() as undo:
                undo.callback(reading.close)
                cursor = reading.resume(cursor)
                if line := reading.info_line(cursor):
                    info = self._info_after(line, None)
                undo.pop_all()
        self.cursor = cursor or Cursor()
        with closing(lines):
            for block, its_lines in self._grouped(lines, info):
                self.cursor = self.cursor.after(its_lines)
                if block is not None:
                    yield block
        if self.ending.state == "damaged" and not self._was_resumed():
            self._demand_whole()

    def _was_resumed(self) -> bool:
        """Whether the end line before the cursor was taken off while the lines after it were read."""
        try:
            with closing(self._next_reading()) as reading:
                return reading.resume(self.cursor) is not self.cursor
        except UsageError:  # stdin
            return False

    def _grouped(
        self, line_blocks: Iterable[list[Line]], info: RunInfo | None
    ) -> Iterator[tuple[Block | None, Sequence[Line]]]:
        """Blocks and their lines; None for lines of an unknown kind. `info` is the run record in force."""
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
                    phase, epoch = self._phase_and_epoch(line)
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
        record = self._record(line) if line.kind in RECORD_KINDS else None
        if isinstance(record, Samples) and info:
            classes = len(info.classes)
            if min(record.labels, default=0) < 0 or max(record.labels, default=0) >= classes:
                raise self.located(line.error(f"a samples record with a label that is none of the {classes:,} classes"))
        return record if isinstance(record, Samples | Skip | Epoch | End) else None

    def visits(
        self, columns: Sequence[str] = (), *, phase: str | None = None, epochs: Iterable[int] | None = None
    ) -> Iterator[Visits]:
        """The visits of a phase and of some epochs (default: all) as NumPy columns; see capture_cli.runs.visits.

        Only columns that are asked for are parsed: those named here at once, others when they are first used. Raises UsageError
        for a column that the run does not have, RecordsError as `records` does.
        """
        wanted = None if epochs is None else frozenset(epochs)
        for block in self.blocks():
            if isinstance(block, Visits) and phase in (None, block.phase) and (wanted is None or block.epoch in wanted):
                for name in columns:
                    block[name]
                yield block

    def fold(self, *folds: Fold) -> RecordsError | None:
        """Feed one pass to any number of folds; return what is wrong with the records, None if nothing is."""
        self._error = None
        try:
            for block in self.blocks():
                for one in folds:
                    one.update(block)
        except RecordsError as error:
            self._error = error
        return self._error

    def located(self, error: RecordsError) -> RecordsError:
        """An error of one line, such as `Line.record` raises, as one that names this run."""
        return RecordsError(f"{self.name}: {error.message}", error.hint or "what follows is not shown", line=error.line)

    @cached_property
    def images(self) -> RunImages:
        """The images of the run, from where the run says they are. Raises UsageError if no such folder exists."""
        return self.images_in(None)

    def images_in(self, folder: str | Path | None) -> RunImages:
        """The images of the run, now in `folder`; None: where the run says. Raises UsageError if there is no such folder."""
        images = RunImages(self, folder)
        self._opened.callback(images.close)
        return images

    def close(self) -> None:
        """Close what is open. May be called twice."""
        self._opened.close()
        if self._started:
            self._started[0].close()
            self._started = None
        if self._reading:
            self._reading.close()
            self._reading = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _next_reading(self) -> Reading:
        reading, self._reading = self._reading, None
        return reading or self._open_reading()

    def _first_info(self, line: Line) -> RunInfo:
        try:
            return line.run()
        except RecordsError as error:
            raise self.located(error) from error

    def _info_after(self, line: Line, before: RunInfo | None) -> RunInfo:
        try:
            info = line.run(before)
        except RecordsError as error:
            raise self.located(error) from error
        self._info = self._info or info
        return info

    def _record(self, line: Line) -> Record:
        try:
            return line.record()
        except RecordsError as error:
            raise self.located(error) from error

    def _phase_and_epoch(self, line: Line) -> tuple[str, int]:
        try:
            return line.phase_and_epoch()
        except RecordsError as error:
            raise self.located(error) from error

    def _demand_whole(self) -> None:
        if error := self.error():
            raise error


def read_once(reading: Reading) -> Callable[[], Reading]:
    """Hand out a reading of a stream for the first pass; a second raises UsageError."""
    left = [reading]

    def open_reading() -> Reading:
        if not left:
            raise UsageError(f"{reading.name} can be read only once", "give a run folder or a file of records")
        return left.pop()

    return open_reading
