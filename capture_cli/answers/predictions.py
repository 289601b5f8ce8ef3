"""Changes between the predictions of two runs: the same phase of both, image by image.

    a, b = Predictions(files), Predictions(files)       # folds over one phase; `files` is shared
    changes = prediction_changes(a, b, limit=10)

Images are matched by the number of their file, classes by name. If an image is in the phase more than once, its last visit
counts. Memory: a number for each file name and a few bytes an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.answers.calibration import Calibration, calibration
from capture_cli.answers.comparison import mcnemar
from capture_cli.answers.files import FirstOf
from capture_cli.answers.visits import plain_value
from capture_cli.records import NO_LABEL, Epoch, RunInfo
from capture_cli.runs import Block, Visits
from capture_cli.runs.visits import Floats, Ints

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One image that one run has right and the other wrong; labels and predictions are class names."""

    file: str
    label: str
    pred_a: str
    pred_b: str
    p_label_a: float | None
    """Probability of the label, None where it is not finite."""
    p_label_b: float | None
    digest_a: str | None = None
    """Digest of the image file in run a (BLAKE2b, 32 hex digits), None where the records do not name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChange:
    """One image whose label is not the same in both runs: it was corrected, or the label rule or a class name changed."""

    file: str
    label_a: str
    label_b: str
    pred_a: str
    pred_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """One class over the images that are compared."""

    name: str
    n: int
    """Images with this label."""
    correct_a: int
    correct_b: int
    change: float | None
    """Accuracy in b minus accuracy in a; None without images."""
    loss_a: float | None
    """Mean loss of the images with this label, nats; None without images, or where it is not finite."""
    loss_b: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPhase:
    """The compared phase of one run."""

    epoch: int
    complete: bool
    """True if the phase has ended."""
    n: int
    """Captured images."""
    not_captured: int
    """Visits of the phase that were not captured, so nothing here is about them; 0 while the phase is under way."""
    correct: int
    """Correct among the images that are compared."""
    loss: float | None
    """Mean loss over the images that are compared, nats; None where it is not finite."""
    calibration: Calibration | None
    """Over the same images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionChanges:
    """Differences between the predictions of two runs, over the images that both have with the same label."""

    phase: str
    a: ComparedPhase
    b: ComparedPhase
    both: int
    """Images that are compared: captured in both runs, with the same label."""
    labels_changed: FirstOf[LabelChange]
    """Images captured in both runs with different labels: a prediction that is right by one of them only is no change."""
    right_to_wrong: FirstOf[Flip]
    """Right in a and wrong in b, the largest change of p(label) first."""
    wrong_to_right: FirstOf[Flip]
    wrong_to_wrong: int
    """Images that are wrong in both runs, with different predictions."""
    mcnemar_p: float
    """p-value of McNemar's exact test: how often chance alone would flip images so unevenly."""
    classes: tuple[ClassChange, ...]
    """Every class of either run, in the order of run a."""


class _Columns(NamedTuple):
    """The last prediction for each of N images."""

    files: Ints
    """[N] file numbers, rising."""
    labels: Ints
    """[N] positions in the classes, as are `preds`."""
    preds: Ints
    p_labels: Floats
    p_preds: Floats
    losses: Floats

    def chosen(self, rows: Ints | Bools) -> _Columns:
        """Some of the rows."""
        return _Columns._make(column[rows] for column in self)


class Predictions:
    """Collects the predictions of one phase of one epoch. A fold over its visits and sums, for a classification run."""

    def __init__(self, phase: str, epoch: int, info: RunInfo, file_numbers: dict[str, int]) -> None:
        """`file_numbers` gives each file name its number; runs that are compared share it."""
        self.phase = phase
        self.epoch = epoch
        self.info = info
        self.file_numbers = file_numbers
        self.is_complete = False
        self.not_captured = 0
        self._blocks: list[_Columns] = []

    def update(self, block: Block) -> None:
        """Take visits or sums. Raises RecordsError, and keeps nothing of the block, if a batch makes no sense."""
        if isinstance(block, Epoch):
            self.is_complete, self.not_captured = True, block.not_captured
        elif isinstance(block, Visits):
            if len(block) and block["label"].min() == NO_LABEL:
                return  # nothing can be right or wrong
            columns = (block["label"], block["pred"], block["p_label"], block["p_pred"], block["loss"])
            names: list[str] = block["file"].tolist()
            if self.info.task == "sequence":  # every position has a prediction of its own
                names = [f"{name}:{position}" for name, position in zip(names, block["position"].tolist(), strict=True)]
            numbers = [self.file_numbers.setdefault(name, len(self.file_numbers)) for name in names]
            self._blocks.append(_Columns(np.array(numbers, np.int64), *columns))

    def rename(self, names: Mapping[str, str]) -> None:
        """Give some files the names that the same files have in the other run."""
        numbers = renamed(self.file_numbers, names)
        self._blocks = [one._replace(files=renumbered(one.files, numbers)) for one in self._blocks]

    def absorb(self, other: Predictions) -> None:
        """Take over the predictions for the same phase in another training."""
        self.is_complete = self.is_complete and other.is_complete
        self.not_captured += other.not_captured
        self._blocks += other._blocks

    def __bool__(self) -> bool:
        """Return whether there is any prediction of a labelled image."""
        return bool(self._blocks)

    def columns(self) -> _Columns:
        """The last prediction for each image; at least one block must have been taken."""
        joined = _Columns._make(map(np.concatenate, zip(*self._blocks, strict=True)))
        last = len(joined.files) - 1 - np.unique(joined.files[::-1], return_index=True)[1]
        return joined.chosen(last)


def renamed(file_numbers: Mapping[str, int], names: Mapping[str, str]) -> dict[int, int]:
    """The numbers of files under both of their names, before and after."""
    both = ((file_numbers.get(before), file_numbers.get(after)) for before, after in names.items())
    return {before: after for before, after in both if before is not None and after is not None}


def renumbered(files: Ints, numbers: Mapping[int, int]) -> Ints:
    """Replace those of the numbers [N] that `numbers` names."""
    return np.array([numbers.get(number, number) for number in files.tolist()], np.int64)


def prediction_changes(a: Predictions, b: Predictions, *, limit: int) -> PredictionChanges:
    """Compare two phases; list at most `limit` flips in each direction, and as many changed labels."""
    all_a, all_b = a.columns(), b.columns()
    _, rows_a, rows_b = np.intersect1d(all_a.files, all_b.files, assume_unique=True, return_indices=True)
    classes = list(dict.fromkeys([*a.info.classes, *b.info.classes]))
    mine = _in_classes(all_a, rows_a, a.info.classes, classes)
    others = _in_classes(all_b, rows_b, b.info.classes, classes)
    names = list(a.file_numbers)
    is_same = mine.labels == others.labels
    labels_changed = _label_changes(mine.chosen(~is_same), others.chosen(~is_same), classes, names, limit)
    mine, others = mine.chosen(is_same), others.chosen(is_same)
    files, labels, pred_a, p_a = mine[:4]
    pred_b, p_b = others[2:4]
    right_a, right_b = (labels == pred_a) & np.isfinite(p_a), (labels == pred_b) & np.isfinite(p_b)
    change = np.nan_to_num(np.abs(p_b.astype(np.float64) - p_a))

    def flips(flipped: Bools) -> FirstOf[Flip]:
        chosen = np.flatnonzero(flipped).tolist()
        chosen.sort(key=lambda i: (-change[i], names[files[i]]))
        first = (
            Flip(
                file=names[files[i]],
                label=classes[labels[i]],
                pred_a=classes[pred_a[i]],
                pred_b=classes[pred_b[i]],
                p_label_a=plain_value(p_a[i]),
                p_label_b=plain_value(p_b[i]),
            )
            for i in chosen[:limit]
        )
        return FirstOf(len(chosen), tuple(first))

    right_to_wrong, wrong_to_right = flips(right_a & ~right_b), flips(~right_a & right_b)
    return PredictionChanges(
        phase=a.phase,
        a=_compared(a, len(all_a.files), mine, right_a),
        b=_compared(b, len(all_b.files), others, right_b),
        both=len(files),
        labels_changed=labels_changed,
        right_to_wrong=right_to_wrong,
        wrong_to_right=wrong_to_right,
        wrong_to_wrong=int((~right_a & ~right_b & (pred_a != pred_b)).sum()),
        mcnemar_p=mcnemar(right_to_wrong.count, wrong_to_right.count),
        classes=_class_changes(classes, mine, right_a, others, right_b),
    )


def _label_changes(a: _Columns, b: _Columns, classes: Sequence[str], names: Sequence[str], limit: int) -> FirstOf[LabelChange]:
    """The images of which these are the predictions in both runs, by name."""
    files = [names[number] for number in a.files.tolist()]
    order = sorted(range(len(files)), key=lambda i: files[i])
    first = (
        LabelChange(
            file=files[i],
            label_a=classes[a.labels[i]],
            label_b=classes[b.labels[i]],
            pred_a=classes[a.preds[i]],
            pred_b=classes[b.preds[i]],
        )
        for i in order[:limit]
    )
    return FirstOf(len(order), tuple(first))


def _compared(run: Predictions, n: int, columns: _Columns, right: Bools) -> ComparedPhase:
    return ComparedPhase(
        epoch=run.epoch,
        complete=run.is_complete,
        n=n,
        not_captured=run.not_captured,
        correct=int(right.sum()),
        loss=_mean(float(columns.losses.sum(dtype=np.float64)), len(right)),
        calibration=calibration(columns.p_preds, right),
    )


def _mean(total: float, n: int) -> float | None:
    return total / n if n and isfinite(total) else None


def _in_classes(columns: _Columns, rows: Ints, before: Sequence[str], classes: Sequence[str]) -> _Columns:
    """Some rows, with labels and predictions as positions in `classes` instead of in `before`."""
    positions = {name: position for position, name in enumerate(classes)}
    mapping = np.array([positions[name] for name in before], np.int64)
    chosen = columns.chosen(rows)
    return chosen._replace(labels=mapping[chosen.labels], preds=mapping[chosen.preds])


def _class_changes(classes: Sequence[str], a: _Columns, right_a: Bools, b: _Columns, right_b: Bools) -> tuple[ClassChange, ...]:
    size = len(classes)
    counts = (np.bincount(labels, minlength=size).tolist() for labels in (a.labels, a.labels[right_a], b.labels[right_b]))
    losses = (np.bincount(one.labels, one.losses, size).tolist() for one in (a, b))
    return tuple(
        ClassChange(
            name=name,
            n=n,
            correct_a=correct_a,
            correct_b=correct_b,
            change=(correct_b - correct_a) / n if n else None,
            loss_a=_mean(loss_a, n),
            loss_b=_mean(loss_b, n),
        )
        for name, n, correct_a, correct_b, loss_a, loss_b in zip(classes, *counts, *losses, strict=True)
    )
