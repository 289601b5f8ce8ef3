"""Check the arguments of a recorder, and copy those beside the tensors into plain lists.

    b = check_tensors(task, inputs, Forward(logits, labels, losses, loss))
    ids = check_ids(ids, b)
    files, extra = check_files(files, b), check_extra(extra, b)

Every check raises UsageError that names the argument, its value or shape, and what fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.writer.columns import CLASS_TASKS, CLASSIFICATION, TASKS, Forward

if TYPE_CHECKING:
    import torch

MAX_DEPTH = 8
"""Nesting of lists and objects in the plain values of a record."""
_EXPECTED = {
    CLASSIFICATION: "logits [B, C] and labels [B], integers",
    "sequence": "logits [B, T, C] and labels [B, T], integers",
    "multilabel": "logits [B, K] or [B] and labels of the same shape, 0 and 1",
    "regression": "logits [B, K] or [B] and labels of the same shape",
}


def check_tensors(task: str, inputs: torch.Tensor, forward: Forward) -> int:
    """Check types and shapes of the tensors of a batch; return B."""
    import torch

    logits, labels, losses, loss = forward
    for name, value in (("inputs", inputs), ("logits", logits), ("labels", labels), ("losses", losses)):
        if not isinstance(value, torch.Tensor) and not (value is None and name == "losses"):
            raise UsageError(f"{name}: {short(value)} is not a tensor", f"task {task} takes {_EXPECTED[task]}")
    shape = logits.shape
    if not logits.is_floating_point() or not _fits(task, shape, labels):
        raise UsageError(
            f"logits {describe(logits)} and labels {describe(labels)} do not fit together",
            f"task {task} takes {_EXPECTED[task]}{_suggestion(task, logits, labels)}",
        )
    if labels.device != logits.device:
        raise UsageError(
            f"labels are on {labels.device}, logits on {logits.device}", "pass both as the loss function gets them"
        )
    if not shape.numel():
        raise UsageError(f"logits {describe(logits)} are empty", "skip empty batches")
    b = len(logits)
    if not inputs.ndim or len(inputs) != b:
        raise UsageError(
            f"inputs {describe(inputs)} do not match the {b} samples of the logits", "pass them as the model got them, [B, ...]"
        )
    if losses is not None and losses.shape != (rows := labels.shape[: 2 if task == "sequence" else 1]):
        raise UsageError(
            f"losses {describe(losses)} are not one per sample, {list(rows)}", 'use reduction="none", or omit them'
        )
    if loss is not None and not (loss.ndim == 0 if isinstance(loss, torch.Tensor) else type(plain(loss)) in (int, float)):
        given = describe(loss) if isinstance(loss, torch.Tensor) else short(loss)
        raise UsageError(f"loss: {given} is not a single number", "pass the scalar that is differentiated, or omit it")
    return b


def _fits(task: str, logits: torch.Size, labels: torch.Tensor) -> bool:
    if task in CLASS_TASKS:
        integers = not (labels.is_floating_point() or labels.is_complex())
        return len(logits) == (2 if task == CLASSIFICATION else 3) and labels.shape == logits[:-1] and integers
    return labels.shape == logits and len(logits) in (1, 2) and not labels.is_complex()


def _suggestion(task: str, logits: torch.Tensor, labels: torch.Tensor) -> str:
    """Return a further clause of the hint if the intention can be guessed."""
    shape = logits.shape
    if not logits.is_floating_point():
        return "; logits are floating-point numbers"
    if task == "sequence" and logits.ndim == 3 and labels.shape == (shape[0], shape[2]):
        return "; pass logits.transpose(1, 2)"
    if task == CLASSIFICATION and labels.is_floating_point() and labels.shape == shape:
        return '; for labels that are probabilities pass labels.argmax(1), for labels that are 0 or 1 use task="multilabel"'
    if task == CLASSIFICATION and labels.shape == (shape[0], 1):
        return "; pass labels.squeeze(1)"
    other = next((name for name in TASKS if name != task and _fits(name, shape, labels)), "")
    return f'; these tensors fit Recorder(task="{other}")' if other else ""


def check_ids(ids: Any, b: int) -> list[int] | list[str]:
    """Return the ids of a batch as a list of b integers or b strings."""
    if ids is None or isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__iter__"):
        raise UsageError(f"ids: {short(ids)} is not a list of ids", f"pass {b} integers or {b} strings, one per sample")
    names = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if not isinstance(names, list):
        raise UsageError(f"ids: {names!r} is a single value", f"pass {b} integers or {b} strings, one per sample")
    if len(names) != b:
        raise UsageError(f"ids: {len(names)} ids for a batch of {b}", "pass one per sample")
    if not _are_ids(names):
        names = [one.item() if hasattr(one, "item") else one for one in names]  # NumPy's numbers and strings, tensors
        if not _are_ids(names):
            raise UsageError(
                f"ids are neither all integers (of 64 bits) nor all strings: {names[0]!r}, ...", "use one type for all ids"
            )
    return names


def _are_ids(names: list[Any]) -> bool:
    if type(names[0]) is int:
        return set(map(type, names)) == {int} and -(2**63) <= min(names) <= max(names) < 2**63
    return all(isinstance(one, str) for one in names)


def check_device_ids(ids: Any, b: int) -> torch.Tensor | None:
    """Return ids that are on a device as int64, without waiting for their values; None if they are on the host."""
    import torch

    if not isinstance(ids, torch.Tensor) or ids.device.type == "cpu":
        return None
    if ids.shape != (b,) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UsageError(f"ids {describe(ids)} are not {b} integers", "pass one per sample")
    return ids.detach().long()


def check_files(files: Sequence[str] | None, b: int) -> Sequence[str] | None:
    """Return the files of a batch as a list of b strings, or None."""
    if files is None:
        return None
    if isinstance(files, str) or not isinstance(files, Sequence) or not all(isinstance(one, str) for one in files):
        raise UsageError(f"files: {short(files)} is not a list of strings", "pass one per sample, or none at all")
    if len(files) != b:
        raise UsageError(f"files: {len(files)} files for a batch of {b}", "pass one per sample, or none at all")
    return list(files)


def check_extra(extra: Mapping[str, Sequence[Any]] | None, b: int) -> dict[str, list[Any]] | None:
    """Return the extra columns of a batch as lists of b plain values."""
    if not extra:
        return None
    if not isinstance(extra, Mapping):
        raise UsageError(f"extra: {short(extra)} is not a mapping", 'pass columns by name, as {"source": [...]}')
    columns = {}
    for name, column in extra.items():
        if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__iter__"):
            raise UsageError(f"extra[{name!r}]: {short(column)} is not a column", f"pass a list of {b} values")
        values = column.tolist() if hasattr(column, "tolist") else list(column)
        if not isinstance(values, list) or len(values) != b:
            count = len(values) if isinstance(values, list) else "no"
            raise UsageError(f"extra[{name!r}]: {count} values for a batch of {b}", "pass one per sample")
        columns[name] = values
    return check_plain("extra", columns)


def check_lr(lr: Any) -> float | None:
    """Return a learning rate, a finite number of any type, as a float; or None."""
    value = plain(lr)
    if value is not None and not (type(value) in (int, float) and isfinite(value)):
        raise UsageError(f"lr: {short(lr)} is not a finite number", "pass the learning rate as a float, or omit it")
    return None if value is None else float(value)


def plain(value: Any) -> Any:
    """Return the number in a scalar of NumPy or torch; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_plain(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values if JSON can hold all of them."""
    for key, value in values.items():
        if not isinstance(key, str) or not _is_plain(value, MAX_DEPTH):
            raise UsageError(
                f"{name}[{key!r}]: {_first_odd(value)} cannot be recorded",
                "use strings, finite numbers of at most 64 bits, bools, None, and lists and objects of these",
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
    return short(next((one for one in inside if not _is_plain(one, MAX_DEPTH - 1)), value))


def require(valid: object, name: str, value: object, choices: str) -> None:
    """Raise UsageError, naming the choices, unless the value of an option is valid."""
    if not valid:
        raise UsageError(f"{name}={value!r} is not valid", f"choose {choices}")


def are_names(classes: object) -> bool:
    """Return True for an iterable of different strings."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        return False
    names = list(classes)
    return bool(names) and all(isinstance(one, str) for one in names) and len(set(names)) == len(names)


def describe(tensor: torch.Tensor) -> str:
    """Return type and shape, as in `float32 [64, 10]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def short(value: object) -> str:
    """Return a short name for a value in a message."""
    text = repr(value) if isinstance(value, str | bytes | int | float | None) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"
