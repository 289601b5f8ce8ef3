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
from capture_cli.records import AnyBatch, Batch, End, Epoch, Measures, Numbers, Record, RunInfo, Samples, Skip

_MAX_DEPTH = 8
PHASE = "[a-z0-9_-]{1,32}"
"""The name of a phase, as a regular expression."""
NUMBER_NAME = "[A-Za-z_][A-Za-z0-9_]{0,63}"
"""The name of a number that a caller records, as a regular expression."""
TASKS = ("sequence", "multilabel", "regression", "segmentation", "loss")
"""Tasks that a run record names; without one it is classification."""


def check(record: Record) -> None:
    """Raise RecordsError where a field is not what the format says, or the columns do not fit together."""
    checks = _FIELDS[type(record)]
    wrong = [name for name, is_valid in checks.items() if not is_valid(getattr(record, name))]
    if not wrong and isinstance(record, Samples | Batch | Numbers | Measures):
        columns = [name for name in checks if name in _COLUMNS and getattr(record, name) is not None]
        own = {Numbers: "losses", Measures: "ids"}.get(type(record), "labels")
        n = len(getattr(record, own))
        wrong = [name for name in columns if len(getattr(record, name)) != n]
    if not wrong and isinstance(record, RunInfo) and not record.classes and record.task != "loss":
        wrong = ["classes"]
    if not wrong and isinstance(record, Batch | Numbers | Measures):
        wrong = _inconsistent(record)
    if wrong:
        raise RecordsError(f"a {record.kind} record whose fields do not fit: {', '.join(wrong)}")


def _inconsistent(batch: AnyBatch) -> list[str]:
    """List the fields that contradict others."""
    wrong = []
    sequences = batch.sequences if isinstance(batch, Batch) else None
    samples = len(batch.ids) if sequences is None else len(sequences["ids"])
    if isinstance(batch, Numbers):
        wrong += ["outputs"] * (batch.outputs.shape != batch.targets.shape)
    elif isinstance(batch, Measures):
        wrong += _inconsistent_masks(batch)
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
    wrong += ["numbers"] * any(len(column) != samples for column in (batch.numbers or {}).values())
    return wrong


def _inconsistent_masks(batch: Measures) -> list[str]:
    """List the fields of a segmentation that contradict others: it has all of them, and the counts of an image agree."""
    columns = (batch.present, batch.labelled, batch.intersections, batch.unions, batch.confusions)
    given = (*columns, batch.counted, batch.ignored, batch.correct, batch.confusions_omitted)
    if all(one is None for one in given):
        return ["masks"] * (batch.masks is not None)
    if any(one is None for one in (*given, batch.losses)):
        return ["counted"]
    widths = [list(map(len, one or ())) for one in columns[:4]]
    return [] if widths.count(widths[0]) == 4 else ["present"]


Check = Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_phase(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(PHASE, value))


def _are_ints(value: Any) -> bool:
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        return False
    return min(value, default=0) >= -(2**63) and max(value, default=0) < 2**63


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {str}


def _are_hex(digits: int) -> Check:
    return lambda value: (
        _are_texts(value)
        and set(map(len, value)) <= {digits}
        and not "".join(value).encode(errors="replace").translate(None, b"0123456789abcdef")
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
    return _are_ints(value.shape) and _is_text(value.dtype) and _are_texts(value.digests)


def _are_ids(value: Any) -> bool:
    return _are_ints(value) or _are_texts(value)


def _is_extra(value: Any) -> bool:
    return _is_object(value) and all(isinstance(column, list) for column in value.values())


def _are_sequences(value: Any) -> bool:
    known = isinstance(value, dict) and value.keys() >= {"ids", "padded_length", "n_valid", "ignore_index"}
    return known and _are_ids(value["ids"]) and _are_ints(value["n_valid"]) and _is_int(value["padded_length"])


def _is_fold(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"number", "of"} or not all(map(_is_int, value.values())):
        return False
    return bool(1 <= value["number"] <= value["of"])


def _is_mix(value: Any) -> bool:
    known = isinstance(value, dict) and value.keys() >= {"method", "weight", "partners", "labels"}
    return known and _is_number(value["weight"]) and all(_are_ints(value[name]) for name in ("partners", "labels"))


def _are_soft_labels(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"classes", "weights"}:
        return False
    classes, weights = value["classes"], value["weights"]
    same = _list_of(_are_ints)(classes) and _list_of(_list_of(_is_number))(weights)
    return same and list(map(len, classes)) == list(map(len, weights))


def _are_named(value: Any) -> bool:
    """Test for an object of numbers or columns of numbers, whose names cannot be taken for fields."""
    if not isinstance(value, dict) or not all(re.fullmatch(NUMBER_NAME, name) for name in value):
        return False
    return not RESERVED.intersection(map(str.lower, value)) and all(
        isinstance(one, float) or _array(1)(one) for one in value.values()
    )


def _are_means(value: Any) -> bool:
    if not isinstance(value, dict) or not all(re.fullmatch(NUMBER_NAME, name) for name in value):
        return False
    return all(isinstance(one, dict) and one.keys() == {"mean", "n"} and _is_int(one["n"]) for one in value.values()) and all(
        _optional(_is_number)(one["mean"]) for one in value.values()
    )


def _is_mask(value: Any) -> bool:
    known = _is_object(value) and value.keys() >= {"shape", "dtype", "digests"}
    return known and _are_ints(value["shape"]) and all(map(_is_text, (value["dtype"], *value["digests"])))


def _are_class_counts(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"labelled", "predicted", "correct"}:
        return False
    columns = value.values()
    return all(_are_ints(one) and min(one, default=0) >= 0 for one in columns) and len(set(map(len, columns))) == 1


_COUNTS = _list_of(lambda value: _is_int(value) and value >= 0)
_ANY_BATCH: dict[str, Check] = {
    "phase": _is_phase,
    **dict.fromkeys(("epoch", "batch", "step", "rank"), _is_int),
    "loss": _is_number,
    "lr": _optional(_is_number),
    "ids": _are_ids,
    "files": _optional(_are_texts),
    "extra": _optional(_is_extra),
    "numbers": _optional(_are_named),
    "batch_numbers": _optional(_are_named),
    "flight": _optional(_is_object),
    "inputs": _is_inputs,
}
_FIELDS: dict[type[Any], dict[str, Check]] = {
    RunInfo: {
        **dict.fromkeys(("folder", "device"), _is_text),
        **dict.fromkeys(("config", "images", "model", "recipe", "versions"), _is_object),
        "classes": _are_texts,
        "fold": _optional(_is_fold),
        "number_names": _optional(
            _list_of(lambda one: _is_text(one) and bool(re.fullmatch(NUMBER_NAME, one)) and one.lower() not in RESERVED)
        ),
        "label_rule": _optional(_is_text),
        "task": _optional(TASKS.__contains__),
        "class_weights": _optional(_list_of(_is_number)),
        "threads": _is_int,
    },
    Skip: dict.fromkeys(("file", "reason", "detail"), _is_text),
    Samples: {
        **dict.fromkeys(("ids", "sizes"), _are_ints),
        "labels": _array(1),
        **dict.fromkeys(("files", "splits"), _are_texts),
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
    Measures: {
        **_ANY_BATCH,
        **dict.fromkeys(("losses", "counted", "ignored", "correct", "confusions_omitted"), _optional(_array(1))),
        **dict.fromkeys(("present", "labelled", "intersections", "unions"), _optional(_list_of(_COUNTS))),
        "confusions": _optional(_list_of(_list_of(lambda pair: _COUNTS(pair) and len(pair) == 3))),
        "masks": _optional(lambda value: isinstance(value, dict) and all(map(_is_mask, value.values()))),
    },
    Epoch: {
        "phase": _is_phase,
        **dict.fromkeys(("epoch", "n", "captured", "not_captured"), _is_int),
        "loss": _is_number,
        "accuracy": _optional(_is_number),
        "step": _optional(_is_int),
        "class_counts": _optional(_are_class_counts),
        "number_means": _optional(_are_means),
        "padded": _optional(_is_int),
    },
    End: {"status": _is_text, "counts": _is_object},
}
_COLUMNS = {
    *{"ids", "files", "positions", "labels", "splits", "sizes", "digests", "pixels", "phash"},
    *{"preds", "losses", "probs", "topk", "p_labels", "targets", "outputs", "repeats"},
    *{"counted", "ignored", "correct", "present", "labelled", "intersections", "unions", "confusions", "confusions_omitted"},
}
"""Fields with one value per sample of the record."""
RESERVED: set[str] = {
    *{name for kind in (Batch, Numbers, Measures) for name in _FIELDS[kind]},
    *{"id", "file", "label", "pred", "position", "p_label", "p_pred", "margin", "loss_nats", "batch_loss", "accuracy", "n"},
    *{"mean_iou", "seq", "kind", "chain", "nonfinite", "named", "whole_loss", "line", "one"},
}
"""Names that a caller's number cannot have: fields of records, and columns of tables."""
