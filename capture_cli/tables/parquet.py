"""Rows as a Parquet file, made of the JSON Lines that `rows` gives.

    with open("rows.parquet", "xb") as file:
        write_parquet(rows(run), file)

The condition of `rows` runs in a database that can reach nothing. This one can write a file, and is given rows alone. They
go through a temporary file, several times as large as the Parquet: DuckDB would keep what comes through a pipe in memory.
Numbers have the types of the records: float32, int64.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import IO

import duckdb

from capture_cli.answers.visits import COLUMNS
from capture_cli.errors import CaptureError, RecordsError

_TYPES = {
    **dict.fromkeys(("phase", "file", "label", "pred"), "VARCHAR"),
    **dict.fromkeys(("epoch", "batch", "step", "id", "position"), "BIGINT"),
    **dict.fromkeys(("p_label", "p_pred", "margin", "loss_nats", "loss"), "FLOAT"),
    **dict.fromkeys(("targets", "outputs"), "FLOAT[]"),
    "correct": "BOOLEAN",
    "extra": "JSON",
}
_MEMORY_MB = 256


def write_parquet(blocks: Iterable[bytes], file: IO[bytes], *, columns: Sequence[str] | None = None) -> None:
    """Write rows, blocks of JSON Lines, into the open `file`; without any row the file has `columns`, and none.

    A RecordsError of `blocks` is raised when the rows before it are in the file. Raises CaptureError where it cannot be
    written, also because of a name that is not UTF-8, for which Parquet has no place.
    """
    damage = None
    with tempfile.TemporaryFile() as spool:
        rest = iter(blocks)
        first = b""
        try:
            first = next(rest, b"")
            for block in chain([first], rest):
                spool.write(block)
        except RecordsError as error:
            damage = error
        spool.flush()
        row = json.loads(first[: first.index(b"\n")]) if first else dict.fromkeys(columns or COLUMNS)
        types = {name: "VARCHAR" if name == "id" and isinstance(row[name], str) else _TYPES[name] for name in row}
        _copy(spool.fileno(), file.fileno(), types)
    if damage:
        raise damage


def _copy(source: int, target: int, types: dict[str, str]) -> None:
    """Write the rows in the descriptor `source` into the descriptor `target`."""
    declared = ", ".join(f"'{name}': '{declared}'" for name, declared in types.items())
    # What is put in here are names and types of the table above, and two numbers.
    rows = f"select * from read_json('/dev/fd/{source}', format = 'newline_delimited', columns = {{{declared}}})"  # noqa: S608
    config: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "memory_limit": f"{_MEMORY_MB}MB"}
    try:
        with duckdb.connect(config={**config, "temp_directory": ""}) as database:
            database.execute(f"copy ({rows}) to '/dev/fd/{target}' (format parquet, use_tmp_file false)")
    except duckdb.Error as error:
        what = str(error).partition("\n")[0]
        hint = "names that are not UTF-8 need --format jsonl or csv" if "surrogate" in what else ""
        raise CaptureError(f"rows cannot be written as Parquet: {what}", hint) from error
