"""A run as its readers see it; `open_run` (capture_cli.runs) returns one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import Record, RunInfo
from capture_cli.runs.cursor import Cursor
from capture_cli.runs.file import Block, File
from capture_cli.runs.frames import to_arrow, to_pandas
from capture_cli.runs.images import RunImages
from capture_cli.runs.lines import Ending, Line
from capture_cli.runs.merging import combined_ending, merged, whole
from capture_cli.runs.visits import Visits, located

if TYPE_CHECKING:
    import pandas
    import pyarrow


class Fold(Protocol):
    """An answer under construction, which is given every block of a pass."""

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError if its columns are invalid."""


class Run:
    """The records of one run, in one or several files. Each pass reads the files again; stdin can be read once.

    A pass yields only what verifies. Over damaged records it raises RecordsError after everything before the damage; an
    incomplete last line is not damage. `ending` is the state of the records as far as the latest pass has read.
    """

    def __init__(self, files: Sequence[File], name: str, *, folder: Path | None = None) -> None:
        self.name = name
        """Name of the run in messages."""
        self.folder = folder
        """The run folder, if one was opened."""
        self.cursor = Cursor()
        """The place after the block that `follow` yielded last."""
        self._files = files
        self._seen: set[int | str] = set()
        self._opened = ExitStack()
        self._error: RecordsError | None = None
        for file in files:
            self._opened.callback(file.close)

    @property
    def info(self) -> RunInfo:
        """The first run record, of a run with folds for all of it. Raises RecordsError if it cannot be read."""
        return whole(self._first_info) if self._merges else self._first_info

    @property
    def _first_info(self) -> RunInfo:
        for file in self._files[:-1]:
            with suppress(RecordsError):
                return file.info
        return self._files[-1].info

    @cached_property
    def _has_folds(self) -> bool:
        """True if the folder of a run with folds was opened."""
        return self.folder is not None and Path(self._files[0].name).parent != self.folder

    @property
    def _merges(self) -> bool:
        """True if blocks are merged from several files, or from those trainings of a run with folds that have begun."""
        return len(self._files) > 1 or self._has_folds

    @property
    def file_names(self) -> list[str]:
        """Names of the files."""
        return [file.name for file in self._files]

    @property
    def ending(self) -> Ending:
        """State of the records, as far as the latest pass has read; of several files the worst."""
        if not self._merges:
            return self._files[0].ending
        fold = None
        if self._has_folds:
            with suppress(RecordsError):
                fold = self._first_info.fold
        return combined_ending(self._files, fold["of"] if fold else 0)

    def error(self) -> RecordsError | None:
        """The error that the latest pass found: damage, invalid columns in a fold, or no records at all."""
        return self._error or self.ending.error(self.name)

    def lines(self) -> Iterator[Line]:
        """Yield the verified lines, file by file. Ends a file silently at the first line that does not verify."""
        for file in self._files:
            for block in file.line_blocks():
                yield from block

    def chunks(self, max_bytes: int) -> Iterator[list[Line]]:
        """Yield them in lists of about `max_bytes`, read ahead in a thread; an empty list means nothing more has arrived."""
        for file in self._files:
            yield from file.chunks(max_bytes)

    def records(self) -> Iterator[Record]:
        """Yield every record, decoded and checked, file by file. Raises RecordsError at damage."""
        for file in self._files:
            yield from file.records()
        self._demand_whole()

    def blocks(self) -> Iterator[Block]:
        """Yield everything in order: records, and batches as `Visits` of one phase and epoch. Raises RecordsError at damage."""
        self._seen.clear()
        one = not self._merges
        for block, _ in self._files[0].blocks_and_lines() if one else merged(self._files, None, self._seen):
            if block is not None:
                yield block
        self._demand_whole()

    def blocks_and_lines(self) -> Iterator[tuple[Block | None, Sequence[Line]]]:
        """Yield each block as it was written, with its lines, file by file; None for a line of an unknown kind."""
        for file in self._files:
            yield from file.blocks_and_lines()
        self._demand_whole()

    def follow(self, cursor: Cursor | None = None) -> Iterator[Block]:
        """Yield the blocks that were written since `cursor` (None: all), up to the present end of the file.

        Never waits: `run.cursor` is the place after the block yielded last, so call `follow(run.cursor)` again later, in this
        process or, with `Cursor.to_json`, in another. Batches of one phase and epoch may come in any number of blocks. With
        several files, the epoch record of a phase comes when all have one.

        Resuming an unfinished run takes its end line off, so blocks may follow an `End`. Any other change before the cursor
        (the run was overwritten, or resumed in another environment) raises RewrittenError: discard what was read, and follow
        from None. Raises RecordsError at damage.
        """
        one, count = not self._merges, len(self._files)
        if cursor not in (None, Cursor()) and len(cursor.files) != (0 if one else count):
            raise UsageError(f"the cursor is not one of {self.name}, which has {count} files", "follow from None")
        self.cursor = cursor or Cursor()
        if cursor is None:
            self._seen.clear()
        for block, after in self._files[0].since(self.cursor) if one else merged(self._files, self.cursor, self._seen):
            self.cursor = after
            if block is not None:
                yield block
        if self.ending.state == "damaged":
            self._demand_whole()

    def visits(
        self, columns: Sequence[str] = (), *, phase: str | None = None, epochs: Iterable[int] | None = None
    ) -> Iterator[Visits]:
        """Yield the visits of a phase and of some epochs (default: all) as NumPy columns; see capture_cli.runs.visits.

        Parses `columns` at once, others on first use. Raises UsageError if the run has no such column, RecordsError at damage.
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
        """The visits as a DataFrame, one row per sample and visit; `phase`, `label` and `pred` are categoricals.

        Columns are `phase`, `epoch` and those of `visits`, in a run with folds `fold` too; by default all with one plain value
        a row. Raises UsageError if pandas is not installed, else as `visits`.
        """
        return to_pandas(self, columns, phase, epochs)

    def to_arrow(
        self, columns: Sequence[str] | None = None, *, phase: str | None = None, epochs: Iterable[int] | None = None
    ) -> pyarrow.Table:
        """The visits as an Arrow table, like `to_pandas`; `phase`, `label` and `pred` are dictionaries, `extra` JSON text."""
        return to_arrow(self, columns, phase, epochs)

    def fold(self, *folds: Fold) -> RecordsError | None:
        """Feed one pass to any number of folds; return the error that ended it, or None."""
        self._error = None
        try:
            for block in self.blocks():
                for one in folds:
                    one.update(block)
        except RecordsError as error:
            self._error = error
        return self._error

    def located(self, error: RecordsError) -> RecordsError:
        """The error of a line, such as `Line.record` raises, as one that names this run."""
        return located(error, self.name)

    @cached_property
    def images(self) -> RunImages:
        """The images of the run, from the recorded folder. Raises UsageError if it does not exist."""
        return self.images_in(None)

    def images_in(self, folder: str | Path | None) -> RunImages:
        """The images of the run, now in `folder` (None: the recorded one). Raises UsageError if it does not exist."""
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

    def _demand_whole(self) -> None:
        if error := self.error():
            raise error
