"""An SQL condition on one row, checked before it is used.

condition = Condition("not correct and phase = 'val'", database)    # raises UsageError unless it is one condition
condition.bind([None, "sequence"])                                  # ... that rows of one of these tasks can have
f"select * from ({table.query(columns)}) {condition.clause}"
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import duckdb

from capture_cli.errors import UsageError, did_you_mean
from capture_cli.tables.sql import EXTRA, Table, escape

_NO_COLUMN = re.compile(r'Referenced column "(.+?)" not found')


class Rows(Protocol):
    """Rows that a condition can be asked of: their columns, and a query for them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column, in order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a column has."""

    def query(self, columns: Sequence[str]) -> str:
        """A query for some columns of the rows in `$lines`."""


class Condition:
    """One condition and the columns that it reads."""

    def __init__(
        self, where: str, database: duckdb.DuckDBPyConnection, *, option: str = "--where", columns: Sequence[str] | None = None
    ) -> None:
        """Raise UsageError for anything else than one condition, and for a sub-query or a parameter.

        `option` and `columns` (default: those of visits) are named in messages.
        Rows are examined as they come, so a sub-query would see some of them only.
        """
        self._where, self._option = where, option
        self._hint = advice(Table(task=None).columns if columns is None else columns)
        self._database = database
        self.clause = f"where (\n{escape(where)}\n)"
        if not where.strip():
            raise UsageError(f"{option} is empty", self._hint)
        node, plain = self._syntax_tree(self.clause), self._syntax_tree("where (true)")
        tree = json.dumps(node.pop("where_clause", None), separators=(",", ":"))
        del plain["where_clause"]
        if node != plain:
            raise UsageError(f"{option} '{where}' is more than a condition", self._hint)
        if '"class":"SUBQUERY"' in tree or '"class":"PARAMETER"' in tree:
            raise UsageError(f"{option} '{where}' has a sub-query or a parameter; it may use one row only", self._hint)
        self._names = {name.lower() for names in re.findall(r'"column_names":(\[.*?\])', tree) for name in json.loads(names)}
        self._reads_all = '"class":"STAR"' in tree

    def columns(self, table: Rows) -> list[str]:
        """The columns of `table` that it reads."""
        known = table.columns if self._reads_all else ()
        return list(dict.fromkeys((*known, *(name for name in (*table.names, EXTRA) if name in self._names))))

    def reads_only(self, columns: Sequence[str]) -> bool:
        """Tell if it reads none but these columns and `extra`."""
        return self._names <= {*columns, EXTRA}

    def bind(self, tasks: Sequence[str | None]) -> None:
        """Raise UsageError unless the condition can be asked of the rows of one of these tasks, with or without folds."""
        kinds = [(task, text_ids, fold) for fold in (None, 1) for task in tasks for text_ids in (False, True)]
        self.bind_to([Table(task=task, text_ids=text_ids, fold=fold) for task, text_ids, fold in kinds])

    def bind_to(self, tables: Sequence[Rows]) -> None:
        """Raise UsageError unless the condition can be asked of the rows of one of these tables."""
        failures = []
        for table in tables:
            query = table.query(self.columns(table))
            values: dict[str, Any] = {"lines": [], **({"classes": []} if "$classes" in query else {})}
            try:
                self._database.execute(f"select 1 from ({query}) {self.clause}", values)  # noqa: S608
            except duckdb.Error as error:
                failures.append(error)
            else:
                return
        raise self.failure(failures[0], tables[0]) from failures[0]

    def failure(self, error: duckdb.Error, table: Rows) -> UsageError:
        """The error of DuckDB, and the columns that the rows have."""
        return UsageError(f"{self._option} '{self._where}': {reason(error)}", advice(table.columns, error))

    def _syntax_tree(self, clause: str) -> dict[str, Any]:
        sql = f"select 1 {clause}"
        tree = json.loads(self._database.execute("select json_serialize_sql($sql)", {"sql": sql}).fetchall()[0][0])
        if tree["error"]:
            said = " ".join(tree["error_message"].split())
            if said.endswith('near ")"') and ")" not in self._where:  # that of the clause
                said = "the condition ends too early"
            raise UsageError(f"{self._option} '{self._where}': {said}", self._hint)
        nodes: list[dict[str, Any]] = [statement["node"] for statement in tree["statements"]]
        return nodes[0] if len(nodes) == 1 else {}


def reason(error: Exception) -> str:
    """The first line of what DuckDB says; of a name that is no column, also how it would be written as a text."""
    said = str(error).partition("\n")[0].partition("Error: ")[2].rstrip("!. ") or type(error).__name__
    if name := _NO_COLUMN.match(said):
        text = name[1].replace("'", "''")
        return f"{said} (as a text it is written '{text}', in single quotes)"
    return said


def advice(columns: Sequence[str], error: Exception | None = None) -> str:
    """A hint that names the columns, and first the closest to one that DuckDB has not found."""
    name = _NO_COLUMN.search(str(error))
    close = f"{did_you_mean(name[1], columns)} " if name else ""
    return f"{close}write an SQL condition on {', '.join(columns)}".lstrip()
