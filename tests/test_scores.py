"""Balanced accuracy and macro F1: the definitions, class by class, and the cases in which there is nothing to tell."""

import numpy as np
import pytest

from capture_cli.answers.class_counts import balanced_accuracy, class_counts, macro_f1


def scores(labels: list[int], preds: list[int], classes: int) -> tuple[float | None, float | None]:
    counts = class_counts(np.array(labels, np.int64), np.array(preds, np.int64), np.array(labels) == np.array(preds), classes)
    return balanced_accuracy(counts), macro_f1(counts)


def test_the_examples_of_scikit_learn() -> None:
    """Its documentation has these values for balanced_accuracy_score and f1_score(average="macro")."""
    assert scores([0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1], 2)[0] == pytest.approx(0.625)
    assert scores([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], 3)[1] == pytest.approx(0.8 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_they_are_means_over_classes(seed: int) -> None:
    """Recall of every class with samples, F1 of every class that occurs, computed from sets of samples."""
    rng = np.random.default_rng(seed)
    labels, preds = rng.integers(1, 5, 40), rng.integers(0, 6, 40)
    recalls, f1s = [], []
    for k in range(8):
        here, said = set(np.flatnonzero(labels == k)), set(np.flatnonzero(preds == k))
        if here:
            recalls.append(len(here & said) / len(here))
        if here | said:
            precision, recall = len(here & said) / max(1, len(said)), len(here & said) / max(1, len(here))
            f1s.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    found = scores(labels.tolist(), preds.tolist(), 8)
    assert found == (pytest.approx(np.mean(recalls)), pytest.approx(np.mean(f1s)))


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    """Predicting the frequent class throughout is 90 % accurate and has a balanced accuracy of one half."""
    assert scores([0] * 9 + [1], [0] * 10, 2)[0] == pytest.approx(0.5)


def test_without_samples_there_is_no_score() -> None:
    """None, rather than a number that looks like one."""
    assert scores([], [], 3) == (None, None)


def test_a_prediction_from_nan_is_no_hit() -> None:
    """Samples whose loss was not finite count as wrong."""
    labels = np.array([0, 1])
    counts = class_counts(labels, labels, np.array([False, True]), 2)
    assert balanced_accuracy(counts) == pytest.approx(0.5)
