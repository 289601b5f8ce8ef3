"""The validation of records that others wrote: the type of each field, and columns of equal length.

    seq, record = decode(line)
    check(record)                   # raises RecordsError that names the fields

`records.decode` turns JSON into arrays and objects; their contents are checked here. Class numbers are not: that needs the run
record as well.
"""

import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from capture_cli.errors import RecordsError
from capture_cli.records import Batch, End, Epoch, Numbers, Record, RunInfo, Samples, Skip

_MAX_DEPTH = 8
PHASE = "[a-z0-9_-]{1,32}"
"""The name of a phase, as a regular expression."""


def check(record: Record) -> None:
    """Raise RecordsError where a field is not what the format says, or the columns do not fit together."""
    checks = _FIELDS[type(record)]
    wrong = [name for name, is_valid in checks.items() if not is_valid(getattr(record, name))]
    if not wrong and isinstance(record, Samples | Batch | Numbers):
        columns = [name for name in checks if name in _COLUMNS and getattr(record, name) is not None]
        n = len(record.losses if isinstance(record, Numbers) else record.labels)
        wrong = [name for name in columns if len(getattr(record, name)) != n]
    if not wrong and isinstance(record, Batch | Numbers):
        wrong = _inconsistent(record)
    if wrong:
        raise RecordsError(f"a {record.kind} record whose fields do not fit: {', '.join(wrong)}")


def _inconsistent(batch: Batch | Numbers) -> list[str]:
    """List the fields that contradict others."""
    wrong = []
    sequences = batch.sequences if isinstance(batch, Batch) else None
    samples = len(batch.ids) if sequences is None else len(sequences["ids"])
    if isinstance(batch, Numbers):
        wrong += ["outputs"] * (batch.outputs.shape != batch.targets.shape)
    else:
        has_topk = batch.topk is not None
        fits = has_topk == (batch.p_labels is not None) and (batch.topk is None or batch.topk.shape == batch.probs.shape)
        wrong += ["probs"] * (not fits)
        wrong += ["positions"] * ((batch.positions is None) != (sequences is None))
        if sequences is not None:
            valid = sequences["n_valid"]
            wrong += ["sequences"] * (len(valid) != samples or sum(valid) != len(batch.ids))
        mix = batch.mix or {"partners": batch.labels, "labels": batch.labels}
        wrong += ["soft_labels"] * (len((batch.soft_labels or {"classes": batch.labels})["classes"]) != len(batch.labels))
        wrong += ["mix"] * (not len(mix["partners"]) == len(mix["labels"]) == len(batch.labels))
    wrong += ["inputs"] * (len(batch.inputs.digests) != samples)
    wrong += ["extra"] * any(len(column) != samples for column in (batch.extra or {}).values())
    return wrong


Check = Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_phase(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(PHASE, value))


def _are_hex(digits: int) -> Check:
    return lambda value: (
        _list_of(_is_text)(value) and set(map(len, value)) <= {digits} and bool(re.fullmatch("[0-9a-f]*", "".join(value)))
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and _is_plain(value, _MAX_DEPTH)


def _is_plain(value: Any, depth: int) -> bool:
    """Test for JSON that can be written again: finite, and not so deep that recursion is a danger."""
    if isinstance(value, list | dict):
        inside = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(one, depth - 1) for one in inside)
    return not isinstance(value, float) or isfinite(value)


def _list_of(is_valid: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(is_valid, value))


def _optional(is_valid: Check) -> Check:
    return lambda value: value is None or is_valid(value)


def _array(dimensions: int) -> Check:
    return lambda value: value is not None and value.ndim == dimensions


def _is_inputs(value: Any) -> bool:
    return _list_of(_is_int)(value.shape) and _is_text(value.dtype) and _list_of(_is_text)(value.digests)


def _are_ids(value: Any) -> bool:
    return _list_of(_is_int)(value) or _list_of(_is_text)(value)


def _is_extra(value: Any) -> bool:
    return _is_object(value) and all(isinstance(column, list) for column in value.values())


def _are_sequences(value: Any) -> bool:
    known = isinstance(value, dict) and value.keys() >= {"ids", "padded_length", "n_valid", "ignore_index"}
    return known and _are_ids(value["ids"]) and _list_of(_is_int)(value["n_valid"]) and _is_int(value["padded_length"])


def _is_fold(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"number", "of"} or not all(map(_is_int, value.values())):
        return False
    return bool(1 <= value["number"] <= value["of"])


def _is_mix(value: Any) -> bool:
    known = isinstance(value, dict) and value.keys() >= {"method", "weight", "partners", "labels"}
    return known and _is_number(value["weight"]) and all(_list_of(_is_int)(value[name]) for name in ("partners", "labels"))


def _are_soft_labels(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"classes", "weights"}:
        return False
    classes, weights = value["classes"], value["weights"]
    same = _list_of(_list_of(_is_int))(classes) and _list_of(_list_of(_is_number))(weights)
    return same and list(map(len, classes)) == list(map(len, weights))


def _are_class_counts(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"labelled", "predicted", "correct"}:
        return False
    columns = value.values()
    return all(_list_of(_is_int)(one) and min(one, default=0) >= 0 for one in columns) and len(set(map(len, columns))) == 1


_ANY_BATCH: dict[str, Check] = {
    "phase": _is_phase,
    **dict.fromkeys(("epoch", "batch", "step", "rank"), _is_int),
    "loss": _is_number,
    "lr": _optional(_is_number),
    "ids": _are_ids,
    "files": _optional(_list_of(_is_text)),
    "extra": _optional(_is_extra),
    "flight": _optional(_is_object),
    "inputs": _is_inputs,
}
_FIELDS: dict[type[Any], dict[str, Check]] = {
    RunInfo: {
        **dict.fromkeys(("folder", "device"), _is_text),
        **dict.fromkeys(("config", "images", "model", "recipe", "versions"), _is_object),
        "classes": lambda value: value != [] and _list_of(_is_text)(value),
        "fold": _optional(_is_fold),
        "label_rule": _optional(_is_text),
        "task": _optional(("sequence", "multilabel", "regression").__contains__),
        "class_weights": _optional(_list_of(_is_number)),
        "threads": _is_int,
    },
    Skip: dict.fromkeys(("file", "reason", "detail"), _is_text),
    Samples: {
        **dict.fromkeys(("ids", "sizes"), _list_of(_is_int)),
        "labels": _array(1),
        **dict.fromkeys(("files", "splits"), _list_of(_is_text)),
        "digests": _are_hex(32),
        "pixels": _optional(_are_hex(16)),
        "phash": _optional(_are_hex(32)),
    },
    Batch: {
        **_ANY_BATCH,
        "positions": _optional(_array(1)),
        **dict.fromkeys(("labels", "preds", "losses"), _array(1)),
        "probs": _array(2),
        "topk": _optional(_array(2)),
        "p_labels": _optional(_array(1)),
        "sequences": _optional(_are_sequences),
        "repeats": _optional(_array(1)),
        "mix": _optional(_is_mix),
        "soft_labels": _optional(_are_soft_labels),
    },
    Numbers: {**_ANY_BATCH, **dict.fromkeys(("targets", "outputs"), _array(2)), "losses": _array(1)},
    Epoch: {
        "phase": _is_phase,
        **dict.fromkeys(("epoch", "n", "captured", "not_captured"), _is_int),
        "loss": _is_number,
        "accuracy": _optional(_is_number),
        "step": _optional(_is_int),
        "class_counts": _optional(_are_class_counts),
    },
    End: {"status": _is_text, "counts": _is_object},
}
_COLUMNS = {
    *{"ids", "files", "positions", "labels", "splits", "sizes", "digests", "pixels", "phash"},
    *{"preds", "losses", "probs", "topk", "p_labels", "targets", "outputs", "repeats"},
}
"""Fields with one value per sample of the record."""
