"""A gate on the comparison of two runs: an SQL condition on its measures.

gate = Gate("accuracy_drop > 0.01 or flips > 20")       # raises UsageError unless it is one condition on MEASURES
gate.fails(measures)                                    # True if the condition holds
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import duckdb

from capture_cli.answers.comparison import MEASURES
from capture_cli.errors import CaptureError, UsageError
from capture_cli.tables.condition import Condition, reason
from capture_cli.tables.grouped import GroupedTable
from capture_cli.tables.sql import locked_database

_TABLE = GroupedTable(dict.fromkeys(MEASURES, "DOUBLE"))


class Gate:
    """One condition, checked before anything is read."""

    def __init__(self, condition: str) -> None:
        """Raise UsageError for anything else than one condition on measures."""
        self.text = condition
        self._database = locked_database()
        self._condition = Condition(condition, self._database, option="--fail-if", columns=_TABLE.columns)
        self._condition.bind_to([_TABLE])
        self.names = self._condition.columns(_TABLE)
        """The measures that it reads."""

    def fails(self, measures: Mapping[str, float | None]) -> bool:
        """Tell if the condition holds. Raises CaptureError where it cannot be told: a gate never passes for want of data."""
        if missing := [name for name in self.names if measures[name] is None]:
            unknown = f"--fail-if cannot be judged: {', '.join(missing)} is not known"
            if measures["images"] == 0:
                raise CaptureError(f"{unknown}: no image is in both runs with the same label", "name runs of the same images")
            raise CaptureError(unknown, "the records do not have it")
        sql = f"select ({self.text}\n) from ({_TABLE.query()})"  # noqa: S608 - the condition was checked, and DuckDB is locked
        try:
            found = self._database.execute(sql, {"lines": [json.dumps(dict(measures))]}).fetchall()[0][0]
        except duckdb.Error as error:
            raise UsageError(f"--fail-if '{self.text}': {reason(error)}") from error
        if found is None:
            raise CaptureError("--fail-if cannot be judged: the condition has no value", "compare measures with numbers")
        return bool(found)
