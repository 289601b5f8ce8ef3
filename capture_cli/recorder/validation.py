"""Check the arguments of a recorder, and copy those beside the tensors into plain lists.

    b = check_tensors(task, inputs, Forward(logits, labels, losses, loss))
    ids = check_ids(ids, b)
    files, extra = check_files(files, b), check_extra(extra, b)

Every check raises UsageError that names the argument, its value or shape, and what fits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError, shown
from capture_cli.writer.columns import CLASS_TASKS, CLASSIFICATION, TASKS, Forward
from capture_cli.writer.measures import LOSS, SEGMENTATION

if TYPE_CHECKING:
    import torch

_LISTS = (list, tuple, range)
MAX_DEPTH = 8
"""Nesting of lists and objects in the plain values of a record."""
_NO_LIST = (str, bytes, Mapping, set, frozenset, type(None))
"""Types that are no column of values: a set has no order, and a mapping holds pairs."""
_EXPECTED = {
    CLASSIFICATION: "logits [B, C] and labels [B], integers",
    "sequence": "logits [B, T, C] and labels [B, T], integers",
    "multilabel": "logits [B, K] or [B] and labels of the same shape, 0 and 1",
    "regression": "logits [B, K] or [B] and labels of the same shape",
    SEGMENTATION: "logits [B, C, H, W] and labels [B, H, W], integers; or one logit a pixel and labels 0 and 1",
    LOSS: "inputs [B, ...], losses [B] or loss, and no logits and labels",
}


_PHASES = {"train": "train", "val": "val", "training": "train", "validation": "val", "valid": "val"}


def standard_phase(phase: str) -> str:
    """The name by which capture's commands look for a phase: `validation` is recorded as `val`, with a warning."""
    standard = recorded_phase(phase)
    if isinstance(phase, str) and standard != phase:
        text = f"phase={phase!r} is recorded as {standard!r}, the name that capture's commands look for"
        warnings.warn(text, stacklevel=3)
    return standard


def recorded_phase(phase: str) -> str:
    """The same without a warning."""
    return _PHASES.get(phase.lower(), phase) if isinstance(phase, str) else phase


def check_tensors(task: str, inputs: torch.Tensor, forward: Forward) -> int:
    """Check types and shapes of the tensors of a batch; return B."""
    import torch

    logits, labels, losses, loss = forward
    optional = ("losses", "logits", "labels") if task == LOSS else ("losses",)
    for name, value in (("inputs", inputs), ("logits", logits), ("labels", labels), ("losses", losses), ("loss", loss)):
        if isinstance(value, torch.Tensor):
            if not (type(value) is torch.Tensor and value.layout is torch.strided) or value.is_nested or value.is_meta:
                demand_readable(name, value)
        elif name != "loss" and not (value is None and name in optional):
            raise UsageError(f"{name}: {short(value)} is not a tensor", f"task {task} takes {_EXPECTED[task]}")
    if task == LOSS:
        return _check_losses(inputs, forward)
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
    per_pixel = task == SEGMENTATION and losses is not None and losses.shape == labels.shape
    _check_loss_values(forward, labels.shape if per_pixel else labels.shape[: 2 if task == "sequence" else 1])
    return b


def _check_losses(inputs: torch.Tensor, forward: Forward) -> int:
    """Check a batch of a task without labels; return B."""
    if forward.logits is not None or forward.labels is not None:
        raise UsageError("logits, labels: the task loss has none", f"task loss takes {_EXPECTED[LOSS]}")
    if not inputs.ndim:
        raise UsageError(f"inputs {describe(inputs)} are not a batch", "pass them as the model got them, [B, ...]")
    if forward.losses is None and forward.loss is None:
        raise UsageError("losses: neither losses nor loss is given", "pass losses [B], or loss for the whole batch")
    _check_loss_values(forward, inputs.shape[:1])
    return len(inputs)


def _check_loss_values(forward: Forward, rows: Sequence[int]) -> None:
    """Raise UsageError unless losses are real numbers of the shape `rows`, and the loss is one."""
    import torch

    losses, loss = forward.losses, forward.loss
    for name, value in (("losses", losses), ("loss", loss)):
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise UsageError(
                f"{name}: {describe(value)} are complex numbers", "pass losses that are real numbers, or omit them"
            )
    if losses is not None and losses.shape != tuple(rows):
        raise UsageError(
            f"losses {describe(losses)} are not one per sample, {list(rows)}", 'use reduction="none", or omit them'
        )
    if loss is not None and not (loss.ndim == 0 if isinstance(loss, torch.Tensor) else _is_number(plain(loss))):
        given = describe(loss) if isinstance(loss, torch.Tensor) else short(loss)
        raise UsageError(f"loss: {given} is not a single number", "pass the scalar that is differentiated, or omit it")


def _is_number(value: Any) -> bool:
    """Return True for a float, or an integer that a float holds."""
    return type(value) is float or _is_finite(value)


def is_empty(inputs: Any, forward: Forward) -> bool:
    """Tell if a batch has no samples at all."""
    import torch

    return all(
        one is None or (isinstance(one, torch.Tensor) and not one.is_nested and one.ndim and not len(one))
        for one in (inputs, forward.logits, forward.labels)
    )


def demand_readable(name: str, tensor: torch.Tensor) -> None:
    """Raise UsageError for a tensor without one value at each place: sparse, nested, meta, or a wrapper of other tensors."""
    import torch

    kind = type(tensor)
    if tensor.layout is not torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else f"of the layout {str(tensor.layout).removeprefix('torch.')}"
        dense = "torch.nested.to_padded_tensor(x, 0.0)" if tensor.is_nested else "x.to_dense()"
        raise UsageError(f"{name}: a tensor that is {layout} cannot be recorded", f"pass {dense}")
    if tensor.is_meta and name != "labels":  # those must be where the logits are
        raise UsageError(f"{name}: a tensor on the device meta has no values", "record batches of a model that has weights")
    if kind is not torch.Tensor and kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise UsageError(
            f"{name}: a {kind.__name__} wraps other tensors",
            "pass a plain torch.Tensor, such as x.full_tensor() or x.to_tensor()",
        )


def _fits(task: str, logits: torch.Size, labels: torch.Tensor) -> bool:
    integers = not (labels.is_floating_point() or labels.is_complex())
    if task == LOSS:
        return False
    if task == SEGMENTATION:
        return len(logits) in (4, 5) and labels.shape == (logits[0], *logits[2:]) and integers
    if task in CLASS_TASKS:
        return len(logits) == (2 if task == CLASSIFICATION else 3) and labels.shape == logits[:-1] and integers
    return labels.shape == logits and len(logits) in (1, 2) and not labels.is_complex()


def _suggestion(task: str, logits: torch.Tensor, labels: torch.Tensor) -> str:
    """Return a further clause of the hint if the intention can be guessed."""
    shape = logits.shape
    if not logits.is_floating_point():
        return "; logits are floating-point numbers"
    if task == "sequence" and logits.ndim == 3 and labels.shape == (shape[0], shape[2]):
        return "; pass logits.transpose(1, 2)"
    other = next((name for name in TASKS if name != task and _fits(name, shape, labels)), "")
    return f'; these tensors fit Recorder(task="{other}")' if other else ""


def check_ids(ids: Any, b: int) -> list[int] | list[str]:
    """Return the ids of a batch as a list of b integers or b strings."""
    if type(ids) not in _LISTS and (isinstance(ids, _NO_LIST) or not hasattr(ids, "__iter__")):
        raise UsageError(f"ids: {short(ids)} is not a list of ids", f"pass {b} integers or {b} strings, one per sample")
    names = list(ids) if type(ids) in _LISTS else _values(ids, "ids")
    if not isinstance(names, list):
        raise UsageError(f"ids: {names!r} is a single value", f"pass {b} integers or {b} strings, one per sample")
    if len(names) != b:
        raise UsageError(f"ids: {len(names)} ids for a batch of {b}", "pass one per sample")
    if not _are_ids(names):
        names = [one.item() if hasattr(one, "item") else one for one in names]  # NumPy's numbers and strings, tensors
        if not _are_ids(names):
            raise UsageError(
                f"ids are neither all integers (of 64 bits) nor all strings: {shown(names[0])}, ...", "use one type for all ids"
            )
    return names


def listed(ids: Any) -> Any:
    """Return ids as a list if they have that form; nothing is checked."""
    return list(ids) if type(ids) in _LISTS else ids.tolist() if getattr(ids, "is_cpu", hasattr(ids, "dtype")) else ids


def may_be_ids(ids: Any, b: int) -> bool:
    """Return True for a list of b values that look like ids, for a batch that is not recorded."""
    return type(ids) is list and len(ids) == b and type(ids[0]) in (int, str)


def _values(column: Any, name: str) -> Any:
    """Return the values of a column as a list, reading an iterator once; a single value if it has no dimension."""
    if not hasattr(column, "tolist"):
        return list(column)
    if hasattr(column, "is_nested"):
        demand_readable(name, column)
    return column.tolist()


def _are_ids(names: list[Any]) -> bool:
    if type(names[0]) is int:
        return len(set(map(type, names))) == 1 and -(2**63) <= min(names) <= max(names) < 2**63
    return all(isinstance(one, str) for one in names)


def check_device_ids(ids: Any, b: int) -> torch.Tensor | None:
    """Return ids that are on a device as int64, without waiting for their values; None if they are on the host."""
    if type(ids) in _LISTS:
        return None
    import torch

    if not isinstance(ids, torch.Tensor):
        return None
    if ids.device.type == "cpu":
        demand_readable("ids", ids)
        return None
    if ids.shape != (b,) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UsageError(f"ids {describe(ids)} are not {b} integers", "pass one per sample")
    demand_readable("ids", ids)
    return ids.detach().long()


def check_files(files: Sequence[str] | None, b: int) -> Sequence[str] | None:
    """Return the files of a batch as a list of b strings, or None."""
    if files is None:
        return None
    names = None if isinstance(files, _NO_LIST) or not hasattr(files, "__iter__") else _values(files, "files")
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise UsageError(f"files: {short(files)} is not a list of strings", "pass one per sample, or none at all")
    if len(names) != b:
        raise UsageError(f"files: {len(names)} files for a batch of {b}", "pass one per sample, or none at all")
    return names


def check_extra(extra: Mapping[str, Sequence[Any]] | None, b: int) -> dict[str, list[Any]] | None:
    """Return the extra columns of a batch as lists of b plain values."""
    if not extra:
        return None
    if not isinstance(extra, Mapping):
        raise UsageError(f"extra: {short(extra)} is not a mapping", 'pass columns by name, as {"source": [...]}')
    columns = {}
    for name, column in extra.items():
        if isinstance(column, _NO_LIST) or not hasattr(column, "__iter__"):
            raise UsageError(f"extra[{name!r}]: {short(column)} is not a column", f"pass a list of {b} values")
        values = _values(column, f"extra[{name!r}]")
        if not isinstance(values, list) or len(values) != b:
            count = len(values) if isinstance(values, list) else "no"
            raise UsageError(f"extra[{name!r}]: {count} values for a batch of {b}", "pass one per sample")
        columns[name] = values
    return check_plain("extra", columns)


def check_lr(lr: Any) -> float | None:
    """Return a learning rate, a finite number of any type, as a float; or None."""
    value = lr if type(lr) is float else plain(lr)
    if value is not None and not _is_finite(value):
        raise UsageError(f"lr: {short(lr)} is not a finite number", "pass the learning rate as a float, or omit it")
    return None if value is None else float(value)


def _is_finite(value: Any) -> bool:
    """Return True for a number that a float holds, if not to its last digit."""
    try:
        return type(value) in (int, float) and isfinite(value)
    except OverflowError:
        return False


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
        raise UsageError(f"{name}={shown(value)} is not valid", f"choose {choices}")


def class_names(classes: object) -> list[str] | None:
    """Return the names of classes in the order of their numbers, None for none.

    `classes` is a list or another iterable that has an order, or a mapping between names and numbers from 0, either way round.
    Raises UsageError for anything else: a set has another order in each process.
    """
    if classes is None:
        return None
    names: list[Any] = []
    if isinstance(classes, Mapping):
        numbered = classes if all(isinstance(one, str) for one in classes.values()) else {n: c for c, n in classes.items()}
        if len(numbered) == len(classes) and all(type(one) is int for one in numbered):
            names = [numbered.get(number) for number in range(len(numbered))]
    elif isinstance(classes, Iterable) and not isinstance(classes, _NO_LIST):
        names = _values(classes, "classes")
        classes = names
    valid = isinstance(names, list) and names and all(isinstance(one, str) for one in names) and len(set(names)) == len(names)
    require(valid, "classes", classes, "a list of different names, or a mapping between them and their numbers from 0")
    return names


def describe(tensor: torch.Tensor) -> str:
    """Return type and shape, as in `float32 [64, 10]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def short(value: object) -> str:
    """Return a short name for a value in a message."""
    text = shown(value) if isinstance(value, str | bytes | int | float | None) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"
