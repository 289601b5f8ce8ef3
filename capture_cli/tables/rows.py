r"""A run as flat rows, one per sample and visit, as text that other tools read: JSON Lines or CSV.

    with open_run("runs/mine") as run:
        for block in rows(run, where="not correct and phase = 'val'", columns=("file", "loss_nats")):
            sys.stdout.buffer.write(block)

* Rows come in the order of the records, as soon as their record has arrived, and only from records that verify.
* `where` is an SQL condition on one row. It can reach nothing but the row's columns.
* Numbers have the digits of float32; a value that is not finite is null, in CSV empty.
* Any file name: in JSON `\udcXX` stands for a byte that is not UTF-8, in CSV it is that byte.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import duckdb

from capture_cli.answers.visits import plain_value
from capture_cli.errors import CaptureError, RecordsError, UsageError, did_you_mean
from capture_cli.records import RunInfo
from capture_cli.runs import BATCHES, Line, Run, Visits
from capture_cli.tables.condition import Condition, reason
from capture_cli.tables.sql import EXTRA, Table, escape, feedable, locked_database, quoted, row_text, unescape

FORMATS = ("jsonl", "csv")
"""Parquet is made from JSON Lines: capture_cli.tables.parquet."""
_TASKS = (None, "sequence", "multilabel", "regression", "segmentation", "loss")
_KNOWN = tuple(dict.fromkeys(name for fold in (None, 1) for task in _TASKS for name in Table(task=task, fold=fold).names))
_CHUNK_BYTES = 2 << 20
_MAX_WORKERS = 2
_HEAD_BYTES = 1024
"""The first bytes of a line; its ids begin within them."""


def rows(
    run: Run,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    style: str = "jsonl",
) -> Iterator[bytes]:
    """Yield the rows of a run as blocks of whole lines, at most `limit` rows; CSV begins with a line of column names.

    Without `columns` there are those of the run's task, and `extra` if the first batch has it.

    Raises UsageError at once for a condition, column or style that no run has. While rows are taken it raises UsageError if the
    task of this run does not have them, and RecordsError, after the rows before it, for a record that verifies but whose
    columns do not fit together. Damage ends the rows, and is in `run.error()`.
    """
    if style not in FORMATS:
        raise UsageError(f"no such format: '{style}'", "choose jsonl, csv or parquet")
    if columns is not None and not columns:
        raise UsageError("no columns", f"the columns are {', '.join(_table_of(run.info, text_ids=False).columns)}")
    database = locked_database()
    condition = None if where is None else Condition(where, database)
    if {*_KNOWN, EXTRA}.issuperset(columns or ()) and (condition is None or condition.reads_only(_KNOWN)):
        _check_columns(columns or (), Table(task=None), _KNOWN)
        if condition:
            _bind(condition, run)
    else:  # a named number, or a mistake: this run knows
        of_run = [_table_of(run.info, text_ids=texts) for texts in (False, True)]
        _check_columns(columns or (), of_run[0])
        if condition:
            condition.bind_to(of_run)
    return _Rows(run, database, condition, tuple(columns or ()), limit, style).blocks()


def _bind(condition: Condition, run: Run) -> None:
    """Raise UsageError, naming the columns of this run, for a condition that no run can be asked."""
    try:
        condition.bind(_TASKS)
    except UsageError:
        condition.bind_to([_table_of(run.info, text_ids=texts) for texts in (False, True)])
        raise


class _Part(NamedTuple):
    """The rows of some lines; `error` is what is wrong with the line after the last one in `text`."""

    n: int
    text: bytes
    error: CaptureError | None = None


@dataclass
class _Rows:
    """The rows of one run, asked for in one way."""

    run: Run
    database: duckdb.DuckDBPyConnection
    condition: Condition | None
    columns: tuple[str, ...]
    left: int | None
    """Rows that are still wanted."""
    style: str
    info: RunInfo | None = None
    classes: list[str] = field(default_factory=list)
    """Escaped."""
    text_ids: bool = False
    numbers: tuple[str, ...] = ()
    """Named numbers of the run that can be columns."""

    def blocks(self) -> Iterator[bytes]:
        heading = self.style == "csv"
        for part in self._parts():
            if heading:
                yield self._heading()
                heading = False
            if self.left is not None:
                self.left -= part.n
            if part.text:
                yield part.text
            if part.error:
                raise part.error
            if self.left == 0:
                return
        if heading:
            yield self._heading()

    def _heading(self) -> bytes:
        columns = self.columns or (self.table() if self.info else Table(task=None)).columns
        return ",".join(columns).encode() + b"\n"

    def _parts(self) -> Iterator[_Part]:
        """The parts in order. With a limit one at a time, since the next depends on how many rows are still wanted."""
        workers = min(os.cpu_count() or 1, _MAX_WORKERS) if self.left is None else 0
        pending: deque[Future[_Part]] = deque()
        with ThreadPoolExecutor(workers or 1) as pool:
            for lines in self.run.chunks(_CHUNK_BYTES):
                for line in (line for line in lines if line.kind == "run"):
                    self._begin(line)
                if self.left == 0 and self.info:
                    return
                for table, group in self._groups([line for line in lines if line.kind in BATCHES]):
                    pending.append(pool.submit(self._part, table, group))
                    while len(pending) > workers:
                        yield pending.popleft().result()
                while pending and not lines:  # nothing is waiting to be read, so nothing is held back
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _begin(self, line: Line) -> None:
        """Take a run record. The first decides which columns there are."""
        first = self.info is None
        try:
            self.info = line.run(self.info)
        except RecordsError as error:
            raise self.run.located(error) from error
        self.classes = [escape(name) for name in self.info.classes]
        if first:
            self.numbers = _column_names(self.info.number_names or ())
            _check_columns(self.columns, self.table())
            if self.condition:
                self.condition.bind_to([self.table(text_ids=text_ids) for text_ids in (False, True)])

    def _groups(self, batches: Sequence[Line]) -> Iterator[tuple[Table, list[Line]]]:
        """The lines that one query can read, and the table that they are to it."""
        if not self.info or not batches:
            return
        if not self.columns:
            has_extra = batches[0].block.find(b',"extra":{', batches[0].start, batches[0].end) >= 0
            self.columns = (*self.table().columns, *([EXTRA] if has_extra else []))
        for text_ids, group in groupby(batches, self._has_text_ids):
            yield self.table(text_ids=text_ids), list(group)

    def table(self, *, text_ids: bool = False) -> Table:
        """The table that the batches after the run record in force are."""
        if self.info is None:
            return Table(task=None, text_ids=text_ids, numbers=self.numbers)
        return _table_of(self.info, text_ids=text_ids)

    def _has_text_ids(self, line: Line) -> bool:
        """Return whether ids are texts; for a batch without samples (all padding), whether those before were."""
        head = line.block[line.start : min(line.end, line.start + _HEAD_BYTES)]
        if b',"ids":[]' not in head:
            self.text_ids = b',"ids":["' in head
        return self.text_ids

    def _part(self, table: Table, lines: Sequence[Line]) -> _Part:
        """The rows of some lines. If the query fails, find the bad line and keep the rows before it, or blame the condition."""
        try:
            return self._select(table, lines)
        except (duckdb.Error, RecordsError) as error:
            for number, line in enumerate(lines):
                try:
                    self._visits(line).record(0)
                except RecordsError as bad:
                    before = self._part(table, lines[:number]) if number else _Part(0, b"")
                    return before if before.error else before._replace(error=bad)
            if self.condition and isinstance(error, duckdb.Error):
                return _Part(0, b"", self.condition.failure(error, table))
            where = f"lines {lines[0].seq + 1} to {lines[-1].seq + 1}"
            return _Part(0, b"", RecordsError(f"{self.run.name}: {where}: {reason(error)}", line=lines[0].seq + 1))

    def _select(self, table: Table, lines: Sequence[Line]) -> _Part:
        where, read = (self.condition.clause, self.condition.columns(table)) if self.condition else ("", [])
        visits = table.query((*self.columns, *read))
        most = "" if self.left is None else f"limit {self.left:d}"
        # The columns are ours and the limit is a number; the condition was checked, and DuckDB is locked.
        chosen = f"select {quoted(self.columns)} from ({visits}) {where} {most}"  # noqa: S608
        sql = f"select count(*), string_agg({row_text(self.columns, self.style, self.classes)}, '\n') from ({chosen}) as one"  # noqa: S608
        extra = [self._visits(line)[EXTRA].tolist() if EXTRA in (*self.columns, *read) else None for line in lines]
        has_numbers = not set(self.numbers).isdisjoint((*self.columns, *read))
        named = [self._named(self._visits(line)) if has_numbers else None for line in lines]
        values: dict[str, Any] = {"lines": list(map(feedable, lines, extra, named))}
        if "$classes" in visits:
            values["classes"] = self.classes
        count, text = self.database.cursor().execute(sql, values).fetchall()[0]
        return _Part(count, unescape(text + "\n", as_json=self.style == "jsonl") if count else b"")

    def _named(self, visits: Visits) -> list[dict[str, Any]]:
        """The named numbers of each row of a batch."""
        columns = [list(map(plain_value, visits[name])) for name in self.numbers]
        return [dict(zip(self.numbers, row, strict=True)) for row in zip(*columns, strict=True)]

    def _visits(self, line: Line) -> Visits:
        assert self.info  # noqa: S101 - a run record comes before batches
        return Visits(self.info, "", 0, [line], name=self.run.name)


def _column_names(numbers: Sequence[str]) -> tuple[str, ...]:
    """The named numbers that can be columns: SQL does not tell upper case from lower, so of two the first."""
    return tuple({name.lower(): name for name in reversed(numbers)}.values())[::-1]


def _table_of(info: RunInfo, *, text_ids: bool) -> Table:
    """The table that the batches after a run record are."""
    fold = info.fold.get("number", 1) if info.fold else None
    return Table(task=info.task, text_ids=text_ids, numbers=_column_names(info.number_names or ()), fold=fold)


def _check_columns(columns: Sequence[str], table: Table, known: Sequence[str] | None = None) -> None:
    """Raise UsageError unless each is a column of `table` (or one of `known`), or `extra`, and none comes twice."""
    for name in columns:
        if name not in (known or table.names) and name != EXTRA:
            raise unknown_column(name, table.columns)
    if len(set(columns)) < len(columns):
        raise UsageError("the same column twice", f"the columns are {', '.join(table.columns)}")


def unknown_column(name: str, columns: Sequence[str]) -> UsageError:
    """The error of a column that rows do not have, with the closest of those that they have."""
    return UsageError(
        f"no such column: '{name}'", f"{did_you_mean(name, columns)} the columns are {', '.join(columns)}".lstrip()
    )
