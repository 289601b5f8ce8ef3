"""What each field of a record must be, and which columns must have the same length: for records that others wrote.

    seq, record = decode(line)
    check(record)                   # raises RecordsError, naming the fields, where they are not what the format says

`records.decode` makes arrays and objects of JSON; what is in them is looked at here. Numbers of classes are not: that needs the
run record as well.
"""

import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from capture_cli.errors import RecordsError
from capture_cli.records import Batch, End, Epoch, Record, Run, Samples, Skip

_MAX_DEPTH = 8
PHASE = "[a-z0-9_-]{1,32}"
"""How a phase may be called, as a regular expression."""


def check(record: Record) -> None:
    """Raise RecordsError where the fields of a record are not what the format says, or its columns do not fit together."""
    wrong = [name for name, right in _FIELDS[type(record)].items() if not right(getattr(record, name))]
    if not wrong and isinstance(record, Samples | Batch):
        columns = [name for name in _FIELDS[type(record)] if name in _COLUMNS and getattr(record, name) is not None]
        wrong = [name for name in columns if len(getattr(record, name)) != len(record.labels)]
    if not wrong and isinstance(record, Batch) and not _fits(record):
        wrong = ["probs"]
    if wrong:
        raise RecordsError(f"a {record.kind} record whose fields do not fit: {', '.join(wrong)}")


def _fits(batch: Batch) -> bool:
    """Whether the kept probabilities are said what classes they are of."""
    if (batch.tops is None) != (batch.p_labels is None):
        return False
    return batch.tops is None or batch.tops.shape == batch.probs.shape


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _is_phase(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(PHASE, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and _is_plain(value, _MAX_DEPTH)


def _is_plain(value: Any, depth: int) -> bool:
    """JSON that can be written again: finite, and not so deep that going through it is a danger."""
    if isinstance(value, list | dict):
        inside = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(one, depth - 1) for one in inside)
    return not isinstance(value, float) or isfinite(value)


def _list_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(right, value))


def _array(dimensions: int, *, optional: bool = False) -> Callable[[Any], bool]:
    return lambda value: value.ndim == dimensions if value is not None else optional


def _is_inputs(value: Any) -> bool:
    return _list_of(_is_whole)(value.shape) and _is_text(value.dtype) and _list_of(_is_text)(value.digests)


_FIELDS: dict[type[Any], dict[str, Callable[[Any], bool]]] = {
    Run: {
        **dict.fromkeys(("folder", "device"), _is_text),
        **dict.fromkeys(("config", "images", "model", "recipe", "versions"), _is_object),
        "classes": lambda value: value != [] and _list_of(_is_text)(value),
        "threads": _is_whole,
    },
    Skip: dict.fromkeys(("file", "reason", "detail"), _is_text),
    Samples: {
        **dict.fromkeys(("ids", "sizes"), _list_of(_is_whole)),
        "labels": _array(1),
        **dict.fromkeys(("files", "splits", "digests"), _list_of(_is_text)),
    },
    Batch: {
        "phase": _is_phase,
        **dict.fromkeys(("epoch", "batch", "step", "rank"), _is_whole),
        "loss": _is_number,
        "lr": lambda value: value is None or _is_number(value),
        "ids": _list_of(_is_whole),
        "files": _list_of(_is_text),
        **dict.fromkeys(("labels", "preds", "losses"), _array(1)),
        "probs": _array(2),
        "tops": _array(2, optional=True),
        "p_labels": _array(1, optional=True),
        "flight": lambda value: value is None or _is_object(value),
        "inputs": _is_inputs,
    },
    Epoch: {
        "phase": _is_phase,
        **dict.fromkeys(("epoch", "n", "captured", "not_captured"), _is_whole),
        **dict.fromkeys(("loss", "accuracy"), _is_number),
    },
    End: {"status": _is_text, "counts": _is_object},
}
"""What each field must be, by kind."""
_COLUMNS = {"ids", "files", "labels", "splits", "sizes", "digests", "preds", "losses", "probs", "tops", "p_labels"}
"""Fields with one value for each sample of the record."""
