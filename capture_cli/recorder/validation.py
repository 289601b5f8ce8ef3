"""What a caller hands to a recorder beside the tensors of its task: looked at, and made into plain lists of the recorder's own.

checked_ids(ids, b), checked_files(files, b), checked_extra(extra, b)       # raise UsageError, naming the argument
still_coming(ids, b)                                                        # ids on a device, for which nobody waits
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.writer.columns import described, named

if TYPE_CHECKING:
    import torch

MAX_DEPTH = 8
"""Of lists and objects in each other, in what a caller adds to a record."""


def checked_ids(ids: Any, b: int) -> list[int] | list[str]:
    """The ids of a batch of b samples as a list. Raises UsageError unless they are b integers or b strings."""
    if ids is None or isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__iter__"):
        raise UsageError(f"ids: {named(ids)} is no list of ids", f"give {b} integers or {b} strings, one for each sample")
    names = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if not isinstance(names, list):
        raise UsageError(f"ids: {names!r} is a single value", f"give {b} integers or {b} strings, one for each sample")
    if len(names) != b:
        raise UsageError(f"ids: {len(names)} of them for a batch of {b}", "give one for each sample")
    if not _are_ids(names):
        names = [one.item() if hasattr(one, "item") else one for one in names]  # numpy's numbers and texts, tensors
        if not _are_ids(names):
            raise UsageError(
                f"ids are neither all integers (of 64 bits) nor all strings: {names[0]!r}, ...", "give one kind for all"
            )
    return names


def _are_ids(names: list[Any]) -> bool:
    if type(names[0]) is int:
        return set(map(type, names)) == {int} and -(2**63) <= min(names) <= max(names) < 2**63
    return all(isinstance(one, str) for one in names)


def still_coming(ids: Any, b: int) -> dict[str, torch.Tensor]:
    """Ids that are on a device, to be had with the results, so that nobody waits for them; empty where they are at hand."""
    import torch

    if not isinstance(ids, torch.Tensor) or ids.device.type == "cpu":
        return {}
    if ids.shape != (b,) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UsageError(f"ids {described(ids)} are not {b} integers", "give one for each sample")
    return {"ids": ids.detach().long()}


def checked_files(files: Sequence[str] | None, b: int) -> Sequence[str] | None:
    """The files as a list of their own. Raises UsageError unless they are b strings, or None."""
    if files is None:
        return None
    if isinstance(files, str) or not isinstance(files, Sequence) or not all(isinstance(one, str) for one in files):
        raise UsageError(f"files: {named(files)} is no list of strings", "give one for each sample, or none at all")
    if len(files) != b:
        raise UsageError(f"files: {len(files)} of them for a batch of {b}", "give one for each sample, or none at all")
    return list(files)


def checked_extra(extra: Mapping[str, Sequence[Any]] | None, b: int) -> dict[str, list[Any]] | None:
    """Further columns as lists of plain values. Raises UsageError, naming the column, for what cannot be recorded."""
    if not extra:
        return None
    if not isinstance(extra, Mapping):
        raise UsageError(f"extra: {named(extra)} is no mapping", 'give columns by name, as {"source": [...]}')
    columns = {}
    for name, column in extra.items():
        if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__iter__"):
            raise UsageError(f"extra[{name!r}]: {named(column)} is no column", f"give a list of {b} values")
        values = column.tolist() if hasattr(column, "tolist") else list(column)
        if not isinstance(values, list) or len(values) != b:
            count = len(values) if isinstance(values, list) else "no"
            raise UsageError(f"extra[{name!r}]: {count} values for a batch of {b}", "give one for each sample")
        columns[name] = values
    return plain("extra", columns)


def check_lr(lr: float | None) -> None:
    """Raise UsageError unless a learning rate is a finite number, or None."""
    if lr is not None and not (type(lr) in (int, float) and isfinite(lr)):
        raise UsageError(f"lr: {named(lr)} is no number", "give the learning rate as a float, or leave it out")


def plain(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The same values, which JSON can hold. Raises UsageError, naming the first that it cannot."""
    for key, value in values.items():
        if not isinstance(key, str) or not _is_plain(value, MAX_DEPTH):
            raise UsageError(
                f"{name}[{key!r}]: {_first_odd(value)} cannot be recorded",
                "give texts, numbers that are finite and of 64 bits, true, false, None, and lists and objects of these",
            )
    return values


def _is_plain(value: Any, depth: int) -> bool:
    if value is None or isinstance(value, str | bool):
        return True
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is float:
        return isfinite(value)
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_plain(one, depth - 1) for key, one in value.items())
    return isinstance(value, list | tuple) and depth > 0 and all(_is_plain(one, depth - 1) for one in value)


def _first_odd(value: Any) -> str:
    inside = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else ()
    odd = next((one for one in inside if not _is_plain(one, MAX_DEPTH - 1)), value)
    return named(odd)


def demand(name: str, value: object, fits: object, wanted: str) -> None:
    """Raise UsageError, saying what the argument takes, unless it `fits`."""
    if not fits:
        raise UsageError(f"{name}={value!r} cannot be honoured", f"it takes {wanted}")


def are_names(classes: object) -> bool:
    """Whether these are texts, each once."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        return False
    names = list(classes)
    return bool(names) and all(isinstance(one, str) for one in names) and len(set(names)) == len(names)
