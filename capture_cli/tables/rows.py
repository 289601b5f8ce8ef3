r"""A run as flat rows, one per sample and visit, as text that other tools read: JSON Lines or CSV.

    with open_run("runs/mine") as run:
        for block in rows(run, where="not correct and phase = 'val'", columns=("file", "loss_nats")):
            sys.stdout.buffer.write(block)

What it promises:

* Rows come in the order of the records, as soon as their record has arrived, and only of records that verify.
* `where` is a condition on one row, in SQL. It can reach nothing but the row's columns.
* Numbers have the digits of float32, no more; what is not finite is null, in CSV empty.
* Any file name: in JSON `\udcXX` stands for a byte that is not UTF-8, in CSV it is that byte.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import duckdb

from capture_cli.answers.visits import COLUMNS, NUMBERS_TASKS, checked, columns_of
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import RunInfo
from capture_cli.runs import BATCHES
from capture_cli.tables.row_text import row_text, written
from capture_cli.tables.sql import Table, escape, feedable, has_extra, has_text_ids, locked_database, unescape

if TYPE_CHECKING:
    from capture_cli.runs import Line, Run

FORMATS = ("jsonl", "csv")
"""Parquet is made of JSON Lines: capture_cli.tables.parquet."""
EXTRA = "extra"
"""A further column, an object: what the caller of the recorder said beside. Left out by default where there is nothing."""
_TABLES = [Table(task=task, text_ids=text_ids) for task in (None, "sequence", "multilabel") for text_ids in (False, True)]
_CHUNK_BYTES = 2 << 20
_MAX_WORKERS = 2


def rows(
    reading: Run,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    style: str = "jsonl",
) -> Iterator[bytes]:
    """Yield the rows of a run as blocks of whole lines, `limit` rows at most; CSV begins with a line of column names.

    Raises UsageError at once for a condition, column or style that no run has. While rows are taken it raises UsageError where
    the task of this run has not, RecordsError for a record that verifies but makes no sense; damage ends the rows, and is in
    `reading.ending`.
    """
    return _Rows(where, columns, style).of(reading, limit)


@dataclass(frozen=True)
class _Part:
    """What became of some lines; `error` is what is wrong with the line after the last one that is in `text`."""

    count: int
    text: bytes
    error: CaptureError | None = None


class _Rows:
    """One way of asking for rows."""

    def __init__(self, where: str | None, columns: Sequence[str] | None, style: str) -> None:
        if style not in FORMATS:
            raise UsageError(f"no such format: '{style}'", "choose jsonl, csv or parquet")
        every = tuple(dict.fromkeys(name for table in _TABLES for name in table.columns))
        if columns is not None and not columns:
            raise UsageError("no columns", f"the columns are {', '.join(every)}")
        _check_columns(columns or (), every)
        self._style = style
        self._columns: Sequence[str] = columns or ()
        self._where = None if where is None else escape(where)
        self._database = locked_database()
        self._run: RunInfo | None = None
        self._classes: list[str] = []
        self._text_ids = False
        self._has_extra = EXTRA in self._columns or bool(where and re.search(rf"\b{EXTRA}\b", where, re.IGNORECASE))
        if self._where is not None:
            _check_where(self._database, self._where)
            self._check_binds(_TABLES)

    def _check_binds(self, tables: Sequence[Table]) -> None:
        """Raise UsageError unless the condition can be asked of one of `tables`: lets DuckDB look before anything is read."""
        errors = []
        for table in tables:
            try:
                self._select([], table, self._where, None)
            except duckdb.Error as error:
                errors.append(_where_error(self._where or "", error, tables[0].columns))
            else:
                return
        raise errors[0]

    def of(self, reading: Run, limit: int | None) -> Iterator[bytes]:
        heading = self._style == "csv"
        for part in self._parts(reading, limit):
            if heading:
                yield self._heading()
                heading = False
            if limit is not None:
                limit -= part.count
            if part.text:
                yield part.text
            if part.error:
                raise reading.located(part.error) if isinstance(part.error, RecordsError) else part.error
            if limit == 0:
                return
        if heading:
            yield self._heading()

    def _heading(self) -> bytes:
        return ",".join(self._columns or columns_of(self._run.task if self._run else None)).encode() + b"\n"

    def _parts(self, reading: Run, limit: int | None) -> Iterator[_Part]:
        """The parts in order. With a limit one at a time, since the next depends on how many rows are still wanted."""
        workers = min(os.cpu_count() or 1, _MAX_WORKERS) if limit is None else 1
        pending: deque[Future[_Part]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for lines in reading.chunks(_CHUNK_BYTES):
                for line in (line for line in lines if line.kind == "run"):
                    self._begin(line)
                if limit == 0 and self._run:
                    return
                for group in self._groups([line for line in lines if line.kind in BATCHES]):
                    pending.append(pool.submit(self._part, *group, limit))
                    while len(pending) > workers or (pending and limit is not None):
                        part = pending.popleft().result()
                        limit = None if limit is None else limit - part.count
                        yield part
                while pending and not lines:  # nothing is waiting to be read, so nothing is held back
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _begin(self, line: Line) -> None:
        """Take a run record; with the first it is known which columns there are."""
        first, self._run = self._run is None, line.run(self._run)
        self._classes = [escape(name) for name in self._run.classes]
        if first:
            tables = [Table(task=self._run.task, text_ids=text_ids) for text_ids in (False, True)]
            _check_columns(self._columns, tables[0].columns)
            if self._where is not None:
                self._check_binds(tables)

    def _groups(self, batches: Sequence[Line]) -> Iterator[tuple[Table, list[Line]]]:
        """The lines that one query can read, and the table that they are to it."""
        if batches and not self._columns and self._run:
            self._has_extra = self._has_extra or has_extra(batches[0])
            self._columns = (*columns_of(self._run.task), *([EXTRA] if self._has_extra else []))
        for text_ids, group in groupby(batches, self._look_at_ids):
            yield Table(task=self._run.task if self._run else None, text_ids=text_ids, extra=self._has_extra), list(group)

    def _look_at_ids(self, line: Line) -> bool:
        """Whether they are texts; where there are none, they are what they were before."""
        are_texts = has_text_ids(line)
        self._text_ids = self._text_ids if are_texts is None else are_texts
        return self._text_ids

    def _part(self, table: Table, lines: Sequence[Line], limit: int | None) -> _Part:
        try:
            return self._select(lines, table, self._where, limit)
        except (duckdb.Error, RecordsError) as error:
            return self._without_bad(table, lines, limit, error)

    def _select(self, lines: Sequence[Line], table: Table, where: str | None, limit: int | None) -> _Part:
        condition = "" if where is None else f"where (\n{where}\n)"
        most = "" if limit is None else f"limit {limit:d}"
        text = row_text(table, self._columns, self._style)
        visits = f"select * from ({table.visits(text.per_batch)}) {condition} {most}"  # noqa: S608
        # Of what is put in here only the condition is not ours; it was checked, and DuckDB is locked.
        sql = f"select count(*), string_agg({text.row}, '\n') from ({visits})"  # noqa: S608
        values = {"lines": [feedable(line, extra=table.extra) for line in lines], "classes": self._classes}
        if table.task not in NUMBERS_TASKS:
            values["written"] = [written(name, self._style) for name in self._classes]
        count, rows = self._database.cursor().execute(sql, values).fetchall()[0]
        return _Part(count, unescape(rows + "\n", as_json=self._style == "jsonl") if count else b"")

    def _without_bad(self, table: Table, lines: Sequence[Line], limit: int | None, error: Exception) -> _Part:
        """Find out which line is to blame, or whether it is the condition, and keep what comes before."""
        for number, line in enumerate(lines):
            try:
                if self._run:
                    checked(line, self._run)
            except RecordsError as bad:
                before = self._part(table, lines[:number], limit) if number else _Part(0, b"")
                return before if before.error else _Part(before.count, before.text, bad)
        if self._where is not None:
            try:
                self._select(lines, table, None, None)
            except (duckdb.Error, RecordsError):
                pass
            else:
                return _Part(0, b"", _where_error(self._where, error, table.columns))
        where = f"lines {lines[0].seq + 1} to {lines[-1].seq + 1}"
        return _Part(0, b"", RecordsError(f"{where} cannot be taken apart: {_first_line(error)}", line=lines[0].seq + 1))


def _check_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    """Raise UsageError unless each is one of `known`, or `extra`, and none comes twice."""
    listed = f"the columns are {', '.join(known)}"
    for name in columns:
        if name not in known and name != EXTRA:
            raise UsageError(f"no such column: '{name}'", listed)
    if len(set(columns)) < len(columns):
        raise UsageError("the same column twice", listed)


def _check_where(database: duckdb.DuckDBPyConnection, where: str) -> None:
    """Raise UsageError unless `where` is one condition on one row.

    A sub-query would see some of the rows only, since rows are worked on as they come.
    """
    if not where.strip():
        raise UsageError("--where is empty", _hint())
    node = _syntax_tree(database, where)
    condition, plain = node.pop("where_clause", None), _syntax_tree(database, "true")
    del plain["where_clause"]
    if node != plain:
        raise UsageError(f"--where '{where}' is more than a condition", _hint())
    if any(f'"class":"{refused}"' in json.dumps(condition, separators=(",", ":")) for refused in ("SUBQUERY", "PARAMETER")):
        raise UsageError(f"--where '{where}' has a sub-query or a parameter; it is asked of each row by itself", _hint())


def _syntax_tree(database: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any]:
    sql = f"select 1 where (\n{where}\n)"
    tree = json.loads(database.execute("select json_serialize_sql($sql)", {"sql": sql}).fetchall()[0][0])
    if tree["error"]:
        raise UsageError(f"--where '{where}': {' '.join(tree['error_message'].split())}", _hint())
    nodes: list[dict[str, Any]] = [statement["node"] for statement in tree["statements"]]
    return nodes[0] if len(nodes) == 1 else {}


def _where_error(where: str, error: Exception, columns: Sequence[str]) -> UsageError:
    return UsageError(f"--where '{where}': {_first_line(error)}", _hint(columns))


def _hint(columns: Sequence[str] = COLUMNS) -> str:
    return f"it takes a condition in SQL on {', '.join(columns)}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition("Error: ")[2].rstrip("!. ") or type(error).__name__
