"""The best epoch of a training, and whether it overfits, from the totals of its phases alone.

    fold = BestEpochs("val_accuracy")
    fold.update(epoch_record)           # takes any block of a run, uses Epoch
    fold.result()                       # BestEpoch, or None before the first validation

The metric is one of METRICS. Among epochs of equal accuracy the one with the lower validation loss is better, then the earlier.
Training uses this fold to keep the best weights and to stop early, `inspect` and the live view to mark the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

from capture_cli.answers.class_counts import balanced_accuracy, counts_of, macro_f1
from capture_cli.answers.masks import mean_iou
from capture_cli.answers.shares import percent
from capture_cli.errors import UsageError, shown
from capture_cli.records import Epoch, Record
from capture_cli.runs import Block, FoldedEpoch, Run
from capture_cli.runs.masks import LOSS, SEGMENTATION

METRICS = ("val_accuracy", "val_loss", "balanced_accuracy")
DEFAULT_METRIC = METRICS[0]
TASK_METRICS = {SEGMENTATION: "mean_iou", LOSS: "val_loss", "regression": "val_loss"}
"""Metrics of runs without one label a sample."""
RISE = 0.05
"""A validation loss rises if it ends above its lowest value by this fraction of it, ..."""
RISE_EPOCHS = 2
"""... at least so many epochs later, while the training loss fell."""
GAP = 0.1
"""A model overfits if its training accuracy is so far above its validation accuracy, with half the errors, not by chance."""
UNEVEN = 2
"""Classes are uneven if the largest has so many times the samples of the smallest."""
_EPOCH_NAME = re.compile(r"best|last|[0-9]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BestEpoch:
    """The epoch with the best value of a metric."""

    metric: str
    epoch: int
    value: float
    last: int
    """The last epoch that was evaluated."""
    first: int = 1
    """The first epoch of any phase: a loop of one's own may count from 0."""
    overfits_since: int | None
    """The epoch of the lowest validation loss, if that has risen since while the training loss fell."""
    gap: tuple[float, float] | None
    """Training and validation accuracy of the last epoch, if the first is far higher."""

    @property
    def sentence(self) -> str:
        """The best epoch for people, and whether the model overfits."""
        shown = f"{self.value:.3f}" if self.metric in TASK_METRICS.values() else percent(self.value)
        metric = {"val_loss": "validation loss", "val_accuracy": "validation accuracy", "mean_iou": "mean IoU"}.get(self.metric)
        among = f"{self.last}" if self.first == 1 else f"{self.first} to {self.last}"
        text = f"Best epoch {self.epoch} of {among} ({metric or self.metric.replace('_', ' ')} {shown})"
        if self.overfits_since is None:
            return text
        return f"{text}; the validation loss rises since epoch {self.overfits_since}: overfitting"

    @property
    def gap_sentence(self) -> str:
        """Both accuracies for people, if the model fits its training images far better than others; else empty."""
        if self.gap is None:
            return ""
        train, val = self.gap
        return (
            f"Overfitting: in epoch {self.last} the training accuracy is {percent(train)}, "
            f"the validation accuracy {percent(val)}. "
            "More images or augmentation narrow the gap."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class BestEpochs:
    """Finds the best epoch. A fold; also of the records of a training under way."""

    def __init__(self, metric: object = DEFAULT_METRIC) -> None:
        """Take one of METRICS; anything else, as in records of another origin, is the default."""
        known = (*METRICS, *TASK_METRICS.values())
        self._metric = metric if isinstance(metric, str) and metric in known else DEFAULT_METRIC
        self._best: tuple[float, float] | None = None
        """Rank of the best epoch, less is better: (metric, validation loss)."""
        self._epoch = self._last = self._lowest_epoch = 0
        self._first: int | None = None
        self._value = 0.0
        self._lowest = self._last_loss = inf
        self._train_losses: dict[int, float] = {}
        self._train_accuracies: dict[int, float] = {}
        self._last_accuracy: tuple[float, int] | None = None
        """Validation accuracy of the last epoch, and its samples."""

    def update(self, block: Block | Record) -> None:
        """Take the totals of a phase; other blocks are passed over."""
        if not isinstance(block, Epoch):
            return
        if block.phase in ("train", "val"):
            self._first = block.epoch if self._first is None else min(self._first, block.epoch)
        if block.phase == "train":
            self._train_losses[block.epoch] = block.loss
            self._train_accuracies[block.epoch] = block.accuracy or 0.0
        if block.phase != "val" or (value := metric_of(block, self._metric)) is None:
            return
        loss = block.loss if isfinite(block.loss) else inf
        self._last, self._last_loss = block.epoch, loss
        self._last_accuracy = None if block.accuracy is None or not block.n else (block.accuracy, block.n)
        if loss < self._lowest:
            self._lowest, self._lowest_epoch = loss, block.epoch
        rank = (loss if self._metric == "val_loss" else -value, loss)
        if self._best is None or rank < self._best:
            self._best, self._epoch, self._value = rank, block.epoch, value

    @property
    def last(self) -> int:
        """The last epoch of any phase; 0 before the first."""
        return max(self._last, *self._train_losses, 0)

    @property
    def epochs_since(self) -> int:
        """Epochs evaluated after the best one; 0 before the first."""
        return self._last - self._epoch

    def is_best(self, totals: Epoch) -> bool:
        """Return True if these totals are of the best epoch so far."""
        return totals.phase == "val" and self._best is not None and totals.epoch == self._epoch

    def result(self) -> BestEpoch | None:
        """The best epoch so far; None if none was evaluated."""
        if self._best is None:
            return None
        since = self._lowest_epoch
        rises = self._last - since >= RISE_EPOCHS and self._last_loss > (1 + RISE) * self._lowest
        fell = self._train_losses.get(self._last, inf) < self._train_losses.get(since, -inf)
        return BestEpoch(
            metric=self._metric,
            epoch=self._epoch,
            value=self._value,
            last=self._last,
            first=1 if self._first is None else self._first,
            overfits_since=since if rises and fell else None,
            gap=self._gap(),
        )

    def _gap(self) -> tuple[float, float] | None:
        if self._last_accuracy is None:
            return None
        val, n = self._last_accuracy
        train, noise = self._train_accuracies.get(self._last, 0.0), 2 * (val * (1 - val) / n) ** 0.5
        return (train, val) if train - val >= max(GAP, noise) and 2 * (1 - train) <= 1 - val else None


def best_epochs(config: Mapping[str, Any], task: str | None = None) -> BestEpochs:
    """Return the fold that judges by the option `best` of a run, or by what its task is judged by."""
    return BestEpochs(TASK_METRICS.get(task or "") or config.get("best", DEFAULT_METRIC))


def best_epoch(epochs: Iterable[Epoch], config: Mapping[str, Any], task: str | None = None) -> BestEpoch | None:
    """Find the best epoch of a run; None without validation."""
    fold = best_epochs(config, task)
    for one in epochs:
        fold.update(one)
    return fold.result()


def with_all_folds(epochs: Sequence[Epoch]) -> list[Epoch]:
    """The totals to which every training of a run with folds has come: those of a few are no sums of the run."""
    folds = max((len(one.folds) for one in epochs if isinstance(one, FoldedEpoch)), default=0)
    return [one for one in epochs if not isinstance(one, FoldedEpoch) or one.phase != "val" or len(one.folds) == folds]


def demand_epoch_name(epoch: object, option: str = "epoch") -> str:
    """Return `epoch` as text if it is best, last or a number. Raises UsageError, which calls it `option`."""
    name = epoch if isinstance(epoch, str) else shown(epoch)
    if not _EPOCH_NAME.fullmatch(name):
        raise UsageError(f"{option} {name[:40]} is not valid", "choose best, last or the number of an epoch")
    return name


def chosen_epoch(run: Run, epoch: int | str) -> int | None:
    """Return the number of the epoch that `epoch` names, a number or `best`; None for `last`.

    For `best` the run is read to its end. Raises UsageError for another word, and for `best` where no epoch was validated.
    """
    name = demand_epoch_name(epoch)
    if name != "best":
        return None if name == "last" else int(name)
    totals = _Totals()
    run.fold(totals)
    found = best_epoch(with_all_folds(totals.epochs), run.info.config, run.info.task)
    if found is None:
        raise no_best_epoch(run)
    return found.epoch


def no_best_epoch(run: Run) -> UsageError:
    """The error for a run without validation."""
    return UsageError(f"{run.name} has no best epoch: none was validated", "name an epoch by its number, or last")


class _Totals:
    """Collects the totals of phases. A fold."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []

    def update(self, block: Block) -> None:
        if isinstance(block, Epoch):
            self.epochs.append(block)


def metric_of(totals: Epoch, metric: str) -> float | None:
    """Return the value of one of METRICS, or of a task's, in the totals of a phase; None if they do not have it."""
    if metric == "val_loss":
        return totals.loss
    if metric == "mean_iou":
        return mean_iou(totals, SEGMENTATION)
    return totals.accuracy if metric == "val_accuracy" else balanced(totals)


def balanced(totals: Epoch) -> float | None:
    """Return the balanced accuracy of a phase, 0 to 1; None if its totals have no counts by class."""
    counts = counts_of(totals)
    return balanced_accuracy(counts) if counts else None


def uneven_scores(totals: Epoch) -> tuple[float, float] | None:
    """Return balanced accuracy and macro F1 of a phase whose classes are uneven, for which accuracy says little; else None."""
    counts = counts_of(totals)
    if not counts:
        return None
    sizes = counts.labelled[counts.labelled > 0]
    if len(sizes) < 2 or sizes.max() < UNEVEN * sizes.min():
        return None
    accuracy, f1 = balanced_accuracy(counts), macro_f1(counts)
    return None if accuracy is None or f1 is None else (accuracy, f1)


def scalars(totals: Epoch, task: str | None = None) -> dict[str, float]:
    """Return what a phase is judged by, by name: loss, accuracy, and for uneven classes balanced accuracy and macro F1.

    For masks also mean IoU, and the mean of each named number.
    """
    uneven = uneven_scores(totals) or (None, None)
    values = {"loss": totals.loss, "accuracy": totals.accuracy, "balanced_accuracy": uneven[0], "macro_f1": uneven[1]}
    values |= {"mean_iou": mean_iou(totals, task)}
    values |= {name: one["mean"] for name, one in (totals.number_means or {}).items()}
    return {name: value for name, value in values.items() if value is not None}
