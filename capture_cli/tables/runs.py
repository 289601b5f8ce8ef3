"""An SQL condition on runs: `capture runs --where "accuracy > 0.9 and opt = 'sgd'"`.

chosen = where(runs, "accuracy > 0.9", now=time.time())     # raises UsageError unless it is one condition on their columns
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import duckdb

from capture_cli.errors import UsageError
from capture_cli.runs.listing import COLUMNS, ListedRun
from capture_cli.tables.condition import Condition, advice, reason


def where(runs: Sequence[ListedRun], condition: str, *, now: float) -> list[ListedRun]:
    """Keep the runs that fulfil `condition`. Raises UsageError, naming the columns."""
    rows = [run.row(now) for run in runs]
    kinds = dict(COLUMNS)
    for row in rows:
        for name, value in row.items():
            if name not in COLUMNS and value is not None:
                kinds[name] = _common(kinds.get(name), _kind(value))
    quoted = ", ".join(f'"{name}" {kind}' for name, kind in kinds.items() if '"' not in name)
    names = [name for name in kinds if '"' not in name]
    with duckdb.connect() as database:
        asked = Condition(condition, database, columns=names)
        try:
            database.execute(f"create table runs (place bigint, {quoted})")
            marks = ", ".join("?" * (len(names) + 1))
            for place, row in enumerate(rows):
                values = [_value(row.get(name), kinds[name]) for name in names]
                database.execute(f"insert into runs values ({marks})", [place, *values])  # noqa: S608 - only marks
            found = database.execute(f"select place from runs {asked.clause} order by place").fetchall()  # noqa: S608
        except duckdb.Error as error:
            raise UsageError(f"--where '{condition}': {reason(error)}", advice(names, error)) from error
    return [runs[place] for (place,) in found]


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint" if abs(value) < 2**63 else "double"
    return "double" if isinstance(value, float) else "varchar"


def _common(one: str | None, other: str) -> str:
    if one in (None, other):
        return other
    return "double" if {one, other} == {"bigint", "double"} else "varchar"


def _value(value: object, kind: str) -> object:
    if kind != "varchar" or value is None or isinstance(value, str):
        return value
    return json.dumps(value)
