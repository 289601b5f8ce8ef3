"""Samples counted by class, and the scores that follow from the counts.

counts = class_counts(labels, preds, correct, 10)       # or counts_of(totals) of a phase
balanced_accuracy(counts), macro_f1(counts)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.records import Epoch
from capture_cli.runs.visits import Ints

Bools = npt.NDArray[np.bool_]


class ClassCounts(NamedTuple):
    """Samples of each of C classes, int64 [C] each."""

    labelled: Ints
    """Samples with this label."""
    predicted: Ints
    """Samples predicted as this class, rightly or wrongly."""
    correct: Ints
    """Samples with this label that were predicted as it."""


def counts_of(totals: Epoch) -> ClassCounts | None:
    """The counts by class in the totals of a phase, over all its samples, captured or not; None if it has none."""
    columns = totals.class_counts
    return ClassCounts(*(np.asarray(columns[name], np.int64) for name in ClassCounts._fields)) if columns else None


def class_counts(labels: Ints, preds: Ints, correct: Bools, classes: int) -> ClassCounts:
    """Count `labels` and `preds` [N], positions in `classes` classes; `correct` [N] is False where a loss was not finite."""
    return ClassCounts(*(np.bincount(one, minlength=classes) for one in (labels, preds, labels[correct])))


def balanced_accuracy(counts: ClassCounts) -> float | None:
    """Balanced accuracy, 0 to 1: the mean over the classes of each one's accuracy; None without samples.

        mean over the classes k with labelled[k] > 0 of correct[k] / labelled[k]

    Every class counts alike, however few samples it has. Classes without samples do not enter the mean, as in
    scikit-learn's `balanced_accuracy_score`. Source: Brodersen et al. 2010, "The balanced accuracy and its posterior
    distribution", for two classes; Mosley 2013 for more.
    """
    has_samples = counts.labelled > 0
    if not has_samples.any():
        return None
    return float((counts.correct[has_samples] / counts.labelled[has_samples]).mean())


def macro_f1(counts: ClassCounts) -> float | None:
    """Macro F1, 0 to 1: the mean over the classes of each one's F1; None without samples.

        F1[k] = 2 correct[k] / (labelled[k] + predicted[k]), the harmonic mean of precision and recall

    The mean is over the classes that occur as a label or a prediction, as in scikit-learn's `f1_score(average="macro")`. It is
    the mean of F1 values, not the F1 of mean precision and recall (Opitz and Burst 2019, "Macro F1 and Macro F1").
    """
    occurs = counts.labelled + counts.predicted
    if not counts.labelled.any():
        return None
    return float((2 * counts.correct[occurs > 0] / occurs[occurs > 0]).mean())
