"""Batch records as a SQL table, one row per sample and visit, in a DuckDB that can reach nothing but the lines it is given.

    database = locked_database()
    sql = f"select file, loss_nats from ({visits()}) where not correct"
    database.execute(sql, {"lines": [feedable(line) for line in lines], "classes": [escape(name) for name in run.classes]})

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
from typing import TYPE_CHECKING

from capture_cli.answers.visits import SMALLEST
from capture_cli.fields import PHASE
from capture_cli.records import loads

if TYPE_CHECKING:
    import duckdb

    from capture_cli.reader import Line

MEMORY_MB = 1024

_TYPES = {
    "seq": "BIGINT",
    "phase": "VARCHAR",
    "epoch": "BIGINT",
    "batch": "BIGINT",
    "step": "BIGINT",
    "ids": "BIGINT[]",
    "files": "VARCHAR[]",
    "labels": "BIGINT[]",
    "preds": "BIGINT[]",
    "losses": "DOUBLE[]",
    "probs": "DOUBLE[][]",
    "tops": "BIGINT[][]",
    "p_labels": "DOUBLE[]",
}
"""What is taken of a batch record. A decimal fraction, read as a double, is written as that very fraction again."""


def _structure() -> str:
    """_TYPES as the text that from_json takes."""
    parts = []
    for name, declared in _TYPES.items():
        element = declared.rstrip("[]")
        depth = declared.count("[]")
        parts.append(f'"{name}":' + "[" * depth + f'"{element}"' + "]" * depth)
    return "{" + ",".join(parts) + "}"


_PARSED = f"select unnest(from_json(line, '{_structure()}')) from (select unnest($lines::varchar[]) as line)"

_FITS = f"""
    regexp_full_match(phase, '{PHASE}') and epoch is not null and batch is not null and step is not null
    and list_count(ids) = n and len(ids) = n
    and list_count(files) = n and len(files) = n
    and list_count(labels) = n and list_min(labels) >= 0 and list_max(labels) < len($classes::varchar[])
    and list_count(preds) = n and len(preds) = n and list_min(preds) >= 0 and list_max(preds) < len($classes::varchar[])
    and len(losses) = n and len(probs) = n and len(flatten(probs)) = n * len(probs[1])
    and if(tops is null, p_labels is null and len(probs[1]) = len($classes::varchar[]), len(tops) = n and len(p_labels) = n)
"""

_CHECKED = f"""
    select * from (select *, len(labels) as n from ({_PARSED}))
    where if(coalesce({_FITS}, false), true, error('record ' || seq))
"""


def visits(per_batch: str = "null") -> str:
    """A query for one row per sample and visit of the batch records in the parameter `lines`; `classes` holds the class names.

    Its columns are those of capture_cli.answers.visits.Visit, and `per_batch`: an expression on phase, epoch, batch and step
    that is worked out once for each batch.
    """
    unnested = f"""
        select phase, epoch, batch, step, {per_batch} as per_batch, unnest(ids) as id, unnest(files) as file,
            unnest(labels) as label, unnest(preds) as pred, unnest(losses) as loss, unnest(probs) as p,
            unnest(tops) as kept, unnest(p_labels) as kept_p_label
        from ({_CHECKED})
    """
    measured = f"""
        select *, if(kept is null, p[label + 1], kept_p_label) as p_label, if(kept is null, p[pred + 1], p[1]) as p_pred,
            case when label <> pred then if(kept is null, p[pred + 1], p[1])
                 when kept is null then list_max(list_filter(p, lambda x, i: i <> label + 1))
                 else p[2] end as p_other
        from ({unnested})
    """
    return f"""
        select phase, epoch, batch, step, per_batch, id, file, $classes[label + 1] as label, $classes[pred + 1] as pred,
            label = pred as correct, p_label, p_pred,
            (-loss - ln(if(p_other < {SMALLEST!r}, {SMALLEST!r}, p_other)))::float as margin, loss as loss_nats
        from ({measured})
    """


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


def feedable(line: Line) -> str:
    """The line as DuckDB can read it. Raises RecordsError if it is not UTF-8, or where names must be escaped but do not fit."""
    data = line.data
    # Looking for one byte is quick, and most lines have neither.
    if (b"\\" in data or b"\xf4" in data) and _UNFIT.search(data):
        import orjson

        line.record()
        body = loads(data)
        fields = {name: body[name] for name in _TYPES if name in body}
        fields["phase"] = escape(body["phase"])
        fields["files"] = [escape(file) for file in body["files"]]
        return orjson.dumps(fields).decode()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise line.error("not UTF-8") from error
