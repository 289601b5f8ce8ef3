"""The values of a record as JSON text, and back.

    text = dumps({"losses": array, "numbers": {"kl": array}})
    to_field("losses", loads(text)["losses"], nonfinite=["nan"])

JSON has no NaN or infinity: such a number is null, and `nonfinite_values` lists what the nulls of a field stand for, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from capture_cli.errors import RecordsError

if TYPE_CHECKING:
    from capture_cli.records import Inputs

FLOATS = {"losses", "probs", "p_labels", "targets", "outputs"}
_INTS = {"labels", "preds", "topk", "positions", "repeats", "counted", "ignored", "correct", "confusions_omitted"}
_TABLES = {"probs", "topk", "targets", "outputs"}
"""Columns of shape [B, K]. A batch of sequences may be all padding: they keep two dimensions where B is 0."""
NAMED = {"numbers", "batch_numbers"}
"""Objects of numbers, or of columns of numbers, by name."""


def loads(line: bytes) -> dict[str, Any]:
    """Parse one line into plain Python values. Raises RecordsError unless it is a JSON object."""
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            body = json.loads(line.decode("utf-8"))  # orjson refuses the lone surrogates of names that are not UTF-8
        except (ValueError, RecursionError) as error:
            raise RecordsError("the line is not JSON") from error
    if not isinstance(body, dict):
        raise RecordsError("the line is not a JSON object")
    return body


def inputs_to_json(inputs: Inputs) -> dict[str, Any]:
    """Return the JSON object of `inputs`, without the fields that are not set."""
    body: dict[str, Any] = {"shape": inputs.shape, "dtype": inputs.dtype, "digests": inputs.digests}
    if inputs.values is not None:
        body["values"] = inputs.values
    if inputs.stored is not None:
        body["stored"] = inputs.stored
    if inputs.not_stored:
        body["not_stored"] = inputs.not_stored
    return body


def dumps(body: dict[str, Any]) -> bytes:
    """Return a JSON object as bytes. Names that are not UTF-8 are written as `\\udcXX`."""
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # orjson refuses surrogates, json writes them
        return orjson.dumps({key: _escaped(value) for key, value in body.items()}, option=orjson.OPT_SERIALIZE_NUMPY)


def _escaped(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value
    if isinstance(value, Mapping) and any(isinstance(one, np.ndarray) for one in value.values()):
        return value  # numbers by name, which are ASCII
    return orjson.Fragment(json.dumps(value, separators=(",", ":"), allow_nan=False))


def is_finite(value: Any) -> bool:
    """Test a number or array by its sum of squares, which is quicker than searching the text for null."""
    if isinstance(value, np.ndarray):
        return isfinite(np.vdot(value, value))  # warns of no overflow, unlike dot
    if isinstance(value, float | int | np.number):
        return isfinite(value)
    return value is None or all(map(is_finite, value.values()))


def nonfinite_values(value: Any) -> list[str]:
    """List what the nulls of a number, an array or an object of them stand for, in order: nan, inf or -inf."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in nonfinite_values(one)]
    array = np.asarray(value)
    return [str(v) for v in array[~np.isfinite(array)].tolist()]


def to_field(name: str, value: Any, nonfinite: Sequence[str]) -> Any:
    """Return the value of a field: arrays as float32 and int64, with what its nulls stand for."""
    if value is None and not nonfinite:
        return None
    if name in NAMED and isinstance(value, dict):
        return _to_named(value, iter(nonfinite))
    if name not in FLOATS and name not in _INTS:
        return float(nonfinite[0]) if nonfinite else value
    array = _to_array(value, np.float32 if name in FLOATS else np.int64)
    if nonfinite:
        array[np.isnan(array)] = np.array(nonfinite, np.float32)
    return array if array.size or name not in _TABLES else array.reshape(0, 0)


def _to_array(value: Any, dtype: type[np.float32] | type[np.int64]) -> Any:
    with np.errstate(over="ignore"):  # a number too large for float32 reads as infinite
        return np.array(value, dtype)  # null reads as nan


def _to_named(values: dict[str, Any], nonfinite: Iterator[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            named[name] = _to_array(value, np.float32)
            for row in np.flatnonzero(np.isnan(named[name])):
                named[name][row] = float(next(nonfinite))
        else:
            number = float("nan" if value is None else value)
            named[name] = float(next(nonfinite)) if isnan(number) else number
    return named
