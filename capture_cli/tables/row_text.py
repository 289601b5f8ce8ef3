"""How a row is written: SQL expressions that make JSON or CSV of its columns.

text = row_text(table, ("file", "loss_nats"), "jsonl")
sql = f"select {text.row} from ({table.visits(text.per_batch)})"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from capture_cli.answers.visits import NUMBERS_TASKS

if TYPE_CHECKING:
    from capture_cli.tables.sql import Table

_OF_BATCH = {"phase", "epoch", "batch", "step"}
_TEXTS = {"phase", "file"}
_CLASSES = {"label", "pred"}
_FLOATS = {"p_label", "p_pred", "margin", "loss_nats", "loss"}
_LISTS = {"targets", "outputs"}


@dataclass(frozen=True)
class RowText:
    """SQL expressions that write a row: the beginning, which is the same for all rows of a batch, and the whole."""

    per_batch: str
    row: str


def row_text(table: Table, columns: Sequence[str], style: str) -> RowText:
    """The expressions for `columns` in this order; `style` is jsonl or csv."""
    cells = _as_json(table, columns) if style == "jsonl" else _as_csv(table, columns)
    same = next((number for number, name in enumerate(columns) if name not in _OF_BATCH), len(columns))
    end = ["'}'"] if style == "jsonl" else []
    return RowText(_concat(cells[:same]), _concat(["per_batch", *cells[same:], *end]))


def written(name: str, style: str) -> str:
    """A class name as it is written, once for all rows."""
    if style == "jsonl":
        return orjson.dumps(name).decode()
    return '"' + name.replace('"', '""') + '"' if set(name) & set('",\r\n') else name


def _as_json(table: Table, columns: Sequence[str]) -> list[str]:
    """One expression for each column, that of the first with the opening brace."""
    keys = [f"""'{"," if number else "{"}"{name}":'""" for number, name in enumerate(columns)]
    return [f"{key}, {_json_value(table, name)}" for key, name in zip(keys, columns, strict=True)]


def _json_value(table: Table, name: str) -> str:
    if name in _FLOATS:
        return _float(name, "null")
    if name in _CLASSES:
        return f"written_{name}"
    if name in _TEXTS or (name == "id" and table.text_ids):
        return f"to_json({name})"
    if name in _LISTS:
        return f"to_json({name})::varchar"
    if name == "extra" or (name == "correct" and table.task in NUMBERS_TASKS):
        return f"coalesce({name}::varchar, 'null')"
    return name


def _as_csv(table: Table, columns: Sequence[str]) -> list[str]:
    """As RFC 4180 has it, but for the line end, which is a newline."""
    values = [_csv_value(table, name) for name in columns]
    return [f"',', {value}" if number else value for number, value in enumerate(values)]


def _csv_value(table: Table, name: str) -> str:
    if name in _FLOATS:
        return _float(name, "")
    if name in _CLASSES:
        return f"written_{name}"
    if name in _TEXTS or (name == "id" and table.text_ids):
        return _quoted(name)
    if name in _LISTS or name == "extra":
        return _quoted(f"coalesce(to_json({name})::varchar, '')")
    return name


def _concat(parts: Sequence[str]) -> str:
    return f"concat({', '.join(parts)})" if parts else "''"


def _float(name: str, instead: str) -> str:
    """The double of a record's decimal fraction as that fraction; the margin, which is made here, as float32."""
    return f"if(isfinite({name}), {'margin::varchar' if name == 'margin' else f'to_json({name})::varchar'}, '{instead}')"


def _quoted(text: str) -> str:
    return f"""if(regexp_matches({text}, '[",\r\n]'), '"' || replace({text}, '"', '""') || '"', {text})"""
