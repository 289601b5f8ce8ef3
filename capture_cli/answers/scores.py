"""One phase of one epoch in detail: scores by class or output, the confusions, the worst samples.

    scores = Scores("val", 3, info, worst=8, confusions=10)     # a fold over the visits and the sums of that phase
    scores.update(visits)
    scores.result()                                             # PhaseScore

Memory: 24 bytes a sample, and the worst samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.answers.calibration import Calibration, calibration
from capture_cli.answers.class_counts import ClassCounts, balanced_accuracy, class_counts, counts_of, macro_f1
from capture_cli.answers.masks import MaskScore, Measured, NumberMean
from capture_cli.answers.visits import AnyVisit, visits_at
from capture_cli.records import NO_LABEL, Epoch, RunInfo
from capture_cli.runs import Block, Visits, summed
from capture_cli.runs.masks import LOSS, MEASURE_TASKS, has_losses
from capture_cli.runs.visits import NUMBER_TASKS, Floats, Ints, predicts_classes

MAX_MATRIX = 50
"""Classes up to which the confusion matrix is kept whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Scores of the samples with one label."""

    name: str
    n: int
    correct: int
    recall: float | None
    """Share of them that is correct; None without samples."""
    precision: float | None
    """Share of the samples predicted as the class that has this label; None if there are none."""
    f1: float | None
    """Harmonic mean of both; None if the class is neither a label nor a prediction."""
    loss: float | None
    """Mean, nats; None without samples or where it is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Samples labelled `label` that were predicted as `pred`."""

    label: str
    pred: str
    count: int
    rate: float
    """`count` as a fraction of the samples labelled `label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedClass:
    """Samples without labels that were predicted as `name`."""

    name: str
    n: int
    p_pred: float | None
    """The mean of their p(pred)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputScore:
    """Scores of one output of a multi-label or regression task; None where undefined or not finite.

    Accuracy, precision and recall are those of the decision "above 0.5", and None for `regression`.
    """

    name: str
    target: float | None
    """Mean of the targets; for `multilabel` the fraction of positive samples."""
    output: float | None
    """Mean of the outputs."""
    error: float | None
    """Mean of |output - target|."""
    rms_error: float | None
    """Root of the mean of (output - target) ** 2."""
    accuracy: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """One of the visits with the highest losses, and what identifies its image."""

    visit: AnyVisit
    digest: str | None
    """BLAKE2b (16 bytes, hex) of the image file's bytes; None if no samples record names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseScore:
    """Scores of one phase of one epoch.

    Accuracy is over all samples. So are balanced accuracy, macro F1 and the counts of `classes` where the totals of the phase
    count by class (`counts_all`). All else is of the captured samples; nearly always these are all.
    """

    phase: str
    epoch: int
    complete: bool
    """True if the phase has ended."""
    n: int
    """Captured samples; for `sequence`, positions whose label counts."""
    not_captured: int
    correct: int | None
    """Correct among the captured samples; None where targets are numbers."""
    accuracy: float | None
    """Over all samples of a phase that has ended, captured or not; of one under way over the captured ones."""
    counts_all: bool
    """True if balanced accuracy, macro F1 and the counts of `classes` are over all samples, captured or not."""
    loss: float | None
    """Mean over the captured samples, nats; None where it is not finite."""
    balanced_accuracy: float | None
    """Defined in `balanced_accuracy`; None where targets are numbers, and without samples."""
    macro_f1: float | None
    """Defined in `macro_f1`; None likewise."""
    calibration: Calibration | None
    """None where targets are numbers, and without finite probabilities."""
    classes: tuple[ClassScore, ...]
    """Every class, in the order of the run; empty where targets are numbers."""
    confusions: tuple[Confusion, ...]
    """The most frequent first."""
    confusions_omitted: int
    """Pairs of classes beyond those."""
    matrix: tuple[tuple[int, ...], ...]
    """Samples by label (rows) and prediction (columns); empty above MAX_MATRIX classes, and where targets are numbers."""
    outputs: tuple[OutputScore, ...]
    """Every output, in the order of the run, where targets are numbers."""
    worst: tuple[Worst, ...]
    """The highest loss first; losses that are not finite before all others. Without labels, the least certain first."""
    predicted: tuple[PredictedClass, ...] = ()
    """Every class that was predicted, the most frequent first, where samples have no labels."""
    masks: MaskScore | None = None
    """Only for `segmentation`."""
    numbers: tuple[NumberMean, ...] = ()
    """Numbers that the loop named."""

    def to_json(self) -> dict[str, Any]:
        """The scores as plain values."""
        return {**asdict(self), "worst": [{**asdict(one.visit), "digest": one.digest} for one in self.worst]}


class Scores:
    """Works out a PhaseScore. A fold over the visits and the sums of one phase of one epoch."""

    def __init__(
        self,
        phase: str,
        epoch: int,
        info: RunInfo,
        *,
        worst: int = 8,
        confusions: int = 10,
        digest_of: Callable[[int | str], str | None] = lambda _id: None,
    ) -> None:
        """Keep the `worst` samples and at most `confusions` pairs; `digest_of` looks up the digest of a file by sample id."""
        self._phase = phase
        self._epoch = epoch
        self._info = info
        self._max_worst = worst
        self._max_confusions = confusions
        self._digest_of = digest_of
        self._has_numbers = info.task in NUMBER_TASKS
        self._has_classes = predicts_classes(info.task)
        self._measured = Measured(info) if info.task in MEASURE_TASKS or info.number_names else None
        self._sums: Epoch | None = None
        self._losses: list[Floats] = [np.zeros(0, np.float32)]
        self._labels: list[Ints] = [np.zeros(0, np.int64)]
        self._preds: list[Ints] = [np.zeros(0, np.int64)]
        self._p_preds: list[Floats] = [np.zeros(0, np.float32)]
        self._output_sums = np.zeros((8, len(info.classes)))
        self._unlabelled: list[tuple[Ints, Floats]] = []
        """Predictions and their probabilities, of samples without labels."""
        self._worst: list[tuple[float, AnyVisit]] = []
        """Rank and visit, the highest rank first."""

    def update(self, block: Block) -> None:
        """Take visits or sums. Raises RecordsError, and keeps nothing of the block, if a batch makes no sense."""
        if isinstance(block, Epoch):
            self._sums = block
        if not isinstance(block, Visits):
            return
        worst = self._worst_with(block)
        losses = block["loss"]
        if self._info.task == LOSS:
            losses = np.where(np.isnan(losses), block["batch_loss"], losses)
        if self._measured:
            self._measured.update(block)
        if self._has_numbers:
            self._output_sums = _output_sums(block, self._output_sums)
        elif not self._has_classes:
            losses = losses[block["counted"] > 0] if "counted" in block else losses
        elif _has_no_labels(block):
            self._unlabelled.append((block["pred"], block["p_pred"]))
        else:
            labels, preds, p_preds = block["label"], block["pred"], block["p_pred"]
            self._labels.append(labels)
            self._preds.append(preds)
            self._p_preds.append(p_preds)
        self._losses.append(losses)
        self._worst = worst

    def _worst_with(self, visits: Visits) -> list[tuple[float, AnyVisit]]:
        """The worst samples so far, those of `visits` included. Few batches have any: only these are read whole."""
        keep = self._max_worst
        if not has_losses(visits):
            return self._worst
        values = -visits["p_pred"] if _has_no_labels(visits) else visits["loss"]
        ranks = np.where(np.isnan(values), np.float32(np.inf), values)
        least = np.partition(ranks, -keep)[-keep] if 0 < keep < len(ranks) else -np.inf
        candidates = np.flatnonzero(ranks >= least)
        chosen = candidates[np.argsort(-ranks[candidates], kind="stable")][:keep]
        if self._worst and len(self._worst) == keep:
            chosen = chosen[ranks[chosen] > self._worst[-1][0]]
        found = zip(ranks[chosen].tolist(), visits_at(visits, chosen), strict=True)
        return sorted([*self._worst, *found], key=lambda one: -one[0])[:keep]

    def absorb(self, other: Scores) -> None:
        """Take over what was taken of the same phase in another training."""
        if self._sums and other._sums:
            self._sums = summed([self._sums, other._sums])
        else:
            self._sums = None
        for name in ("_losses", "_labels", "_preds", "_p_preds", "_unlabelled"):
            getattr(self, name).extend(getattr(other, name))
        self._output_sums = self._output_sums + other._output_sums
        if self._measured and other._measured:
            self._measured.absorb(other._measured)
        self._worst = sorted([*self._worst, *other._worst], key=lambda one: -one[0])[: self._max_worst]

    def result(self) -> PhaseScore:
        """The scores of what was taken."""
        losses, labels, preds = np.concatenate(self._losses), np.concatenate(self._labels), np.concatenate(self._preds)
        correct = None if not self._has_classes or self._unlabelled else (labels == preds) & np.isfinite(losses)
        confusions, omitted = _confusions(labels, preds, self._info.classes, self._max_confusions)
        counts = None if correct is None else class_counts(labels, preds, correct, len(self._info.classes))
        right, not_captured = None if correct is None else int(correct.sum()), self._sums.not_captured if self._sums else 0
        of_all = counts_of(self._sums) if counts and not_captured and self._sums else None
        if of_all and len(of_all.labelled) == len(self._info.classes):
            counts = of_all
        return PhaseScore(
            phase=self._phase,
            epoch=self._epoch,
            complete=self._sums is not None,
            n=len(losses),
            not_captured=not_captured,
            correct=right,
            accuracy=self._sums.accuracy if not_captured and self._sums else _ratio(right, len(losses)),
            counts_all=not not_captured or counts is of_all,
            loss=_finite(float(losses.sum(dtype=np.float64)) / len(losses)) if len(losses) else None,
            balanced_accuracy=balanced_accuracy(counts) if counts else None,
            macro_f1=macro_f1(counts) if counts else None,
            calibration=None if correct is None else calibration(np.concatenate(self._p_preds), correct),
            classes=_class_scores(counts, losses, labels, self._info.classes) if counts else (),
            confusions=confusions,
            confusions_omitted=omitted,
            matrix=() if correct is None else _matrix(labels, preds, len(self._info.classes)),
            outputs=_output_scores(self._output_sums, len(losses), self._info) if self._has_numbers else (),
            worst=tuple(Worst(visit=visit, digest=self._digest_of(visit.id)) for _, visit in self._worst),
            predicted=_predicted(self._unlabelled, self._info.classes),
            masks=self._measured.masks(self._max_confusions) if self._measured else None,
            numbers=self._measured.means() if self._measured else (),
        )


def _has_no_labels(visits: Visits) -> bool:
    return predicts_classes(visits.info.task) and bool((visits["label"] == NO_LABEL).any())


def _predicted(columns: Sequence[tuple[Ints, Floats]], classes: Sequence[str]) -> tuple[PredictedClass, ...]:
    if not columns:
        return ()
    preds, p_preds = (np.concatenate(column) for column in zip(*columns, strict=True))
    counts, sums = np.bincount(preds, minlength=len(classes)), np.bincount(preds, p_preds, minlength=len(classes))
    chosen = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
    return tuple(PredictedClass(name=classes[i], n=int(counts[i]), p_pred=_finite(sums[i] / counts[i])) for i in chosen)


def _class_scores(counts: ClassCounts, losses: Floats, labels: Ints, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """`counts` may be of more samples than the captured ones, whose losses and labels these are."""
    sums = np.bincount(labels, weights=losses, minlength=len(classes)).tolist()
    captured = np.bincount(labels, minlength=len(classes)).tolist()
    return tuple(
        ClassScore(
            name=name,
            n=n,
            correct=k,
            recall=k / n if n else None,
            precision=k / predicted if predicted else None,
            f1=2 * k / (n + predicted) if n + predicted else None,
            loss=_finite(loss / taken) if taken else None,
        )
        for name, n, predicted, k, loss, taken in zip(classes, *(one.tolist() for one in counts), sums, captured, strict=True)
    )


def _confusions(labels: Ints, preds: Ints, classes: Sequence[str], most: int) -> tuple[tuple[Confusion, ...], int]:
    """The `most` frequent pairs, and how many more there are."""
    wrong = labels != preds
    totals = np.bincount(labels)
    pairs, counts = np.unique(labels[wrong] * len(classes) + preds[wrong], return_counts=True)
    chosen = np.argsort(-counts, kind="stable")[:most]
    found = []
    for pair, count in zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True):
        label, pred = divmod(pair, len(classes))
        found.append(Confusion(label=classes[label], pred=classes[pred], count=count, rate=count / int(totals[label])))
    return tuple(found), len(pairs) - len(found)


def _matrix(labels: Ints, preds: Ints, classes: int) -> tuple[tuple[int, ...], ...]:
    if classes > MAX_MATRIX:
        return ()
    counts = np.bincount(labels * classes + preds, minlength=classes**2).reshape(classes, classes)
    return tuple(map(tuple, counts.tolist()))


def _output_sums(visits: Visits, before: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[8, K] `before` and sums over the samples, added up batch by batch so that they do not depend on the blocks."""
    targets, outputs = visits["targets"].astype(np.float64), visits["outputs"].astype(np.float64)
    off = np.abs(outputs - targets)
    is_positive, is_predicted = targets > 0.5, outputs > 0.5
    is_right = (is_positive == is_predicted) & ~np.isnan(outputs)
    columns = np.stack([targets, outputs, off, off**2, is_right, is_positive, is_predicted, is_positive & is_predicted])
    return sum((columns[:, start:end].sum(1) for start, end in pairwise(visits.starts.tolist())), before)


def _output_scores(sums: npt.NDArray[np.float64], n: int, info: RunInfo) -> tuple[OutputScore, ...]:
    """One for each output; none without samples. `sums` [8, K] are those of `_output_sums`."""
    if not n:
        return ()
    has_sides = info.task == "multilabel"
    return tuple(
        OutputScore(
            name=name,
            target=_finite(target / n),
            output=_finite(output / n),
            error=_finite(off / n),
            rms_error=_finite(math.sqrt(squares / n)),
            accuracy=right / n if has_sides else None,
            precision=both / predicted if has_sides and predicted else None,
            recall=both / positive if has_sides and positive else None,
        )
        for name, (target, output, off, squares, right, positive, predicted, both) in zip(
            info.classes, sums.T.tolist(), strict=True
        )
    )


def _ratio(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else part / whole


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
