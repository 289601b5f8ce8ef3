"""Measure masks, and losses without labels: the columns of records.Measures.

    scores = measure_masks(logits, labels, losses, loss, ignore_index=255, keep=False)      # where the tensors are
    columns = mask_columns(scores_on_the_host, classes=21, ignore_index=255)

Logits are [B, C, H, W] (or [B, C, D, H, W]), labels [B, H, W]. Of an image all that is kept are its loss, its counts and the
pixels of each class that it has, about 1 kB, and with `keep` its masks. As in capture_cli.writer.columns, measuring never
waits for the device, and no row depends on another.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from capture_cli.errors import UsageError
from capture_cli.records import MAX_COUNTED_CLASSES, Measures

if TYPE_CHECKING:
    import torch

    from capture_cli.records import AnyBatch, Floats, Ints
    from capture_cli.writer.columns import Header

SEGMENTATION, LOSS = "segmentation", "loss"
MEASURE_TASKS = (SEGMENTATION, LOSS)
MAX_CONFUSIONS = 16
"""Pairs of label and prediction that are kept of an image; the pixels of further pairs are counted."""
_MAX_DENSE = 2**22
"""Pairs of classes are counted where the tensors are if a batch has at most so many; else on the host."""


class MaskScores(NamedTuple):
    """Counts of B images, int64 [B] unless said otherwise."""

    losses: torch.Tensor
    """float32, mean of the counted pixels."""
    ignored: torch.Tensor
    invalid: torch.Tensor
    """Pixels whose label is neither a class nor `ignore_index`."""
    pairs: torch.Tensor | None
    """[B * C * C] counted pixels by image, label and prediction; None if there are too many, then the masks are there."""
    labels: torch.Tensor | None
    """[B, H, W] in a small type; None unless needed."""
    preds: torch.Tensor | None
    loss: torch.Tensor | None


class LossScores(NamedTuple):
    """Losses of a task without labels: float32 [B], and the scalar."""

    losses: torch.Tensor | None
    loss: torch.Tensor | None


@dataclass(slots=True, kw_only=True)
class MeasureColumns:
    """Columns of records.Measures."""

    loss: Any
    losses: Floats | None = None
    counted: Ints | None = None
    ignored: Ints | None = None
    correct: Ints | None = None
    present: list[list[int]] | None = None
    labelled: list[list[int]] | None = None
    intersections: list[list[int]] | None = None
    unions: list[list[int]] | None = None
    confusions: list[list[list[int]]] | None = None
    confusions_omitted: Ints | None = None
    masks: Any = None
    """Arrays of labels and predictions by name; in the record what is known of where they are kept."""


def measure_masks(
    logits: torch.Tensor,
    labels: torch.Tensor,
    losses: torch.Tensor | None,
    loss: torch.Tensor | None,
    *,
    ignore_index: int,
    keep: bool,
) -> MaskScores:
    """Compute on the tensors' own device what a record of masks needs.

    Operations are those that torch has deterministic kernels for on every device. `losses` may be [B] or [B, H, W].
    """
    import torch

    b, classes = logits.shape[:2]
    labels = labels.long()
    preds = _predictions(logits)
    is_ignored = labels == ignore_index
    valid = ((labels >= 0) & (labels < classes) & ~is_ignored).flatten(1)
    own = torch.where(valid, labels.flatten(1), 0)
    counted = valid.sum(1)
    if losses is None:
        each = 0.0 - logits.float().log_softmax(1).flatten(2).gather(1, own[:, None])[:, 0]
        losses = each.masked_fill(~valid, 0.0).sum(1) / counted.clamp(min=1)
    elif losses.ndim > 1:
        losses = losses.float().flatten(1).masked_fill(~valid, 0.0).sum(1) / counted.clamp(min=1)
    pairs = None
    size = b * classes * classes
    if size <= _MAX_DENSE:
        image = torch.arange(b, device=labels.device)[:, None]
        place = torch.where(valid, (image * classes + own) * classes + preds.flatten(1), size).flatten()
        if place.is_cpu:
            pairs = place.bincount(minlength=size + 1)[:size]
        else:
            pairs = torch.zeros(size + 1, dtype=torch.int64, device=place.device)
            pairs = pairs.scatter_add_(0, place, torch.ones_like(place))[:size]
    ignored = is_ignored.flatten(1).sum(1)
    invalid = labels[0].numel() - ignored - counted
    small = _mask_type(classes, ignore_index)
    needed = keep or pairs is None
    own_mask, pred_mask = (one.to(small).contiguous() if needed else None for one in (labels, preds))
    return MaskScores(losses.float().contiguous(), ignored, invalid, pairs, own_mask, pred_mask, loss)


def _predictions(logits: torch.Tensor) -> torch.Tensor:
    """Return the class of the largest logit of each pixel, the lowest of equals: int64 [B, H, W].

    On the host torch's argmax over a dimension that is not the last takes up to seven times as long as this.
    """
    import torch

    if not logits.is_cpu:
        return logits.argmax(1)
    best = logits.amax(1)
    preds = torch.zeros(best.shape, dtype=torch.int64)
    for number in range(logits.shape[1] - 1, 0, -1):
        preds.masked_fill_(logits[:, number] == best, number)
    return preds.masked_fill_(logits[:, 0] == best, 0)


def _mask_type(classes: int, ignore_index: int) -> torch.dtype:
    """Return the smallest type that holds every class and `ignore_index`."""
    import torch

    for small in (torch.uint8, torch.int16, torch.int32):
        limits = torch.iinfo(small)
        if classes - 1 <= limits.max and limits.min <= ignore_index <= limits.max:
            return small
    return torch.int64


def mask_columns(scores: MaskScores, *, classes: int, ignore_index: int, keep: bool) -> MeasureColumns:
    """Make the columns of a batch of masks. Raises UsageError, naming the first image, if a label is not a class."""
    losses, ignored, invalid = scores.losses.numpy(), scores.ignored.numpy(), scores.invalid.numpy()
    if invalid.any():
        first = int(np.flatnonzero(invalid)[0])
        raise UsageError(
            f"labels: {invalid[first]} pixels of image {first} have labels that are none of the {classes} classes",
            f"labels are class numbers from 0 to {classes - 1}; Recorder(ignore_index=255) ignores the label 255",
        )
    b = len(losses)
    masks = None if scores.labels is None or scores.preds is None else (scores.labels.numpy(), scores.preds.numpy())
    if scores.pairs is not None:
        pairs = scores.pairs.numpy().reshape(b, classes, classes)
        images, labels, preds = np.nonzero(pairs)
        counts = pairs[images, labels, preds]
    else:
        assert masks is not None  # noqa: S101 - measured together
        images, labels, preds, counts = _counted_pairs(*masks, ignore_index=ignore_index, classes=classes)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("present", "labelled", "intersections", "unions", "confusions", "omitted", "counted", "correct")
    }
    for start, end in _slices(images, b):
        for name, value in _image(labels[start:end], preds[start:end], counts[start:end]).items():
            columns[name].append(value)
    omitted, counted, correct = (np.array(columns.pop(name), np.int64) for name in ("omitted", "counted", "correct"))
    loss = scores.loss.numpy()[()] if scores.loss is not None else _mean(losses, counted)
    return MeasureColumns(
        loss=loss,
        losses=losses,
        counted=counted,
        ignored=ignored,
        correct=correct,
        confusions_omitted=omitted,
        masks={"labels": masks[0], "preds": masks[1]} if keep and masks else None,
        **columns,
    )


def _slices(images: Ints, b: int) -> list[tuple[int, int]]:
    edges = np.searchsorted(images, np.arange(b + 1)).tolist()
    return list(pairwise(edges))


def _counted_pairs(labels: Any, preds: Any, *, ignore_index: int, classes: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Count the pairs of label and prediction of each image: image, label, prediction and pixels."""
    found = []
    for image, (own, pred) in enumerate(zip(labels, preds, strict=True)):
        own, pred = own.ravel().astype(np.int64), pred.ravel().astype(np.int64)
        valid = own != ignore_index
        pairs, counts = np.unique(own[valid] * classes + pred[valid], return_counts=True)
        found.append(np.stack([np.full(len(pairs), image), pairs // classes, pairs % classes, counts]))
    images, first, second, counts = np.concatenate(found, axis=1)
    return images, first, second, counts


def _image(labels: Ints, preds: Ints, counts: Ints) -> dict[str, Any]:
    """Make the row of one image from its pairs of label and prediction."""
    present = np.union1d(labels, preds)
    labelled, predicted, right = (
        np.bincount(np.searchsorted(present, one), counts * weight, len(present)).astype(np.int64)
        for one, weight in ((labels, 1), (preds, 1), (labels, labels == preds))
    )
    wrong = np.flatnonzero(labels != preds)
    order = wrong[np.lexsort((preds[wrong], labels[wrong], -counts[wrong]))]
    kept = order[:MAX_CONFUSIONS]
    return {
        "present": present.tolist(),
        "labelled": labelled.tolist(),
        "intersections": right.tolist(),
        "unions": (labelled + predicted - right).tolist(),
        "confusions": np.stack([labels[kept], preds[kept], counts[kept]], axis=1).tolist(),
        "omitted": int(counts[order[MAX_CONFUSIONS:]].sum()),
        "counted": int(counts.sum()),
        "correct": int(right.sum()),
    }


def _mean(losses: Floats, counted: Ints) -> Any:
    n = np.count_nonzero(counted)
    return np.float32(losses.sum(dtype=np.float64) / n) if n else np.float32("nan")


def loss_columns(scores: LossScores) -> MeasureColumns:
    """Make the columns of a batch of losses. Without a scalar the loss of the batch is their mean."""
    losses = None if scores.losses is None else scores.losses.numpy()
    loss: Any = np.float32("nan")
    if scores.loss is not None:
        loss = scores.loss.numpy()[()]
    elif losses is not None:
        loss = losses.mean()
    return MeasureColumns(loss=loss, losses=losses)


def count_and_sum(columns: MeasureColumns | Measures, b: int) -> tuple[int, float]:
    """Return the number of samples that count, and the sum of their losses.

    An image without counted pixels does not count. Of a batch whose losses are not known each has the loss of the batch.
    """
    if columns.losses is None:
        return b, float(columns.loss) * b
    n = len(columns.losses) if columns.counted is None else int(np.count_nonzero(columns.counted))
    return n, float(columns.losses.sum(dtype=np.float64))


def pixel_counts(columns: MeasureColumns | Measures, classes: int) -> Ints | None:
    """Count the pixels of each class: [3, C] labelled, predicted and correct; None without pixels, or for too many classes."""
    if columns.present is None or classes > MAX_COUNTED_CLASSES:
        return None
    rows = zip(columns.present, columns.labelled or (), columns.unions or (), columns.intersections or (), strict=True)
    counts = np.zeros((3, classes), np.int64)
    for present, labelled, unions, right in rows:
        own, both = np.array(labelled, np.int64), np.array(right, np.int64)
        counts[:, present] += np.stack([own, np.array(unions, np.int64) + both - own, both])
    return counts


def check_known(columns: MeasureColumns) -> None:
    """Raise UsageError, naming the first sample, if a loss is NaN."""
    nan = np.isnan([columns.loss] if columns.losses is None else columns.losses)
    if nan.any():
        raise UsageError(
            f"losses are NaN: {int(nan.sum())} of {len(nan)}, the first is number {int(np.flatnonzero(nan)[0])}",
            'the batch is not recorded; Recorder(nonfinite="record") records it and saves its inputs',
        )


def split_numbers(header: Header) -> None:
    """Turn the named numbers of a batch, on the host now, into columns float32 [B] and plain numbers."""
    given = {name: value.float().numpy() for name, value in (header.numbers or {}).items()}
    header.numbers = {name: value for name, value in given.items() if value.ndim} or None
    header.batch_numbers = {name: value[()] for name, value in given.items() if not value.ndim} or None


def number_sums(header: Header | AnyBatch) -> dict[str, tuple[float, int]]:
    """Return the sum and the count of each named number; one of the whole batch counts for each of its samples."""
    sums = {name: (float(one.sum(dtype=np.float64)), len(one)) for name, one in (header.numbers or {}).items()}
    b = len(header.ids)
    return sums | {name: (float(value) * b, b) for name, value in (header.batch_numbers or {}).items() if name not in sums}
