"""Changes between the predictions of two runs: the same phase of both, image by image.

    a, b = Predictions(files), Predictions(files)       # folds over one phase; `files` is shared
    changes = prediction_changes(a.result(), b.result(), limit=10)

Images are matched by path, classes by name. If an image is in the phase more than once, its last visit counts. Memory: a number
for each file name and a few bytes an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.answers.files import FirstOf
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import Block, Visits
from capture_cli.runs.visits import Floats, Ints

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One image that one run has right and the other wrong; labels and predictions are class names."""

    file: str
    label: str
    """In run a."""
    label_b: str
    """In run b: not the same if the label rule, the file name or the class names changed."""
    pred_a: str
    pred_b: str
    p_label_a: float | None
    """Probability of the label, None where it is not finite."""
    p_label_b: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """One class over the images that both runs have."""

    name: str
    n_a: int
    """Images with this label in run a."""
    n_b: int
    correct_a: int
    correct_b: int

    @property
    def change(self) -> float | None:
        """Accuracy in b minus accuracy in a; None if one of them has no image of the class."""
        return self.correct_b / self.n_b - self.correct_a / self.n_a if self.n_a and self.n_b else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPhase:
    """The compared phase of one run."""

    epoch: int
    complete: bool
    """Whether the phase has ended."""
    n: int
    """Captured images."""
    correct: int
    """Correct among the images that both runs have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionChanges:
    """Differences between the predictions of two runs."""

    phase: str
    a: ComparedPhase
    b: ComparedPhase
    both: int
    """Images captured in both runs."""
    right_to_wrong: FirstOf[Flip]
    """Right in a and wrong in b, the largest change of p(label) first."""
    wrong_to_right: FirstOf[Flip]
    wrong_to_wrong: int
    """Images that are wrong in both runs, with different predictions."""
    classes: tuple[ClassChange, ...]
    """Every class of either run, in the order of run a."""

    def to_json(self) -> dict[str, Any]:
        """The changes as plain values."""
        return {**asdict(self), "classes": [{**asdict(one), "change": one.change} for one in self.classes]}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePredictions:
    """The last prediction for each of N images in one phase of one epoch, as columns."""

    phase: str
    epoch: int
    complete: bool
    file_numbers: Mapping[str, int]
    """Number of each file name."""
    classes: Sequence[str]
    files: Ints
    """[N] file numbers, rising."""
    labels: Ints
    """[N] positions in `classes`, as are `preds`."""
    preds: Ints
    p_labels: Floats
    """[N]"""


class Predictions:
    """Collects PhasePredictions. A fold over the visits and the sums of one phase of one epoch of a classification run."""

    def __init__(self, phase: str, epoch: int, info: RunInfo, file_numbers: dict[str, int]) -> None:
        """`file_numbers` gives each file name its number; runs that are compared share it."""
        self._phase = phase
        self._epoch = epoch
        self._info = info
        self._file_numbers = file_numbers
        self._is_complete = False
        self._columns: list[tuple[Ints, Ints, Ints, Floats]] = []

    def update(self, block: Block) -> None:
        """Take visits or sums. Raises RecordsError, and keeps nothing of the block, if a batch makes no sense."""
        if isinstance(block, Epoch):
            self._is_complete = True
        elif isinstance(block, Visits):
            labels, preds, p_labels = block["label"], block["pred"], block["p_label"]
            names: list[str] = block["file"].tolist()
            if self._info.task == "sequence":  # every position has a prediction of its own
                names = [f"{name}:{position}" for name, position in zip(names, block["position"].tolist(), strict=True)]
            numbers = [self._file_numbers.setdefault(name, len(self._file_numbers)) for name in names]
            self._columns.append((np.array(numbers, np.int64), labels, preds, p_labels))

    def result(self) -> PhasePredictions:
        """The predictions of what was taken, which must be something."""
        files, labels, preds, p_labels = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        last = len(files) - 1 - np.unique(files[::-1], return_index=True)[1]
        return PhasePredictions(
            phase=self._phase,
            epoch=self._epoch,
            complete=self._is_complete,
            file_numbers=self._file_numbers,
            classes=self._info.classes,
            files=files[last],
            labels=labels[last],
            preds=preds[last],
            p_labels=p_labels[last],
        )


def prediction_changes(a: PhasePredictions, b: PhasePredictions, *, limit: int) -> PredictionChanges:
    """Compare two phases; list at most `limit` flips in each direction."""
    _, rows_a, rows_b = np.intersect1d(a.files, b.files, assume_unique=True, return_indices=True)
    classes = list(dict.fromkeys([*a.classes, *b.classes]))
    label_a, pred_a = _in_classes(a, classes, rows_a)
    label_b, pred_b = _in_classes(b, classes, rows_b)
    names = list(a.file_numbers)
    p_a, p_b = a.p_labels[rows_a], b.p_labels[rows_b]
    right_a, right_b = (label_a == pred_a) & np.isfinite(p_a), (label_b == pred_b) & np.isfinite(p_b)
    change = np.nan_to_num(np.abs(p_b.astype(np.float64) - p_a))

    def flips(flipped: Bools) -> FirstOf[Flip]:
        chosen = np.flatnonzero(flipped).tolist()
        chosen.sort(key=lambda i: (-change[i], names[a.files[rows_a[i]]]))
        first = (
            Flip(
                file=names[a.files[rows_a[i]]],
                label=classes[label_a[i]],
                label_b=classes[label_b[i]],
                pred_a=classes[pred_a[i]],
                pred_b=classes[pred_b[i]],
                p_label_a=_decimal(p_a[i]),
                p_label_b=_decimal(p_b[i]),
            )
            for i in chosen[:limit]
        )
        return FirstOf(len(chosen), tuple(first))

    return PredictionChanges(
        phase=a.phase,
        a=ComparedPhase(epoch=a.epoch, complete=a.complete, n=len(a.files), correct=int(right_a.sum())),
        b=ComparedPhase(epoch=b.epoch, complete=b.complete, n=len(b.files), correct=int(right_b.sum())),
        both=len(rows_a),
        right_to_wrong=flips(right_a & ~right_b),
        wrong_to_right=flips(~right_a & right_b),
        wrong_to_wrong=int((~right_a & ~right_b & (pred_a != pred_b)).sum()),
        classes=_class_changes(classes, label_a, right_a, label_b, right_b),
    )


def _in_classes(predictions: PhasePredictions, classes: Sequence[str], rows: Ints) -> tuple[Ints, Ints]:
    """Labels and predictions of some rows as positions in `classes`."""
    positions = {name: position for position, name in enumerate(classes)}
    mapping = np.array([positions[name] for name in predictions.classes], np.int64)
    return mapping[predictions.labels[rows]], mapping[predictions.preds[rows]]


def _class_changes(
    classes: Sequence[str], label_a: Ints, right_a: Bools, label_b: Ints, right_b: Bools
) -> tuple[ClassChange, ...]:
    columns = [
        np.bincount(labels, minlength=len(classes)).tolist()
        for labels in (label_a, label_b, label_a[right_a], label_b[right_b])
    ]
    return tuple(
        ClassChange(name=name, n_a=n_a, n_b=n_b, correct_a=correct_a, correct_b=correct_b)
        for name, n_a, n_b, correct_a, correct_b in zip(classes, *columns, strict=True)
    )


def _decimal(p: np.float32) -> float | None:
    """A probability as the records have it: the shortest decimal of the float32."""
    return float(str(p)) if math.isfinite(p) else None
