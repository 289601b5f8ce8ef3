"""Tasks that are more, or less, than one class a sample: masks, losses without labels, and numbers beside any of them.

    forward = as_classes(forward, ignore_index=255)         # one logit a pixel becomes two classes
    numbers = check_numbers({"kl": tensor}, b)              # tensors [B] or of no dimension, by name
    check_width(logits, 21, names=["sky", ...], before=21)

Every check raises UsageError that names the argument and what fits.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.recorder.validation import demand_readable, describe, require, short
from capture_cli.records.checking import NUMBER_NAME, RESERVED
from capture_cli.writer.columns import Forward

if TYPE_CHECKING:
    import torch

_NOT_A_CLASS = 2
"""Stands for a target that is neither 0 nor 1."""


def as_classes(forward: Forward, ignore_index: int) -> Forward:
    """Return masks as class numbers [B, H, W], and one logit a pixel, [B, 1, H, W] or [B, H, W], as those of two classes.

    The softmax of (0, z) is the sigmoid of z, so the loss is the binary cross-entropy.
    """
    import torch

    logits, labels = forward.logits, forward.labels
    if not (isinstance(logits, torch.Tensor) and isinstance(labels, torch.Tensor)):
        return forward
    if any(one.is_meta or one.is_nested or one.layout is not torch.strided for one in (logits, labels)):
        return forward  # which is refused later
    if labels.ndim == logits.ndim and labels.ndim >= 4 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if logits.ndim == 3 and labels.shape == logits.shape:
        logits = logits[:, None]
    if logits.ndim >= 4 and logits.shape[1] == 1 and labels.shape == (len(logits), *logits.shape[2:]):
        logits = logits.detach()
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
        if labels.is_floating_point():
            known = (labels == 0) | (labels == 1) | (labels == ignore_index)
            labels = torch.where(known, labels, _NOT_A_CLASS).long()
    return forward._replace(logits=logits, labels=labels)


def check_width(logits: torch.Tensor, width: int, *, names: Sequence[str] | None, before: int) -> None:
    """Raise UsageError unless the logits have as many classes as `names` and, if any were before, as those."""
    if names is not None and width != len(names):
        raise UsageError(
            f"logits {describe(logits)} have {width} classes, but `classes` names {len(names)}",
            "name each class once, in the order of the logits",
        )
    if width != (before or width):
        raise UsageError(
            f"logits {describe(logits)} have {width} classes, but those before had {before}", "use one recorder per model"
        )


def check_number_names(names: Iterable[str] | str | None) -> list[str]:
    """Return the names that a recorder was told."""
    given = [] if names is None else list(names) if not isinstance(names, str) else [names]
    for name in given:
        _check_name(name)
    require(len(set(given)) == len(given), "numbers", given, "different names")
    return given


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(NUMBER_NAME, name):
        raise UsageError(f"numbers: {name!r} is no name for a number", "use letters, digits and _, such as kl or box_loss")
    if name.lower() in RESERVED:
        raise UsageError(f"numbers: {name!r} is the name of a column that records have", "use another name")


def check_numbers(numbers: Any, b: int, *, known: list[str], begun: bool) -> dict[str, Any]:
    """Return named numbers as tensors: [B] of one per sample, without a dimension of one for the whole batch.

    Names that are not in `known` are added to it, with a warning if the run record, which has them, is written.
    """
    import torch

    if not isinstance(numbers, Mapping):
        raise UsageError(f"numbers: {short(numbers)} is not a mapping", 'pass numbers by name, as {"kl": tensor}')
    checked = {}
    for name, value in numbers.items():
        _check_name(name)
        if isinstance(value, torch.Tensor):
            demand_readable(f"numbers[{name!r}]", value)
        try:
            tensor = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value, dtype=torch.float32)
            if not tensor.is_complex():
                tensor = (tensor.dequantize() if tensor.is_quantized else tensor).resolve_neg().float().contiguous()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise UsageError(f"numbers[{name!r}]: {short(value)} is not a number", f"pass one number, or {b}") from error
        if tensor.shape not in ((), (b,)) or tensor.is_complex():
            raise UsageError(
                f"numbers[{name!r}]: {describe(tensor)} is neither one number nor one per sample, [{b}]",
                "reduce it first, as in x.flatten(1).mean(1)",
            )
        checked[name] = tensor
    new = [name for name in checked if name not in known]
    known += new
    if new and begun:
        warnings.warn(
            f"numbers {', '.join(new)} come after the first batch, so `capture rows` has no columns for them: "
            f"use Recorder(numbers={known})",
            stacklevel=5,
        )
    return checked
