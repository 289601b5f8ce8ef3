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
from capture_cli.records import Batch, End, Epoch, Numbers, Record, RunInfo, Samples, Skip

_MAX_DEPTH = 8
PHASE = "[a-z0-9_-]{1,32}"
"""How a phase may be called, as a regular expression."""


def check(record: Record) -> None:
    """Raise RecordsError where the fields of a record are not what the format says, or its columns do not fit together."""
    wrong = [name for name, right in _FIELDS[type(record)].items() if not right(getattr(record, name))]
    if not wrong and isinstance(record, Samples | Batch | Numbers):
        columns = [name for name in _FIELDS[type(record)] if name in _COLUMNS and getattr(record, name) is not None]
        n = len(record.losses if isinstance(record, Numbers) else record.labels)
        wrong = [name for name in columns if len(getattr(record, name)) != n]
    if not wrong and isinstance(record, Batch | Numbers):
        wrong = _unfit(record)
    if wrong:
        raise RecordsError(f"a {record.kind} record whose fields do not fit: {', '.join(wrong)}")


def _unfit(batch: Batch | Numbers) -> list[str]:
    """The fields that do not fit the others."""
    wrong = []
    sequences = batch.sequences if isinstance(batch, Batch) else None
    samples = len(batch.ids) if sequences is None else len(sequences["ids"])
    if isinstance(batch, Numbers):
        wrong += ["outputs"] * (batch.outputs.shape != batch.targets.shape)
    else:  # the kept probabilities are said what classes they are of
        fits = (batch.topk is None) == (batch.p_labels is None) and (
            batch.topk is None or batch.topk.shape == batch.probs.shape
        )
        wrong += ["probs"] * (not fits)
        wrong += ["positions"] * ((batch.positions is None) != (sequences is None))
        if sequences is not None:
            wrong += ["sequences"] * (len(sequences["counted"]) != samples or sum(sequences["counted"]) != len(batch.ids))
    wrong += ["inputs"] * (len(batch.inputs.digests) != samples)
    wrong += ["extra"] * any(len(column) != samples for column in (batch.extra or {}).values())
    return wrong


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


def _are_ids(value: Any) -> bool:
    return _list_of(_is_whole)(value) or _list_of(_is_text)(value)


def _are_files(value: Any) -> bool:
    return value is None or _list_of(_is_text)(value)


def _is_extra(value: Any) -> bool:
    return value is None or (_is_object(value) and all(isinstance(column, list) for column in value.values()))


def _are_sequences(value: Any) -> bool:
    if value is None:
        return True
    known = isinstance(value, dict) and value.keys() >= {"ids", "length", "counted", "ignore_index"}
    return known and _are_ids(value["ids"]) and _list_of(_is_whole)(value["counted"]) and _is_whole(value["length"])


_OF_ANY_BATCH: dict[str, Callable[[Any], bool]] = {
    "phase": _is_phase,
    **dict.fromkeys(("epoch", "batch", "step", "rank"), _is_whole),
    "loss": _is_number,
    "lr": lambda value: value is None or _is_number(value),
    "ids": _are_ids,
    "files": _are_files,
    "extra": _is_extra,
    "flight": lambda value: value is None or _is_object(value),
    "inputs": _is_inputs,
}
_FIELDS: dict[type[Any], dict[str, Callable[[Any], bool]]] = {
    RunInfo: {
        **dict.fromkeys(("folder", "device"), _is_text),
        **dict.fromkeys(("config", "images", "model", "recipe", "versions"), _is_object),
        "classes": lambda value: value != [] and _list_of(_is_text)(value),
        "task": lambda value: value is None or value in ("sequence", "multilabel", "regression"),
        "threads": _is_whole,
    },
    Skip: dict.fromkeys(("file", "reason", "detail"), _is_text),
    Samples: {
        **dict.fromkeys(("ids", "sizes"), _list_of(_is_whole)),
        "labels": _array(1),
        **dict.fromkeys(("files", "splits", "digests"), _list_of(_is_text)),
    },
    Batch: {
        **_OF_ANY_BATCH,
        "positions": _array(1, optional=True),
        **dict.fromkeys(("labels", "preds", "losses"), _array(1)),
        "probs": _array(2),
        "topk": _array(2, optional=True),
        "p_labels": _array(1, optional=True),
        "sequences": _are_sequences,
    },
    Numbers: {**_OF_ANY_BATCH, **dict.fromkeys(("targets", "outputs"), _array(2)), "losses": _array(1)},
    Epoch: {
        "phase": _is_phase,
        **dict.fromkeys(("epoch", "n", "captured", "not_captured"), _is_whole),
        "loss": _is_number,
        "accuracy": lambda value: value is None or _is_number(value),
    },
    End: {"status": _is_text, "counts": _is_object},
}
"""What each field must be, by kind."""
_COLUMNS = {
    *{"ids", "files", "positions", "labels", "splits", "sizes", "digests", "preds", "losses", "probs", "topk", "p_labels"},
    *{"targets", "outputs"},
}
"""Fields with one value for each sample of the record."""
