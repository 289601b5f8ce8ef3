"""Batch records as an SQL table, one row per sample and visit, in a DuckDB that reaches nothing but the lines it is given.

    database = locked_database()
    table = Table(task=None)
    sql = f"select file from ({table.query(('file', 'correct'))}) where not correct"
    database.execute(sql, {"lines": [feedable(line) for line in lines], "classes": list(map(escape, info.classes))})

* Types are declared, never inferred, and everything from a record comes in as a parameter: no name can become SQL.
* Only the fields that the chosen columns need are parsed. If these do not fit together, the query fails.
* No file, network, extension or setting can be reached from SQL, and memory has a limit.
* Any file name. DuckDB refuses the lone surrogates by which Python holds names that are not UTF-8; `escape` writes each as an
  escape character and six hex digits, `unescape` turns them back in what comes out.
"""

# ruff: noqa: S608 - the queries are put together from the constants of this module alone

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from capture_cli.records import NO_LABEL
from capture_cli.records.checking import PHASE
from capture_cli.records.values import loads
from capture_cli.runs import Line
from capture_cli.runs.masks import LOSS
from capture_cli.runs.visits import SMALLEST, column_names, predicts_classes

MEMORY_MB = 1024
EXTRA = "extra"
"""A further column, a JSON object: the values that the recorder was given as `extra=`."""
_NAMED = "named"
"""Field of a line as DuckDB gets it: for each row the named numbers of the run, as an object."""

_CLASSES = "len($classes::varchar[])"
_ONE_EACH = "list_count({0}) = n and len({0}) = n"
_CLASS_NUMBERS = f"{_ONE_EACH} and list_min({{0}}) >= 0 and list_max({{0}}) < {_CLASSES}"
_WIDTHS = "list_transform({0}, lambda row: len(row))"
_TABLE = f"len({{0}}) = n and list_min({_WIDTHS}) = {{1}} and list_max({_WIDTHS}) = {{1}}"
_BATCH_FIELDS = {"phase": '"VARCHAR"', "epoch": '"BIGINT"', "batch": '"BIGINT"', "step": '"BIGINT"'}
_BATCH_FITS = f"regexp_full_match(phase, '{PHASE}') and epoch is not null and batch is not null and step is not null"
_SAMPLE_FIELDS = {
    "ids": ('["BIGINT"]', _ONE_EACH),
    "files": ('["VARCHAR"]', f"(files is null or {_ONE_EACH})"),
    "positions": ('["BIGINT"]', _ONE_EACH),
    "labels": ('["BIGINT"]', _CLASS_NUMBERS.replace(">= 0", f">= {NO_LABEL}")),
    "preds": ('["BIGINT"]', _CLASS_NUMBERS),
    "probs": ('[["DOUBLE"]]', _TABLE.format("{0}", f"if(topk is null, {_CLASSES}, len(probs[1]))")),
    "topk": ('[["BIGINT"]]', "(topk is null or len(topk) = n)"),
    "p_labels": ('["DOUBLE"]', "if(topk is null, p_labels is null, len(p_labels) = n)"),
    "targets": ('[["DOUBLE"]]', _TABLE.format("{0}", _CLASSES)),
    "outputs": ('[["DOUBLE"]]', _TABLE.format("{0}", _CLASSES)),
    **dict.fromkeys(("counted", "ignored", "correct"), ('["BIGINT"]', _ONE_EACH)),
    **dict.fromkeys(("intersections", "unions"), ('[["BIGINT"]]', "len({0}) = n")),
    EXTRA: ('["JSON"]', "(extra is null or len(extra) = n)"),
}
"""Field -> its type, and what holds of it in a batch of n samples. A number that is read as a double keeps its digits."""
_P_PRED = "if(topk is null, probs[preds + 1], probs[1])"
_P_OTHER = f"""
    case when labels <> preds then {_P_PRED}
         when topk is null then list_max(list_filter(probs, lambda p, i: i <> labels + 1))
         else probs[2] end
"""
_EXPRESSIONS = {
    "id": "ids",
    "file": "coalesce(files, ids::varchar)",
    "position": "positions",
    "label": "$classes[labels + 1]",
    "pred": "$classes[preds + 1]",
    "correct": f"if(labels = {NO_LABEL}, null, labels = preds and losses is not null)",
    "p_label": "if(topk is null, probs[labels + 1], p_labels)",  # element 0 of a list is null, as for the label
    "p_pred": _P_PRED,
    # As capture_cli.runs.visits.margins, which a test holds equal; rows would take 1.7 times as long with its column.
    "margin": f"(-losses::float::double - ln(if(p_other < {SMALLEST!r}, {SMALLEST!r}, p_other)))::float::varchar::double",
    **dict.fromkeys(("loss", "loss_nats"), "losses"),
    "accuracy": "(correct / nullif(counted, 0))::float::varchar::double",
    "mean_iou": """list_avg(list_transform(list_zip(intersections, unions), lambda one: one[1] / nullif(one[2], 0)))
        ::float::varchar::double""",
}
"""Column -> what makes it from the fields of one sample, which have the names of the batch's; other columns are a field."""
_RIGHT = "list_transform({}, lambda x: x > 0.5)"
_CORRECT = {
    "multilabel": f"coalesce({_RIGHT.format('outputs')} = {_RIGHT.format('targets')}, false)",
    "regression": "null::boolean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows that a run's batch records make."""

    task: str | None
    """The task of the run."""
    text_ids: bool = False
    """True if samples have text for ids."""
    numbers: tuple[str, ...] = ()
    """The named numbers of the run, each a column."""
    fold: int | None = None
    """The number of the training, of a run with folds."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its rows, `extra` aside."""
        loss = "loss_nats" if predicts_classes(self.task) else "loss"
        names = (loss if name == "loss" else name for name in column_names(self.task, self.numbers))
        return (*(() if self.fold is None else ("fold",)), "phase", "epoch", *names)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of a column: that of the loss is `loss` in some tasks and `loss_nats` in others, and either will do."""
        return (*self.columns, *({"loss", "loss_nats"} - set(self.columns)))

    def query(self, columns: Iterable[str]) -> str:
        """A query for these columns of the records in `$lines`; it may use `$classes`, the class names.

        Labels and predictions are class names, numbers doubles, `extra` is JSON.
        """
        expressions = _EXPRESSIONS if self.fold is None else {**_EXPRESSIONS, "fold": f"{self.fold:d}::bigint"}
        made = {name: expressions.get(name, name) for name in columns} or {"epoch": "epoch"}
        made |= {name: f'{_NAMED}."{name}"' for name in made if name in self.numbers}
        if "correct" in made:
            made["correct"] = _CORRECT.get(self.task or "", made["correct"])
        if self.task == LOSS:
            made = {**made, **({"batch_loss": "whole_loss"} if "batch_loss" in made else {})}
        names = re.findall(r"\w+", " ".join([*made.values(), _P_OTHER if "margin" in made else ""]))
        fields = {field: of for field, of in _SAMPLE_FIELDS.items() if field in names or (field, self.task) == ("ids", LOSS)}
        types = {"seq": '"BIGINT"', **_BATCH_FIELDS, "losses": '["DOUBLE"]', **{field: of[0] for field, of in fields.items()}}
        if self.task == LOSS:
            types["loss"] = '"DOUBLE"'
        if any(name in self.numbers for name in made):
            types[_NAMED] = f"[{json.dumps(dict.fromkeys(self.numbers, 'DOUBLE'))}]"
            fields[_NAMED] = ("", "len({0}) = n")
        if self.text_ids and "ids" in types:
            types["ids"] = '["VARCHAR"]'
        structure = ",".join(f'"{name}":{declared}' for name, declared in types.items())
        fits = " and ".join(["true", *(check.format(field) for field, (_, check) in fields.items())])
        checked = f"""
            select *, len({"ids" if self.task == LOSS else "losses"}) as n
            from (select unnest(from_json(line, '{{{structure}}}')) from (select unnest($lines::varchar[]) as line))
            where if(coalesce({_BATCH_FITS} and n >= 0 and (n = 0 or ({fits})), false), true, error('record ' || seq))
        """
        cells = [
            *_BATCH_FIELDS,
            *["loss as whole_loss"] * (self.task == LOSS),
            *(f"unnest({field}) as {field}" for field in (*fields, "losses")),
        ]
        table = f"select {', '.join(cells)} from ({checked})"
        if "margin" in made:
            table = f"select *, ({_P_OTHER})::float::double as p_other from ({table})"
        cells = [f'{expression} as "{name}"' for name, expression in made.items()]
        return f"select {', '.join(cells)} from ({table})"


def quoted(columns: Iterable[str]) -> str:
    """Names of columns for a query: a named number may be called like a word of SQL."""
    return ", ".join(f'"{name}"' for name in columns)


def row_text(columns: Sequence[str], style: str, classes: Iterable[str]) -> str:
    """The expression that writes a row, called `one`, of these columns; `style` is jsonl or csv (RFC 4180, without the CR)."""
    if style == "jsonl":
        return "to_json(one)::varchar"
    plain = {"phase"} if _SPECIAL.intersection("".join(classes)) else {"phase", "label", "pred"}
    cells = {**{name: name for name in plain}, **({"label": "coalesce(label, '')"} if "label" in plain else {})}
    return f"concat_ws(',', {', '.join(cells.get(name) or _csv_cell(name) for name in columns)})"


_SPECIAL = {'"', ",", "\r", "\n"}


_TEXTS = ("id", "file", "label", "pred", "mean_pred")
_LISTS = ("targets", "outputs", "mean_probs", EXTRA)


def _csv_cell(name: str) -> str:
    as_json = f"""coalesce(to_json("{name}")::varchar, '')"""
    if name not in (*_TEXTS, *_LISTS):
        return as_json
    text = as_json if name in _LISTS else f"{name}::varchar"
    special = " or ".join(f"contains({text}, chr({ord(character)}))" for character in sorted(_SPECIAL))
    return f"""if({special}, '"' || replace({text}, '"', '""') || '"', {text})"""


_OFF = (
    "python_enable_replacements",
    "autoinstall_known_extensions",
    "autoload_known_extensions",
    "allow_community_extensions",
    "enable_external_access",
)


def locked_database() -> duckdb.DuckDBPyConnection:
    """An empty database in memory that can reach nothing outside. Each thread takes a cursor() of it."""
    # One thread each: rows come in the order of the records, and callers that want more cores take more cursors.
    database = duckdb.connect(config={"threads": 1, "memory_limit": f"{MEMORY_MB}MB", "temp_directory": ""})
    for setting in _OFF:
        database.execute(f"set {setting} = false")
    database.execute("set lock_configuration = true")
    return database


_ESCAPE = "\U0010ffff"
_TO_ESCAPE = re.compile("[\ud800-\udfff\U0010ffff]")
_ESCAPED = re.compile(_ESCAPE.encode() + rb"([0-9a-f]{6})")
_UNFIT = re.compile(rb"\\u[dD]|" + _ESCAPE.encode())


def escape(text: str) -> str:
    """`text` without lone surrogates, one to one."""
    return _TO_ESCAPE.sub(lambda found: f"{_ESCAPE}{ord(found[0]):06x}", text)


def unescape(text: str, *, as_json: bool) -> bytes:
    """UTF-8 of escaped text: lone surrogates are `\\\\udcXX` in JSON, else the bytes they stand for."""

    def character(found: re.Match[bytes]) -> bytes:
        code = int(found[1], 16)
        if code > 0xFFFF:
            return _ESCAPE.encode()
        is_byte = 0xDC80 <= code <= 0xDCFF
        return b"\\u%04x" % code if as_json else chr(code).encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")

    data = text.encode()
    return _ESCAPED.sub(character, data) if _ESCAPE.encode() in data else data


def feedable(line: Line, extra: Sequence[Any] | None = None, named: Sequence[Any] | None = None) -> str:
    """The line as DuckDB can read it, with the values of `extra` and the `named` numbers, one for each row.

    Raises RecordsError if it is not UTF-8.
    """
    data = line.data
    # Looking for one byte is quick, and most lines have neither.
    if extra is not None or named is not None or ((b"\\" in data or b"\xf4" in data) and _UNFIT.search(data)):
        fields = {name: value for name, value in loads(data).items() if name not in ("nonfinite", "inputs", "chain")}
        fields["extra"] = None if extra is None else [value or {} for value in extra]
        fields[_NAMED] = named
        return escape(json.dumps(fields, ensure_ascii=False))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise line.error("not UTF-8") from error
