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
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from capture_cli.answers.sql import escape, feedable, locked_database, unescape, visits
from capture_cli.answers.visits import COLUMNS, checked_batch
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import Run

if TYPE_CHECKING:
    from capture_cli.reader import Line, Reading

FORMATS = ("jsonl", "csv")
_CHUNK_BYTES = 2 << 20
_MAX_WORKERS = 2
_OF_BATCH = {"phase", "epoch", "batch", "step"}
_TEXTS = {"phase", "file", "label", "pred"}
_FLOATS = {"p_label", "p_pred", "margin", "loss_nats"}


def rows(
    reading: Reading,
    *,
    where: str | None = None,
    columns: Sequence[str] = COLUMNS,
    limit: int | None = None,
    style: str = "jsonl",
) -> Iterator[bytes]:
    """Yield the rows of a run as blocks of whole lines, `limit` rows at most; CSV begins with a line of column names.

    Raises UsageError at once for a condition, column or style that is none. While rows are taken it raises RecordsError for a
    record that verifies but makes no sense; damage ends the rows, and is in `reading.ending`.
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

    def __init__(self, where: str | None, columns: Sequence[str], style: str) -> None:
        _check_columns(columns)
        if style not in FORMATS:
            raise UsageError(f"no such format: '{style}'", f"choose {' or '.join(FORMATS)}")
        self._style = style
        self._columns = columns
        self._text = _text(columns, style)
        self._where = None if where is None else escape(where)
        self._database = locked_database()
        self._classes: list[str] = []
        if self._where is not None:
            _check_where(self._database, self._where)
            try:
                self._select([], self._where, None)  # lets DuckDB look at the condition before anything is read
            except duckdb.Error as error:
                raise _where_error(self._where, error) from error

    def of(self, reading: Reading, limit: int | None) -> Iterator[bytes]:
        if self._style == "csv":
            yield ",".join(self._columns).encode() + b"\n"
        if limit == 0:
            return
        for part in self._parts(reading, limit):
            if limit is not None:
                limit -= part.count
            if part.text:
                yield part.text
            if part.error:
                raise reading.located(part.error) if isinstance(part.error, RecordsError) else part.error
            if limit == 0:
                return

    def _parts(self, reading: Reading, limit: int | None) -> Iterator[_Part]:
        """The parts in order. With a limit one at a time, since the next depends on how many rows are still wanted."""
        workers = min(os.cpu_count() or 1, _MAX_WORKERS) if limit is None else 1
        pending: deque[Future[_Part]] = deque()
        run: Run | None = None
        with ThreadPoolExecutor(workers) as pool:
            for lines in reading.chunks(_CHUNK_BYTES):
                batches = [line for line in lines if line.kind == "batch"]
                for line in (line for line in lines if line.kind == "run"):
                    run = line.run(run)
                    self._classes = [escape(name) for name in run.classes]
                if batches:
                    pending.append(pool.submit(self._part, batches, limit))
                while pending and (len(pending) > workers or not lines or limit is not None):
                    part = pending.popleft().result()
                    if limit is not None:
                        limit -= part.count
                    yield part
            while pending:
                yield pending.popleft().result()

    def _part(self, lines: Sequence[Line], limit: int | None) -> _Part:
        try:
            return self._select(lines, self._where, limit)
        except (duckdb.Error, RecordsError) as error:
            return self._without_bad(lines, limit, error)

    def _select(self, lines: Sequence[Line], where: str | None, limit: int | None) -> _Part:
        condition = "" if where is None else f"where (\n{where}\n)"
        most = "" if limit is None else f"limit {limit:d}"
        table = visits(self._text.per_batch)
        # Of what is put in here only the condition is not ours; it was checked, and DuckDB is locked.
        sql = f"select count(*), string_agg({self._text.row}, '\n') from (select * from ({table}) {condition} {most})"  # noqa: S608
        values = {"lines": [feedable(line) for line in lines], "classes": self._classes}
        count, text = self._database.cursor().execute(sql, values).fetchall()[0]
        return _Part(count, unescape(text + "\n", as_json=self._style == "jsonl") if count else b"")

    def _without_bad(self, lines: Sequence[Line], limit: int | None, error: Exception) -> _Part:
        """Find out which line is to blame, or whether it is the condition, and keep what comes before."""
        for number, line in enumerate(lines):
            try:
                checked_batch(line, len(self._classes))
            except RecordsError as bad:
                before = self._part(lines[:number], limit) if number else _Part(0, b"")
                return before if before.error else _Part(before.count, before.text, bad)
        if self._where is not None:
            try:
                self._select(lines, None, None)
            except (duckdb.Error, RecordsError):
                pass
            else:
                return _Part(0, b"", _where_error(self._where, error))
        where = f"lines {lines[0].seq + 1} to {lines[-1].seq + 1}"
        return _Part(0, b"", RecordsError(f"{where} cannot be taken apart: {_first_line(error)}", line=lines[0].seq + 1))


def _check_columns(columns: Sequence[str]) -> None:
    for name in columns:
        if name not in COLUMNS:
            raise UsageError(f"no such column: '{name}'", f"the columns are {', '.join(COLUMNS)}")
    if not columns or len(set(columns)) < len(columns):
        raise UsageError("the same column twice" if columns else "no columns", f"the columns are {', '.join(COLUMNS)}")


def _check_where(database: duckdb.DuckDBPyConnection, where: str) -> None:
    """Raise UsageError unless `where` is one condition on one row.

    A sub-query would see some of the rows only, since rows are worked on as they come.
    """
    if not where.strip():
        raise UsageError("--where is empty", _HINT)
    node = _syntax_tree(database, where)
    condition, plain = node.pop("where_clause", None), _syntax_tree(database, "true")
    del plain["where_clause"]
    if node != plain:
        raise UsageError(f"--where '{where}' is more than a condition", _HINT)
    if any(f'"class":"{refused}"' in json.dumps(condition, separators=(",", ":")) for refused in ("SUBQUERY", "PARAMETER")):
        raise UsageError(f"--where '{where}' has a sub-query or a parameter; it is asked of each row by itself", _HINT)


def _syntax_tree(database: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any]:
    sql = f"select 1 where (\n{where}\n)"
    tree = json.loads(database.execute("select json_serialize_sql($sql)", {"sql": sql}).fetchall()[0][0])
    if tree["error"]:
        raise UsageError(f"--where '{where}': {tree['error_message']}", _HINT)
    nodes: list[dict[str, Any]] = [statement["node"] for statement in tree["statements"]]
    return nodes[0] if len(nodes) == 1 else {}


def _where_error(where: str, error: Exception) -> UsageError:
    return UsageError(f"--where '{where}': {_first_line(error)}", _HINT)


_HINT = f"it takes a condition in SQL on {', '.join(COLUMNS)}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition("Error: ")[2].rstrip("!. ") or type(error).__name__


@dataclass(frozen=True)
class _Text:
    """SQL expressions that write a row: the beginning, which is the same for all rows of a batch, and the whole."""

    per_batch: str
    row: str


def _text(columns: Sequence[str], style: str) -> _Text:
    cells = _as_json(columns) if style == "jsonl" else _as_csv(columns)
    same = next((number for number, name in enumerate(columns) if name not in _OF_BATCH), len(columns))
    end = ["'}'"] if style == "jsonl" else []
    return _Text(_concat(cells[:same]), _concat(["per_batch", *cells[same:], *end]))


def _as_json(columns: Sequence[str]) -> list[str]:
    """One expression for each column, that of the first with the opening brace."""
    keys = [f"""'{"," if number else "{"}"{name}":'""" for number, name in enumerate(columns)]
    values = [_float(name, "null") if name in _FLOATS else f"to_json({name})" if name in _TEXTS else name for name in columns]
    return [f"{key}, {value}" for key, value in zip(keys, values, strict=True)]


def _as_csv(columns: Sequence[str]) -> list[str]:
    """As RFC 4180 has it, but for the line end, which is a newline."""
    values = [_float(name, "") if name in _FLOATS else _quoted(name) if name in _TEXTS else name for name in columns]
    return [f"',', {value}" if number else value for number, value in enumerate(values)]


def _concat(parts: Sequence[str]) -> str:
    return f"concat({', '.join(parts)})" if parts else "''"


def _float(name: str, instead: str) -> str:
    """The double of a record's decimal fraction as that fraction; the margin, which is made here, as float32."""
    return f"if(isfinite({name}), {'margin::varchar' if name == 'margin' else f'to_json({name})::varchar'}, '{instead}')"


def _quoted(name: str) -> str:
    return f"""if(regexp_matches({name}, '[",\r\n]'), '"' || replace({name}, '"', '""') || '"', {name})"""
