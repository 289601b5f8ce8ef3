"""Turn the tensors of one forward pass into the columns of a record.

    scores = measure(task, Forward(logits, labels, losses, loss), top_k=None)      # where the tensors are
    columns = to_columns(task, scores_on_the_host, top_k=None, classes=10, ignore_index=-100)
    record = to_record(header, columns, ...)

    task            logits      labels                          one row of the columns is
    classification  [B, C]      [B] class numbers               one of the B samples
    sequence        [B, T, C]   [B, T] class numbers,           one position whose label is not `ignore_index`
                                `ignore_index` marks padding
    multilabel      [B, K], [B] like the logits, 0 and 1        one of the B samples, with K targets and outputs
    regression      [B, K], [B] like the logits, numbers        one of the B samples, with K targets and outputs
    segmentation    [B, C, H, W] [B, H, W] class numbers        one of the B images
    loss            none        none                            one of the B samples

`measure` never waits for the device. Checks that need values (is every label a class, is every logit a number) run on the host,
before a record is made. No row depends on another, so batches that are measured together give the same bits as each alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from capture_cli.errors import UsageError
from capture_cli.records import MAX_COUNTED_CLASSES, AnyBatch, Batch, Inputs, Measures, Numbers
from capture_cli.writer import largest, measures
from capture_cli.writer.log_probs import log_softmax
from capture_cli.writer.measures import LOSS, MEASURE_TASKS, SEGMENTATION, LossScores, MaskScores, MeasureColumns

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from capture_cli.records import Floats, Ints

CLASSIFICATION = "classification"
CLASS_TASKS = (CLASSIFICATION, "sequence")
TASKS = (*CLASS_TASKS, "multilabel", "regression", *MEASURE_TASKS)


@dataclass(slots=True, kw_only=True)
class Header:
    """Fields of a batch record that are not computed from tensors."""

    phase: str
    epoch: int
    batch: int = 0
    """Counted by the writer, as is `step`."""
    step: int = 0
    rank: int = 0
    lr: float | None = None
    ids: Any
    """[B] integers or strings; None while they are on their way from a device."""
    files: Sequence[str] | None = None
    extra: Mapping[str, Sequence[Any]] | None = None
    repeats: Ints | None = None
    mix: Mapping[str, Any] | None = None
    soft_labels: Mapping[str, Any] | None = None
    numbers: Mapping[str, Any] | None = None
    """Tensors [B] or of no dimension by name; once they are on the host, see `split_numbers`."""
    batch_numbers: Mapping[str, float] | None = None


class Forward(NamedTuple):
    """The tensors of one forward pass; no logits and labels in the task `loss`."""

    logits: torch.Tensor
    labels: torch.Tensor
    losses: torch.Tensor | None = None
    loss: torch.Tensor | float | None = None

    def detached(self) -> Forward:
        """Return the tensors without their graph, and the loss as a tensor."""
        import torch

        logits, labels, losses, loss = self
        if loss is not None:
            loss = loss.detach() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss))
        return Forward(
            logits if logits is None else logits.detach(), labels, losses if losses is None else losses.detach(), loss
        )


class ClassScores(NamedTuple):
    """Log-probabilities, from which probabilities, predictions and losses all follow. float32 and int64."""

    labels: torch.Tensor
    log_probs: torch.Tensor
    """[..., C], or [..., K] of the K most probable classes."""
    topk: torch.Tensor | None = None
    """[..., K] the classes of `log_probs`, if not all are kept."""
    label_log_probs: torch.Tensor | None = None
    """[...] log-probability of the label, if not all are kept."""
    losses: torch.Tensor | None = None
    loss: torch.Tensor | None = None


class NumberScores(NamedTuple):
    """Targets and outputs [B, K] of a task whose targets are numbers, and losses [B]. float32."""

    targets: torch.Tensor
    outputs: torch.Tensor
    losses: torch.Tensor
    loss: torch.Tensor | None = None


Scores = ClassScores | NumberScores | MaskScores | LossScores
Results = Forward | Scores


@dataclass(slots=True, kw_only=True)
class ClassColumns:
    """Columns of records.Batch."""

    labels: Ints
    preds: Ints
    probs: Floats
    losses: Floats
    loss: np.float32
    topk: Ints | None = None
    p_labels: Floats | None = None
    positions: Ints | None = None
    sequences: Mapping[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class NumberColumns:
    """Columns of records.Numbers."""

    targets: Floats
    outputs: Floats
    losses: Floats
    loss: np.float32


Columns = ClassColumns | NumberColumns | MeasureColumns
_ONLY_CLASSES = ("repeats", "mix", "soft_labels")
"""Fields of a Header that only records of classes have."""
_VALUES = {kind: attrgetter(*kind.__slots__) for kind in (Header, ClassColumns, NumberColumns, MeasureColumns)}


def width(task: str, logits: torch.Tensor | None) -> int:
    """Return the number of classes or outputs; 1 without any."""
    if logits is None or logits.ndim == 1:
        return 1
    return logits.shape[1 if task == SEGMENTATION else -1]


def measure(task: str, forward: Forward, *, top_k: int | None, ignore_index: int, masks: bool = False) -> Scores:
    """Compute on the tensors' own device what a record needs.

    Of probabilities the `top_k` largest are kept, None for all; of a segmentation the `masks`, if they are wanted.
    """
    if task == SEGMENTATION:
        pixels, labels, losses, loss = forward.logits, forward.labels, forward.losses, _float(forward.loss)
        return measures.measure_masks(pixels, labels, losses, loss, ignore_index=ignore_index, keep=masks)
    if task == LOSS:
        return LossScores(_float(forward.losses), _float(forward.loss))
    logits, losses, loss = forward.logits.float(), _float(forward.losses), _float(forward.loss)
    if task in CLASS_TASKS:
        labels = forward.labels.long().contiguous()
        many = top_k is not None and logits.is_cpu and logits.numel() >= largest.MANY
        log_probs = largest.log_softmax(logits) if many else log_softmax(logits)
        if top_k is None:
            return ClassScores(labels, log_probs, losses=losses, loss=loss)
        kept, topk = largest.largest(log_probs, top_k)
        own = log_probs.gather(-1, labels.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
        return ClassScores(labels, kept, topk, own, losses, loss)
    outputs = logits.reshape(len(logits), -1).contiguous()
    targets = forward.labels.detach().float().reshape(outputs.shape).contiguous()
    if losses is None:
        import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

        plain = F.binary_cross_entropy_with_logits if task == "multilabel" else F.mse_loss
        losses = plain(outputs, targets, reduction="none").mean(1)
    return NumberScores(targets, outputs.sigmoid() if task == "multilabel" else outputs, losses, loss)


def _float(tensor: Any) -> Any:
    return tensor if tensor is None else tensor.float().contiguous()


def to_columns(
    task: str, results: Results, *, top_k: int | None, classes: int, ignore_index: int, masks: bool = False
) -> Columns:
    """Make the columns of a record from results on the host, measuring them first if they are not measured yet.

    Losses that the caller did not pass are -ln p(label) in nats, the mean binary cross-entropy in nats, or the mean squared
    error. A `loss` that the caller did not pass is their mean. Padding is dropped. Raises UsageError, naming the first sample,
    if a label is not a class or a `multilabel` target is not 0 or 1.
    """
    if isinstance(results, Forward):
        results = measure(task, results, top_k=top_k, ignore_index=ignore_index, masks=masks)
    if isinstance(results, MaskScores):
        return measures.mask_columns(results, classes=classes, ignore_index=ignore_index, keep=masks)
    if isinstance(results, LossScores):
        return measures.loss_columns(results)
    if isinstance(results, ClassScores):
        return _class_columns(results, classes, ignore_index if task == "sequence" else None)
    targets, outputs, losses = results.targets.numpy(), results.outputs.numpy(), results.losses.numpy()
    if task == "multilabel" and not (valid := (targets == 0) | (targets == 1)).all():
        first = int(np.argwhere(~valid)[0, 0])
        raise UsageError(f"labels: sample {first} has a target that is neither 0 nor 1", "use 0 and 1")
    return NumberColumns(targets=targets, outputs=outputs, losses=losses, loss=_loss(results.loss, losses))


def _class_columns(scores: ClassScores, classes: int, padding: int | None) -> ClassColumns:
    """Make class columns with few operations, since this runs at every step. `padding` is None unless these are sequences."""
    arrays: list[Any] = [one if one is None else one.numpy() for one in scores[:5]]
    positions = sequences = None
    if padding is not None:
        valid = arrays[0] != padding
        arrays = [one if one is None else one[valid] for one in arrays]
        positions = np.ascontiguousarray(np.nonzero(valid)[1])
        sequences = {"padded_length": valid.shape[1], "n_valid": valid.sum(1).tolist(), "ignore_index": padding}
    labels, log_probs, topk, own, losses = arrays
    _check_labels(labels, classes, hint="" if padding is None else f"or {padding} for padding")
    probs = np.exp(log_probs)
    if topk is None:
        preds, p_labels = probs.argmax(1), None
    else:
        preds = np.where(probs == probs[:, :1], topk, np.iinfo(np.int64).max).min(1)  # the lowest class among equals
        p_labels = np.exp(own)
    if losses is None:
        losses = 0.0 - (of_labels(log_probs, labels) if own is None else own)  # and never -0.0
    return ClassColumns(
        labels=labels,
        preds=preds,
        probs=probs,
        losses=losses,
        loss=_loss(scores.loss, losses),
        topk=topk,
        p_labels=p_labels,
        positions=positions,
        sequences=sequences,
    )


def of_labels(log_probs: Floats, labels: Ints) -> Floats:
    """Return the log-probability of the label in each row."""
    return log_probs.take(_starts(*log_probs.shape) + labels)


@lru_cache(16)
def _starts(rows: int, width: int) -> Ints:
    """Return the places where rows begin."""
    return np.arange(0, rows * width, width)


def _loss(loss: torch.Tensor | None, losses: Floats) -> Any:
    if loss is not None:
        return loss.numpy()[()]
    return losses.mean() if len(losses) else np.float32("nan")


def slice_rows(columns: ClassColumns, rows: slice, loss: float) -> ClassColumns:
    """Return the columns of one of several batches that were measured together; `loss` is that batch's own."""
    labels, preds, probs, losses = columns.labels[rows], columns.preds[rows], columns.probs[rows], columns.losses[rows]
    if columns.topk is None or columns.p_labels is None:
        return ClassColumns(labels=labels, preds=preds, probs=probs, losses=losses, loss=np.float32(loss))
    topk, p_labels = columns.topk[rows], columns.p_labels[rows]
    return ClassColumns(
        labels=labels, preds=preds, probs=probs, losses=losses, loss=np.float32(loss), topk=topk, p_labels=p_labels
    )


def to_record(header: Header, columns: Columns, *, classes: int, inputs: Inputs, flight: Mapping[str, Any] | None) -> AnyBatch:
    """Make the record of a batch. Ids and files of a sequence are repeated for each of its positions."""
    if not isinstance(columns, ClassColumns):
        shared = {name: value for name, value in _by_name(header).items() if name not in _ONLY_CLASSES}
        if isinstance(columns, MeasureColumns):
            return Measures(**shared, **_by_name(columns), inputs=inputs, flight=flight)
        return Numbers(**shared, **_by_name(columns), inputs=inputs, flight=flight)
    if (sequences := columns.sequences) is not None:
        columns = replace(columns, sequences={"ids": header.ids, **sequences})
        ids, files = [column and _repeat(column, sequences["n_valid"]) for column in (header.ids, header.files)]
        header = replace(header, ids=ids, files=files)
    omitted = classes - columns.probs.shape[1] or None
    return Batch(**_by_name(header), **_by_name(columns), probs_omitted=omitted, inputs=inputs, flight=flight)


def _by_name(values: Header | Columns) -> dict[str, Any]:
    return dict(zip(values.__slots__, _VALUES[type(values)](values), strict=True))


def _repeat(values: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return [one for one, count in zip(values, counts, strict=True) for _ in range(count)]


def _check_labels(labels: Ints, classes: int, *, hint: str) -> None:
    if len(labels) and np.maximum.reduce(labels.view(np.uint64)) >= classes:  # a negative number is a very large one
        first = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
        raise UsageError(
            f"labels: {labels[first]} (number {first}) is none of the {classes} classes",
            f"labels are class numbers from 0 to {classes - 1} {hint}".rstrip(),
        )


def count_and_sum(columns: Columns | AnyBatch, b: int) -> tuple[int, float]:
    """Return the number of samples in the columns of a batch of `b`, and the sum of their losses."""
    if isinstance(columns, MeasureColumns | Measures):
        return measures.count_and_sum(columns, b)
    return len(columns.losses), float(np.add.reduce(columns.losses, dtype=np.float64))


def count_correct(task: str, columns: Columns, *, finite: bool) -> float:
    """Count correct predictions: whole samples, but in `multilabel` each output counts 1/K, in `segmentation` each pixel.

    `finite`: all losses are.
    NaN is never correct, although argmax of NaN is class 0.
    """
    if isinstance(columns, MeasureColumns):
        shares = () if columns.correct is None or columns.counted is None else columns.correct / np.maximum(columns.counted, 1)
        return float(np.sum(shares))
    if isinstance(columns, ClassColumns):
        right = columns.preds == columns.labels
        return int(np.count_nonzero(right if finite else right & np.isfinite(columns.losses)))
    if task == "multilabel":
        right = (columns.outputs > 0.5) == (columns.targets > 0.5)
        return float((right & ~np.isnan(columns.outputs)).mean(1).sum())
    return 0.0


def class_counts(columns: Columns | AnyBatch, classes: int) -> Ints | None:
    """Count the samples of each class: [3, C] labelled, predicted and correct; None where targets are no classes or too many.

    Correct is as in `count_correct`. For `segmentation` pixels are counted.
    """
    if isinstance(columns, MeasureColumns | Measures):
        return measures.pixel_counts(columns, classes)
    if not isinstance(columns, ClassColumns | Batch):
        return None
    right = (columns.preds == columns.labels) & np.isfinite(columns.losses)
    return count_classes(columns.labels, columns.preds, right, classes)


def count_classes(labels: Ints, preds: Ints, right: npt.NDArray[np.bool_], classes: int) -> Ints | None:
    """Count the samples of each class, as `class_counts` does; `right` tells which predictions are."""
    if classes > MAX_COUNTED_CLASSES:
        return None
    numbers = np.concatenate((labels, preds + classes, labels[right] + 2 * classes))
    return np.bincount(numbers, minlength=3 * classes).reshape(3, classes)


def check_finite(columns: Columns) -> None:
    """Raise UsageError, naming the first sample, if a prediction is NaN, as softmax makes of infinite logits."""
    if isinstance(columns, MeasureColumns):
        measures.check_known(columns)
        return
    values = columns.probs if isinstance(columns, ClassColumns) else columns.outputs
    nan = np.isnan(values)
    if nan.any():
        rows = np.unique(np.argwhere(nan)[:, 0]).tolist()
        raise UsageError(
            f"logits are NaN or infinite: {len(rows)} of {len(values)} samples, the first is number {rows[0]}",
            'the batch is not recorded; Recorder(nonfinite="record") records it and saves its inputs',
        )
