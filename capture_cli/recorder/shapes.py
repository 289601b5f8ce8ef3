"""Forms of a batch that mean the same, made into one.

    inputs, forward, ids = in_batch_form("classification", inputs, forward, ids)

| as it comes                                           | as it is recorded                                             |
|-------------------------------------------------------|---------------------------------------------------------------|
| one sample without a batch dimension: logits [C]      | a batch of one                                                |
| labels [B, 1] of classes                              | labels [B]                                                    |
| targets [B] for outputs [B, 1], or the other way      | targets in the shape of the outputs                           |
| masks [B, 1, H, W], one logit a pixel                 | see capture_cli.recorder.tasks                                |
| inputs that are a tuple, list or mapping of tensors   | the only tensor; of several the bytes of all, uint8 [B, N]    |

Anything else is left as it is, for capture_cli.recorder.validation to judge. Only `has_ignored` and
`without_ignored` read values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from capture_cli.recorder.tasks import as_classes
from capture_cli.writer.columns import CLASSIFICATION, Forward, Header
from capture_cli.writer.measures import SEGMENTATION

if TYPE_CHECKING:
    import torch


def is_usual(task: str, inputs: Any, forward: Forward) -> bool:
    """Tell if this is a batch of images or rows and their class numbers, to which no other form and no check applies.

    Most batches are, and behind a step of training every further call costs a microsecond.
    """
    import torch

    logits, labels, losses, loss = forward
    tensor, strided = torch.Tensor, torch.strided
    if task != CLASSIFICATION or losses is not None or not type(inputs) is type(logits) is type(labels) is tensor:
        return False
    for one in inputs, logits, labels:
        if one.layout is not strided or one.is_nested or one.is_meta:
            return False
    shape = logits.shape
    rows = shape[:1]
    return (
        len(shape) == 2
        and 0 not in shape
        and labels.shape == rows
        and inputs.shape[:1] == rows
        and labels.dtype is torch.int64
        and labels.device == logits.device
        and logits.is_floating_point()
        and (loss is None or type(loss) is float or (type(loss) is tensor and _is_scalar(loss)))
    )


def _is_scalar(loss: torch.Tensor) -> bool:
    return loss.ndim == 0 and not loss.is_sparse and not loss.is_meta and not loss.is_complex()


def has_ignored(labels: torch.Tensor, ignore_index: int) -> bool:
    """Tell if samples are to be ignored; on the host only, where values are at hand."""
    return labels.is_cpu and not labels.is_floating_point() and ignore_index in labels.numpy()


def in_batch_form(task: str, inputs: Any, forward: Forward, ids: Any, ignore_index: int) -> tuple[Any, Forward, Any]:
    """Return inputs, results and ids in the form that the table gives."""
    import torch

    logits, labels = forward.logits, forward.labels
    if not isinstance(inputs, torch.Tensor):
        inputs = _joined(inputs)
    if not isinstance(logits, torch.Tensor) or not isinstance(labels, torch.Tensor):
        return inputs, forward, ids
    if task == SEGMENTATION:
        return inputs, as_classes(forward, ignore_index), ids
    if task == CLASSIFICATION and logits.ndim == 1 and labels.ndim == 0 and isinstance(inputs, torch.Tensor):
        losses = (
            forward.losses[None] if isinstance(forward.losses, torch.Tensor) and forward.losses.ndim == 0 else forward.losses
        )
        alone = isinstance(ids, str | int) or getattr(ids, "ndim", 1) == 0
        return inputs[None], forward._replace(logits=logits[None], labels=labels[None], losses=losses), [ids] if alone else ids
    if task == CLASSIFICATION and logits.ndim == 2 and labels.shape == (len(logits), 1) and not labels.is_floating_point():
        return inputs, forward._replace(labels=labels[:, 0]), ids
    columns = {logits.shape, labels.shape}
    if task in ("multilabel", "regression") and columns == {(len(logits),), (len(logits), 1)}:
        return inputs, forward._replace(labels=labels.reshape(logits.shape)), ids
    return inputs, forward, ids


def without_ignored(header: Header, inputs: torch.Tensor, forward: Forward, ignore_index: int) -> tuple[torch.Tensor, Forward]:
    """Drop the samples whose label is `ignore_index`, as the loss function does, and their values in `header`."""
    labels = forward.labels
    kept = (labels != ignore_index).nonzero()[:, 0]
    places = kept.tolist()
    header.ids, header.files = (column and [column[i] for i in places] for column in (header.ids, header.files))
    header.extra = header.extra and {name: [column[i] for i in places] for name, column in header.extra.items()}
    header.numbers = header.numbers and {
        name: one[kept.to(one.device)] if one.ndim else one for name, one in header.numbers.items()
    }
    losses = forward.losses if forward.losses is None else forward.losses[kept]
    rows = forward._replace(logits=forward.logits[kept], labels=labels[kept], losses=losses)
    return inputs[kept.to(inputs.device)], rows


def _joined(inputs: Any) -> Any:
    """Return the only tensor in nested inputs, or the bytes of several that have the same length, one after the other."""
    import torch

    tensors = list(_tensors(inputs))
    if len(tensors) == 1:
        return tensors[0]
    if not tensors or any(not one.ndim or len(one) != len(tensors[0]) for one in tensors):
        return inputs
    device = tensors[0].device
    return torch.cat(
        [one.detach().to(device).contiguous().reshape(len(one), -1).view(torch.uint8) for one in tensors if one.numel()], dim=1
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
