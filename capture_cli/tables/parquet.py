"""Rows as a Parquet file, made from the JSON Lines that `rows` yields.

    with open("rows.parquet", "xb") as file:
        write_parquet(rows(run), file)

Numbers have the types of the records: float32, int64. The database that writes the file sees the rows alone, never a condition.
They pass through a temporary file several times as large as the Parquet: DuckDB would keep what comes through a pipe in memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

import duckdb

from capture_cli.errors import CaptureError, RecordsError
from capture_cli.tables.sql import EXTRA, Table

_TYPES = {
    **dict.fromkeys(("phase", "file", "label", "pred"), "VARCHAR"),
    **dict.fromkeys(("epoch", "batch", "step", "id", "position", "counted", "ignored"), "BIGINT"),
    **dict.fromkeys(("p_label", "p_pred", "margin", "loss_nats", "loss"), "FLOAT"),
    **dict.fromkeys(("targets", "outputs"), "FLOAT[]"),
    "correct": "BOOLEAN",
    EXTRA: "JSON",
}
"""Types of the columns of visits; all others, such as named numbers, are FLOAT."""
_MEMORY_MB = 256


def write_parquet(
    blocks: Iterable[bytes],
    file: IO[bytes],
    *,
    columns: Sequence[str] | None = None,
    types: Mapping[str, str] | None = None,
) -> None:
    """Write rows, blocks of JSON Lines, into the open `file`; without any row the file is empty but has `columns`.

    `types` are SQL types by column, by default those of visits.

    A RecordsError of `blocks` is raised once the rows before it are in the file. Raises CaptureError if it cannot be written,
    also for a name that is not UTF-8, which Parquet cannot hold.
    """
    damage = None
    first = b""
    with tempfile.TemporaryFile() as spool:
        try:
            for block in blocks:
                first = first or block[: block.index(b"\n")]
                spool.write(block)
        except RecordsError as error:
            damage = error
        spool.flush()
        row = json.loads(first) if first else dict.fromkeys(columns or Table(task=None).columns)
        known = _TYPES if types is None else types
        declared = {
            name: "VARCHAR" if name == "id" and isinstance(row[name], str) else known.get(name, "FLOAT") for name in row
        }
        _copy(spool.fileno(), file.fileno(), declared)
    if damage:
        raise damage


def _copy(source: int, target: int, types: dict[str, str]) -> None:
    """Write the JSON Lines in the descriptor `source` as Parquet into the descriptor `target`."""
    declared = ", ".join(f"'{name}': '{declared}'" for name, declared in types.items())
    # Only names and types of the table above, and two numbers, become part of the query.
    rows = f"select * from read_json('/dev/fd/{source}', format = 'newline_delimited', columns = {{{declared}}})"  # noqa: S608
    try:
        with duckdb.connect(config={"threads": 1, "memory_limit": f"{_MEMORY_MB}MB", "temp_directory": ""}) as database:
            database.execute(f"copy ({rows}) to '/dev/fd/{target}' (format parquet, use_tmp_file false)")
    except duckdb.Error as error:
        what = str(error).partition("\n")[0]
        hint = "names that are not UTF-8 need --format jsonl or csv" if "surrogate" in what else ""
        raise CaptureError(f"rows cannot be written as Parquet: {what}", hint) from error
