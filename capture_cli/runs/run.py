"""A run as its readers see it; `open_run` (capture_cli.runs) makes one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from capture_cli.errors import RecordsError
from capture_cli.records import Record, RunInfo
from capture_cli.runs.cursor import Cursor
from capture_cli.runs.file import Block, File, located
from capture_cli.runs.frames import to_arrow, to_pandas
from capture_cli.runs.images import RunImages
from capture_cli.runs.lines import Ending, Line
from capture_cli.runs.merging import combined_ending, merged
from capture_cli.runs.visits import Visits

if TYPE_CHECKING:
    import pandas
    import pyarrow


class Fold(Protocol):
    """An answer under construction: it is given every block of a pass, and keeps what it needs."""

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError for one that verifies but makes no sense."""


class Run:
    """The records of one run, in one or several files. Files are read anew by each pass; stdin can be read once.

    Passes hand out only what verifies. A pass over damaged records raises RecordsError where the damage begins, after all
    that comes before it; an incomplete last line is no damage. `ending` says how far the latest pass came.
    """

    def __init__(self, files: Sequence[File], name: str, *, folder: Path | None = None) -> None:
        self.name = name
        """Its name in messages."""
        self.folder = folder
        """The run folder, where one was given."""
        self.cursor = Cursor()
        """Behind the block that `follow` yielded last."""
        self._files = files
        self._seen: set[int | str] = set()
        self._opened = ExitStack()
        self._error: RecordsError | None = None
        for file in files:
            self._opened.callback(file.close)

    @property
    def info(self) -> RunInfo:
        """The first run record. Raises RecordsError if there is none that can be read."""
        return self._files[0].info

    @property
    def file_names(self) -> list[str]:
        """Names of the files that it is in."""
        return [file.name for file in self._files]

    @property
    def ending(self) -> Ending:
        """How the records end, as far as the latest pass has read; of several files the worst."""
        return self._files[0].ending if len(self._files) == 1 else combined_ending(self._files)

    def error(self) -> RecordsError | None:
        """What the latest pass found wrong: damage, records that a fold could not use, or no records at all."""
        return self._error or self.ending.error(self.name)

    def line_blocks(self) -> Iterator[list[Line]]:
        """The lines that verify, in lists as they were read, file by file."""
        for file in self._files:
            yield from file.line_blocks()

    def lines(self) -> Iterator[Line]:
        """One pass over the lines that verify, file by file. Ends silently at the first that does not."""
        for file in self._files:
            for block in file.line_blocks():
                yield from block

    def chunks(self, max_bytes: int) -> Iterator[list[Line]]:
        """The lines in lists of about `max_bytes`, read ahead in a thread; an empty list says that nothing is waiting."""
        for file in self._files:
            yield from file.chunks(max_bytes)

    def records(self) -> Iterator[Record]:
        """Every record, typed, its fields checked, file by file. Raises RecordsError where the records are damaged."""
        for file in self._files:
            yield from file.records()
        self._demand_whole()

    def blocks(self) -> Iterator[Block]:
        """One pass: records, typed, and batches as `Visits` of one phase and epoch. Raises RecordsError as `records` does."""
        self._seen.clear()
        for block, _ in self._since(None):
            if block is not None:
                yield block
        self._demand_whole()

    def blocks_and_lines(self) -> Iterator[tuple[Block | None, Sequence[Line]]]:
        """Each block as it was written, with its lines, file by file; None for a line of an unknown kind."""
        for file in self._files:
            yield from file.blocks_and_lines()
        self._demand_whole()

    def follow(self, cursor: Cursor | None = None) -> Iterator[Block]:
        """Yield the blocks that have been written since `cursor` (None: all), up to the present end of the file.

        Never waits for more: `run.cursor` is always behind the block yielded last, so call `follow(run.cursor)` again later,
        in this process or, with `Cursor.to_json`, in another. Batches of one phase and epoch may come in any number of blocks.
        Of several files, the epoch record of a phase comes when all have it.

        When a run that did not complete is resumed, its end line is taken off, and blocks follow after the `End`. If anything
        else before the cursor has changed (the run was overwritten, or resumed in another environment), RewrittenError is
        raised: discard what was read, and follow from None. Otherwise raises RecordsError as `records` does.
        """
        self.cursor = cursor or Cursor()
        if cursor is None:
            self._seen.clear()
        for block, after in self._since(self.cursor):
            self.cursor = after
            if block is not None:
                yield block
        if self.ending.state == "damaged":
            self._demand_whole()

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

    def to_pandas(
        self, columns: Sequence[str] | None = None, *, phase: str | None = None, epochs: Iterable[int] | None = None
    ) -> pandas.DataFrame:
        """The visits as a DataFrame, one row a sample and visit; phase, label and pred are categoricals.

        Columns are `phase`, `epoch` and those of `visits`; by default all with one plain value a row. Raises UsageError if
        pandas is missing, else as `visits` does.
        """
        return to_pandas(self, columns, phase, epochs)

    def to_arrow(
        self, columns: Sequence[str] | None = None, *, phase: str | None = None, epochs: Iterable[int] | None = None
    ) -> pyarrow.Table:
        """The same as an Arrow table; phase, label and pred are dictionaries, `extra` is JSON text."""
        return to_arrow(self, columns, phase, epochs)

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
        return located(error, self.name)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _since(self, cursor: Cursor | None) -> Iterator[tuple[Block | None, Cursor]]:
        one = len(self._files) == 1
        return self._files[0].since(cursor) if one else merged(self._files, cursor, self._seen)

    def _demand_whole(self) -> None:
        if error := self.error():
            raise error
