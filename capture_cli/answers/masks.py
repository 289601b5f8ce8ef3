"""Masks and named numbers of one phase: IoU by class, pixels taken for others, means of numbers.

    fold = Measured(info)
    fold.update(visits)
    fold.classes(), fold.confusions(10), fold.means()

Pixel counts are summed over the images, and only then divided: IoU is intersection over union of all pixels of a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from capture_cli.records import Epoch, Measures, RunInfo
from capture_cli.runs import Visits
from capture_cli.runs.masks import SEGMENTATION, class_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMask:
    """The pixels of one class, over all images."""

    name: str
    images: int
    """Images that have it, as a label or a prediction."""
    labelled: int
    predicted: int
    correct: int
    iou: float | None
    """correct / (labelled + predicted - correct), 0 to 1; None where the class does not occur."""
    accuracy: float | None
    """correct / labelled; None without labelled pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelConfusion:
    """Pixels labelled `label` that were predicted as `pred`."""

    label: str
    pred: str
    pixels: int
    rate: float
    """`pixels` as a fraction of the pixels labelled `label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskScore:
    """Scores of the masks of a phase, from its captured batches."""

    pixels: int
    """Pixels that count."""
    ignored: int
    correct: int
    accuracy: float | None
    mean_iou: float | None
    """Mean of the classes' IoU, over those that occur."""
    classes: tuple[ClassMask, ...]
    """Every class, in the order of the run."""
    confusions: tuple[PixelConfusion, ...]
    """The most frequent first; of each image only the largest pairs are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberMean:
    """A number that the loop named, over a phase."""

    name: str
    mean: float | None
    """None where it is not finite."""
    n: int
    """Samples that had it; one of a whole batch counts for each of its samples."""


class Measured:
    """Sums the pixels and named numbers of one phase. A fold over its visits."""

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._counts = np.zeros((3, len(info.classes)), np.int64)
        self._images = np.zeros(len(info.classes), np.int64)
        self._ignored = 0
        self._confusions: Counter[tuple[int, int]] = Counter()
        self._numbers: dict[str, tuple[float, int]] = {}

    def update(self, visits: Visits) -> None:
        """Take the next block. Raises RecordsError."""
        batches = [visits.record(number) for number in range(len(visits.lines))]
        for batch in batches:
            b = len(batch.inputs.digests)
            for name, one in (batch.numbers or {}).items():
                self._add(name, float(one.sum(dtype=np.float64)), len(one))
            for name, value in (batch.batch_numbers or {}).items():
                if name not in (batch.numbers or {}):
                    self._add(name, value * b, b)
            if isinstance(batch, Measures) and batch.present is not None and batch.ignored is not None:
                self._counts += class_pixels(batch, len(self._info.classes))
                self._ignored += int(batch.ignored.sum())
                for row in batch.present:
                    self._images[row] += 1
                for label, pred, pixels in (pair for row in batch.confusions or () for pair in row):
                    self._confusions[label, pred] += pixels

    def absorb(self, other: Measured) -> None:
        """Take over the sums of another fold."""
        self._counts += other._counts
        self._images += other._images
        self._ignored += other._ignored
        self._confusions.update(other._confusions)
        for name, (total, n) in other._numbers.items():
            self._add(name, total, n)

    def _add(self, name: str, total: float, n: int) -> None:
        before, count = self._numbers.get(name, (0.0, 0))
        self._numbers[name] = (before + total, count + n)

    def masks(self, most: int) -> MaskScore | None:
        """The scores of the masks, with the `most` frequent confusions; None for another task than segmentation."""
        if self._info.task != SEGMENTATION:
            return None
        labelled, predicted, correct = self._counts
        ious = class_ious(self._counts)
        names, right, pixels = self._info.classes, int(correct.sum()), int(labelled.sum())
        return MaskScore(
            pixels=pixels,
            ignored=self._ignored,
            correct=right,
            accuracy=right / pixels if pixels else None,
            mean_iou=_mean(ious),
            classes=tuple(
                ClassMask(name=name, images=n, labelled=a, predicted=b, correct=c, iou=iou, accuracy=c / a if a else None)
                for name, n, a, b, c, iou in zip(
                    *(names, self._images.tolist(), labelled.tolist(), predicted.tolist(), correct.tolist(), ious), strict=True
                )
            ),
            confusions=tuple(
                PixelConfusion(label=names[a], pred=names[b], pixels=n, rate=n / max(int(labelled[a]), 1))
                for (a, b), n in sorted(self._confusions.items(), key=lambda one: (-one[1], one[0]))[:most]
            ),
        )

    def means(self) -> tuple[NumberMean, ...]:
        """The mean of each named number, in the order of their appearance."""
        means = {name: (total / n if n else np.nan, n) for name, (total, n) in self._numbers.items()}
        return tuple(NumberMean(name=name, mean=mean if isfinite(mean) else None, n=n) for name, (mean, n) in means.items())


def class_ious(counts: Any) -> list[float | None]:
    """The IoU of each class from counts [3, C] of pixels labelled, predicted and correct; None for a class without any."""
    labelled, predicted, correct = np.asarray(counts, np.int64)
    unions = labelled + predicted - correct
    return [c / u if u else None for c, u in zip(correct.tolist(), unions.tolist(), strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None


def mean_iou(totals: Epoch, task: str | None) -> float | None:
    """The mean IoU of a phase, over the classes that occur in it; None for another task, or without counts by class."""
    counts: Mapping[str, Sequence[int]] | None = totals.class_counts
    if task != SEGMENTATION or not counts:
        return None
    return _mean(class_ious([counts[name] for name in ("labelled", "predicted", "correct")]))
