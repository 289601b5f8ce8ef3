"""Changes between the losses of two runs without predicted classes: the same phase of both, sample by sample.

    a, b = SampleLosses(...), SampleLosses(...)         # folds over one phase; `file_numbers` is shared
    changes = loss_changes(a, b, limit=10)

For masks also the IoU of each class. Samples are matched by file, or by id where they have none, classes by name. If a sample
is in the phase more than once, its last visit counts. Images without counted pixels have no loss, and a batch of which only the
whole loss is known has no samples to match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.answers.comparison import MEASURES
from capture_cli.answers.files import FirstOf
from capture_cli.answers.masks import MaskScore, Measured
from capture_cli.answers.predictions import renamed, renumbered
from capture_cli.answers.visits import plain_value
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import Block, Visits
from capture_cli.runs.masks import SEGMENTATION, has_losses


@dataclass(frozen=True, slots=True, kw_only=True)
class LossChange:
    """One sample whose loss differs."""

    file: str
    """The id as text where samples have no files."""
    loss_a: float | None
    """None where it is not finite."""
    loss_b: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassIoU:
    """One class in both runs; None where it does not occur."""

    name: str
    iou_a: float | None
    iou_b: float | None
    change: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossChanges:
    """Differences between the losses of two runs."""

    phase: str
    epoch_a: int
    epoch_b: int
    both: int
    """Samples captured in both runs."""
    only_a: int
    only_b: int
    not_captured_a: int
    """Visits of the phase that were not captured, so nothing here is about them; 0 while the phase is under way."""
    not_captured_b: int
    loss_a: float | None
    """Mean over the samples in both; None where it is not finite."""
    loss_b: float | None
    risen: FirstOf[LossChange]
    """Samples whose loss is higher in b, the largest change first."""
    fallen: FirstOf[LossChange]
    accuracy_a: float | None
    """Share of all captured pixels of the phase predicted right; None without masks, as all below."""
    accuracy_b: float | None
    mean_iou_a: float | None
    mean_iou_b: float | None
    classes: tuple[ClassIoU, ...]
    """Every class of either run, in the order of run a."""

    def measures(self) -> dict[str, float | None]:
        """The value of each of MEASURES; None where it is not defined."""
        known = {
            **{name: getattr(self, name) for name in ("accuracy_a", "accuracy_b", "loss_a", "loss_b")},
            **{name: getattr(self, name) for name in ("mean_iou_a", "mean_iou_b", "only_a", "only_b")},
            "accuracy_drop": _less(self.accuracy_a, self.accuracy_b),
            "loss_rise": _less(self.loss_b, self.loss_a),
            "mean_iou_drop": _less(self.mean_iou_a, self.mean_iou_b),
            "images": self.both,
            "labels_changed": 0,
        }
        return {name: known.get(name) for name in MEASURES}


class SampleLosses:
    """Collects the losses of one phase of one epoch. A fold over its visits and sums."""

    def __init__(self, phase: str, epoch: int, info: RunInfo, file_numbers: dict[str, int]) -> None:
        """`file_numbers` gives each file name its number; runs that are compared share it."""
        self.phase = phase
        self.epoch = epoch
        self.info = info
        self.file_numbers = file_numbers
        self.not_captured = 0
        self._measured = Measured(info)
        self._blocks: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]

    def update(self, block: Block) -> None:
        """Take visits. Raises RecordsError, and keeps nothing of the block, if a batch makes no sense."""
        if isinstance(block, Epoch):
            self.not_captured = block.not_captured
        if not isinstance(block, Visits) or not has_losses(block):
            return
        losses, names = block["loss"], block["file"]
        if self.info.task == SEGMENTATION:
            losses, names = losses[block["counted"] > 0], names[block["counted"] > 0]
            self._measured.update(block)
        numbers = [self.file_numbers.setdefault(name, len(self.file_numbers)) for name in names.tolist()]
        self._blocks.append((np.array(numbers, np.int64), losses))

    def rename(self, names: Mapping[str, str]) -> None:
        """Give some files the names that the same files have in the other run."""
        numbers = renamed(self.file_numbers, names)
        self._blocks = [(renumbered(files, numbers), losses) for files, losses in self._blocks]

    def absorb(self, other: SampleLosses) -> None:
        """Take over what `other` has found in the same phase of another training."""
        self._blocks += other._blocks
        self._measured.absorb(other._measured)
        self.not_captured += other.not_captured

    def columns(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """File numbers [N], rising, and the last loss of each."""
        files, losses = map(np.concatenate, zip(*self._blocks, strict=True))
        last = len(files) - 1 - np.unique(files[::-1], return_index=True)[1]
        return files[last], losses[last]

    def masks(self) -> MaskScore | None:
        """Scores of the masks, if there are any."""
        return self._measured.masks(0)


def loss_changes(a: SampleLosses, b: SampleLosses, *, limit: int) -> LossChanges:
    """Compare two phases; list at most `limit` samples in each direction."""
    (files_a, all_a), (files_b, all_b) = a.columns(), b.columns()
    files, rows_a, rows_b = np.intersect1d(files_a, files_b, assume_unique=True, return_indices=True)
    mine, others = all_a[rows_a], all_b[rows_b]
    names = list(a.file_numbers)
    with np.errstate(invalid="ignore"):
        change = np.nan_to_num(others.astype(np.float64) - mine, nan=0.0)

    def changed(sign: int) -> FirstOf[LossChange]:
        chosen = np.flatnonzero(sign * change > 0).tolist()
        chosen.sort(key=lambda i: (-abs(change[i]), names[files[i]]))
        first = (
            LossChange(file=names[files[i]], loss_a=plain_value(mine[i]), loss_b=plain_value(others[i])) for i in chosen[:limit]
        )
        return FirstOf(len(chosen), tuple(first))

    masks_a, masks_b = a.masks(), b.masks()
    return LossChanges(
        phase=a.phase,
        epoch_a=a.epoch,
        epoch_b=b.epoch,
        both=len(files),
        only_a=len(files_a) - len(files),
        only_b=len(files_b) - len(files),
        not_captured_a=a.not_captured,
        not_captured_b=b.not_captured,
        loss_a=_mean(mine),
        loss_b=_mean(others),
        risen=changed(1),
        fallen=changed(-1),
        accuracy_a=masks_a.accuracy if masks_a else None,
        accuracy_b=masks_b.accuracy if masks_b else None,
        mean_iou_a=masks_a.mean_iou if masks_a else None,
        mean_iou_b=masks_b.mean_iou if masks_b else None,
        classes=_classes(masks_a, masks_b),
    )


def _classes(a: MaskScore | None, b: MaskScore | None) -> tuple[ClassIoU, ...]:
    ious_a, ious_b = ({one.name: one.iou for one in masks.classes} if masks else {} for masks in (a, b))
    return tuple(
        ClassIoU(name=name, iou_a=ious_a.get(name), iou_b=ious_b.get(name), change=_less(ious_b.get(name), ious_a.get(name)))
        for name in dict.fromkeys([*ious_a, *ious_b])
    )


def _mean(losses: npt.NDArray[Any]) -> float | None:
    mean = float(losses.mean(dtype=np.float64)) if len(losses) else np.nan
    return mean if isfinite(mean) else None


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
