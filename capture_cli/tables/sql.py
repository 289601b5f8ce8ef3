"""Batch records as a SQL table, one row per sample and visit, in a DuckDB that can reach nothing but the lines it is given.

    database = locked_database()
    table = Table(task=None)
    sql = f"select file, loss_nats from ({table.visits()}) where not correct"
    names = [escape(name) for name in run.classes]
    database.execute(sql, {"lines": [feedable(line) for line in lines], "classes": names, "written": names})

What it promises:

* The types are declared, never inferred, and everything from a record comes in as a parameter: no name can become SQL.
* No file, network, extension or setting can be reached from SQL, and memory has a limit.
* A record whose columns do not fit together, or whose labels are no classes, is an error, never a row.
* Any file name. DuckDB refuses the lone surrogates by which names that are not UTF-8 are held; `escape` writes each as an
  escape character and six hex digits, `unescape` takes that back in what comes out.
"""

# ruff: noqa: S608 - the queries are put together from the constants of this module alone

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from capture_cli.answers.visits import NUMBERS_TASKS, SMALLEST, columns_of, extra_of
from capture_cli.records import Batch, Numbers, loads
from capture_cli.records.checking import PHASE

if TYPE_CHECKING:
    import duckdb

    from capture_cli.runs import Line

MEMORY_MB = 1024

_OF_EVERY_TASK = {
    "seq": "BIGINT",
    "phase": "VARCHAR",
    "epoch": "BIGINT",
    "batch": "BIGINT",
    "step": "BIGINT",
    "ids": "BIGINT[]",
    "files": "VARCHAR[]",
    "losses": "DOUBLE[]",
}
_OF_CLASSES = {
    "labels": "BIGINT[]",
    "preds": "BIGINT[]",
    "probs": "DOUBLE[][]",
    "topk": "BIGINT[][]",
    "p_labels": "DOUBLE[]",
}
_OF_NUMBERS = {"targets": "DOUBLE[][]", "outputs": "DOUBLE[][]"}
"""What is taken of a batch record. A decimal fraction, read as a double, is written as that very fraction again."""

_FIT = f"""
    regexp_full_match(phase, '{PHASE}') and epoch is not null and batch is not null and step is not null
    and list_count(ids) = n and len(ids) = n and (files is null or (list_count(files) = n and len(files) = n))
    and len(losses) = n
"""
_CLASSES_FIT = """
    list_count(labels) = n and list_min(labels) >= 0 and list_max(labels) < len($classes::varchar[])
    and list_count(preds) = n and len(preds) = n and list_min(preds) >= 0 and list_max(preds) < len($classes::varchar[])
    and len(probs) = n and len(flatten(probs)) = n * len(probs[1])
    and if(topk is null, p_labels is null and len(probs[1]) = len($classes::varchar[]), len(topk) = n and len(p_labels) = n)
"""
_NUMBERS_FIT = """
    len(targets) = n and len(outputs) = n
    and list_min(list_transform(targets || outputs, lambda row: len(row))) = len($classes::varchar[])
    and list_max(list_transform(targets || outputs, lambda row: len(row))) = len($classes::varchar[])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What is read of the batch records of a run, and the query that makes rows of them."""

    task: str | None
    """As in the run record."""
    text_ids: bool = False
    """Whether the samples are called by texts, as the record at hand says."""
    extra: bool = False
    """Whether what the caller of the recorder said beside is there: `feedable` has to put it into columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its rows, but for `extra`."""
        return columns_of(self.task)

    @property
    def _types(self) -> dict[str, str]:
        types = dict(_OF_EVERY_TASK)
        if self.text_ids:
            types["ids"] = "VARCHAR[]"
        types |= _OF_NUMBERS if self.task in NUMBERS_TASKS else _OF_CLASSES
        if self.task == "sequence":
            types["positions"] = "BIGINT[]"
        if self.extra:
            types["extra"] = "JSON[]"
        return types

    def visits(self, per_batch: str = "null") -> str:
        """A query for one row per sample and visit of the records in the parameter `lines`; `classes` holds the class names.

        Its columns are `columns` and `extra`, a JSON object; `per_batch`, an expression on phase, epoch, batch and step that is
        worked out once for each batch; and, but where targets are numbers, `written_label` and `written_pred`: the same taken
        from the parameter `written`, the class names as they are to be written.
        """
        return self._of_numbers(per_batch) if self.task in NUMBERS_TASKS else self._of_classes(per_batch)

    def _checked(self, fits: str) -> str:
        parsed = f"select unnest(from_json(line, '{_structure(self._types)}')) from (select unnest($lines::varchar[]) as line)"
        fits = f"{_FIT} and (n = 0 or ({fits}))"
        if self.task == "sequence":
            fits += " and list_count(positions) = n and len(positions) = n"
        if self.extra:
            fits += " and (extra is null or len(extra) = n)"
        return f"""
            select * from (select *, len(losses) as n from ({parsed}))
            where if(coalesce({fits}, false), true, error('record ' || seq))
        """

    def _unnested(self, per_batch: str) -> str:
        """The columns that the rows of every task begin with, and `extra`."""
        return f"""
            phase, epoch, batch, step, {per_batch} as per_batch, unnest(ids) as id,
            unnest(coalesce(files, ids::varchar[])) as file,
            {"unnest(extra)" if self.extra else "null::json"} as extra
        """

    def _of_classes(self, per_batch: str) -> str:
        position = "position," if self.task == "sequence" else ""
        unnested = f"""
            select {self._unnested(per_batch)}, {"unnest(positions) as position," if position else ""}
                unnest(labels) as label, unnest(preds) as pred, unnest(losses) as loss, unnest(probs) as p,
                unnest(topk) as kept, unnest(p_labels) as kept_p_label
            from ({self._checked(_CLASSES_FIT)})
        """
        measured = f"""
            select *, if(kept is null, p[label + 1], kept_p_label) as p_label, if(kept is null, p[pred + 1], p[1]) as p_pred,
                case when label <> pred then if(kept is null, p[pred + 1], p[1])
                     when kept is null then list_max(list_filter(p, lambda x, i: i <> label + 1))
                     else p[2] end as p_other
            from ({unnested})
        """
        return f"""
            select phase, epoch, batch, step, per_batch, id, file, {position}
                $classes[label + 1] as label, $classes[pred + 1] as pred, label = pred and loss is not null as correct,
                p_label, p_pred,
                (-loss - ln(if(p_other < {SMALLEST!r}, {SMALLEST!r}, p_other)))::float as margin, loss as loss_nats, extra,
                $written[label + 1] as written_label, $written[pred + 1] as written_pred
            from ({measured})
        """

    def _of_numbers(self, per_batch: str) -> str:
        right = "list_transform({}, lambda x: x > 0.5)"
        same_sides = f"{right.format('outputs')} = {right.format('targets')}"
        return f"""
            select phase, epoch, batch, step, per_batch, id, file, targets, outputs,
                {f"coalesce({same_sides}, false)" if self.task == "multilabel" else "null::boolean"} as correct, loss, extra
            from (
                select {self._unnested(per_batch)}, unnest(targets) as targets, unnest(outputs) as outputs,
                    unnest(losses) as loss
                from ({self._checked(_NUMBERS_FIT)})
            )
        """


def _structure(types: Mapping[str, str]) -> str:
    """Types as the text that from_json takes."""
    parts = []
    for name, declared in types.items():
        element = declared.rstrip("[]")
        depth = declared.count("[]")
        parts.append(f'"{name}":' + "[" * depth + f'"{element}"' + "]" * depth)
    return "{" + ",".join(parts) + "}"


def locked_database() -> duckdb.DuckDBPyConnection:
    """An empty database in memory that can reach nothing outside. Each thread takes a cursor() of it."""
    import duckdb

    # One thread each: rows come in the order of the records, and whoever wants more cores takes more cursors.
    database = duckdb.connect(config={"threads": 1, "memory_limit": f"{MEMORY_MB}MB", "temp_directory": ""})
    for setting in _OFF:
        database.execute(f"set {setting} = false")
    database.execute("set lock_configuration = true")
    return database


_OFF = (
    "python_enable_replacements",
    "autoinstall_known_extensions",
    "autoload_known_extensions",
    "allow_community_extensions",
    "enable_external_access",
)
_ESCAPE = "\U0010ffff"
_TO_ESCAPE = re.compile("[\ud800-\udfff\U0010ffff]")
_ESCAPED = re.compile(_ESCAPE.encode() + rb"([0-9a-f]{6})")
_HEAD_BYTES = 1024
_UNFIT = re.compile(rb"\\u[dD]|" + _ESCAPE.encode())


def escape(text: str) -> str:
    """`text` without lone surrogates, one to one."""
    return _TO_ESCAPE.sub(lambda found: f"{_ESCAPE}{ord(found[0]):06x}", text)


def unescape(text: str, *, as_json: bool) -> bytes:
    """UTF-8 of what was made of escaped text: lone surrogates are `\\\\udcXX` in JSON, else the bytes they stand for."""
    data = text.encode()
    if _ESCAPE.encode() not in data:
        return data
    return _ESCAPED.sub(lambda found: _character(int(found[1], 16), as_json=as_json), data)


def _character(code: int, *, as_json: bool) -> bytes:
    if code > 0xFFFF:
        return _ESCAPE.encode()
    if as_json:
        return b"\\u%04x" % code
    return chr(code).encode("utf-8", "surrogateescape" if 0xDC80 <= code <= 0xDCFF else "surrogatepass")


def _escaped(value: Any) -> Any:
    """A value of JSON whose texts and names are escaped."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_escaped(one) if isinstance(one, str | list | dict) else one for one in value]
    if isinstance(value, dict):
        return {escape(name): _escaped(one) for name, one in value.items()}
    return value


def has_text_ids(line: Line) -> bool | None:
    """Whether the samples of a batch record are called by texts; None where it has none: sequences that are all padding."""
    start = line.block.find(b',"ids":[', line.start, min(line.end, line.start + _HEAD_BYTES)) + len(b',"ids":[')
    first = line.block[start : start + 1]
    return None if first == b"]" else first == b'"'


def has_extra(line: Line) -> bool:
    """Whether the caller of the recorder said something beside."""
    return line.block.find(b',"extra":{', line.start, line.end) >= 0


def feedable(line: Line, *, extra: bool = False) -> str:
    """The line as DuckDB can read it, with `extra` as one object for each row if that is wanted.

    Raises RecordsError if it is not UTF-8, or where it has to be taken apart and does not fit.
    """
    data = line.data
    # Looking for one byte is quick, and most lines have neither.
    if extra or ((b"\\" in data or b"\xf4" in data) and _UNFIT.search(data)):
        record = line.record()
        if not isinstance(record, Batch | Numbers):
            raise line.error("no batch record")
        fields = {name: value for name, value in loads(data).items() if name not in ("nonfinite", "inputs", "chain")}
        fields["extra"] = [extra_of(record, index) for index in range(len(record.losses))] if extra else None
        return orjson.dumps(_escaped(fields)).decode()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise line.error("not UTF-8") from error
