"""A run at a glance: its header, its epochs, and the scores of the phase that says most about it.

    with open_run("runs/mine") as run:
        summary = summarise(run, worst=8)

That phase is the last complete one of `val`, else `test`, else `train`; if none is complete, one that is under way.
Memory grows with the samples and classes of a run, not with its length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from capture_cli.answers.best import (
    BestEpoch,
    BestEpochs,
    best_epoch,
    best_epochs,
    chosen_epoch,
    demand_epoch_name,
    no_best_epoch,
    uneven_scores,
    with_all_folds,
)
from capture_cli.answers.digests import SampleDigests
from capture_cli.answers.duplicates import Duplicating
from capture_cli.answers.held_out import HeldOut, HoldingOut
from capture_cli.answers.lesson import Finding, Waiting, lesson
from capture_cli.answers.masks import mean_iou
from capture_cli.answers.phases import LatestPhases
from capture_cli.answers.scores import PhaseScore, Scores
from capture_cli.answers.state import RunState
from capture_cli.errors import RecordsError
from capture_cli.records import Epoch, RunInfo, Samples, Skip
from capture_cli.runs import Block, Run, folds_of
from capture_cli.runs.failing import failure, warning
from capture_cli.runs.masks import SEGMENTATION
from capture_cli.runs.names import has_best_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run at a glance."""

    state: RunState
    info: RunInfo
    """The last run record: resuming a completed run adds one."""
    splits: Mapping[str, int]
    """Samples by split."""
    skipped: Mapping[str, int]
    """Skipped files by reason, the most frequent first."""
    epochs: tuple[Epoch, ...]
    """The sums of every phase that has ended, in order."""
    under_way: tuple[PhaseScore, ...]
    """Phases that have begun and have no sums yet."""
    phase: PhaseScore | None
    """None if no phase has begun."""
    best: BestEpoch | None
    """The best epoch, by the metric of the run; None without validation."""
    held_out: HeldOut | None
    """The accuracy on held-out samples of a run with folds; None of any other."""
    lesson: tuple[Finding, ...]
    """Sentences to read first."""
    failure: str
    """The error that ended the run; empty if it did not fail, or its events do not tell."""
    warning: str
    """A warning that the model was trained on images of this evaluation; empty without one."""

    @property
    def by_epoch(self) -> dict[int, dict[str, Epoch]]:
        """The sums by epoch and phase."""
        grouped: dict[int, dict[str, Epoch]] = {}
        for one in self.epochs:
            grouped.setdefault(one.epoch, {})[one.phase] = one
        return grouped

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, numbers as in the records."""
        header = ("folder", "classes", "images", "model", "config", "recipe", "versions", "device", "threads")
        return {
            **self.state.to_json(),
            **({"failure": self.failure} if self.failure else {}),
            **({"warning": self.warning} if self.warning else {}),
            "lesson": [one.to_json() for one in self.lesson],
            **{name: getattr(self.info, name) for name in header},
            "samples": dict(self.splits),
            "skipped": dict(self.skipped),
            "epochs": [
                {"epoch": epoch, **{phase: _sums_to_json(sums, self.info.task) for phase, sums in phases.items()}}
                for epoch, phases in self.by_epoch.items()
            ],
            "under_way": [{name: getattr(one, name) for name in ("phase", "epoch", "n", "loss")} for one in self.under_way],
            "best": self.best.to_json() if self.best else None,
            "phase": self.phase.to_json() if self.phase else None,
            **({"held_out": self.held_out.to_json()} if self.held_out else {}),
        }


def _sums_to_json(sums: Epoch, task: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {name: getattr(sums, name) for name in ("n", "loss", "accuracy", "captured", "not_captured")}
    if uneven := uneven_scores(sums):
        body |= dict(zip(("balanced_accuracy", "macro_f1"), uneven, strict=True))
    if task == SEGMENTATION:
        body["mean_iou"] = mean_iou(sums, task)
    body = {name: value if value is not None and isfinite(value) else None for name, value in body.items()}
    body |= {"numbers": dict(sums.number_means)} if sums.number_means else {}
    return body | ({"padded": sums.padded} if sums.padded else {})


def summarise(run: Run, *, worst: int = 8, confusions: int = 10, epoch: int | str = "last") -> Summary:
    """Read a run once, a run with folds for the epoch `best` twice.

    `epoch` is the one whose scores are in `phase`: a number, `best` or `last`.

    Raises RecordsError if not even its first line can be read, UsageError if it has no such epoch.
    """
    best = demand_epoch_name(epoch) == "best" and not folds_of(run.info)
    chosen = None if best else chosen_epoch(run, epoch)
    fold = Summarising(run, worst=worst, confusions=confusions, epoch=chosen, best=best)
    run.fold(fold)
    return fold.result()


class Summarising:
    """Works out a Summary of a run. A fold over one pass of it."""

    def __init__(self, run: Run, *, worst: int = 8, confusions: int = 10, epoch: int | None = None, best: bool = False) -> None:
        """Keep the `worst` samples and at most `confusions` pairs of classes, of the last epoch, of `epoch`, or of the best.

        The best epoch of a run with folds is known only after the pass, so it cannot be asked for here.
        """
        self._run = run
        self._info: RunInfo | None = None
        self._splits: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._epochs: list[Epoch] = []
        self._wants_best = best
        self._best: BestEpochs | None = None
        """The best epoch so far, once the run record has come."""
        self._digests = SampleDigests()
        self._duplicates = Duplicating(thorough=False)
        self._waiting = Waiting()
        self._held_out = HoldingOut()
        self._phases = LatestPhases(
            lambda phase, epoch, info: Scores(
                phase, epoch, info, worst=worst, confusions=confusions, digest_of=self._digests.of
            ),
            epoch=epoch,
            keep=self._is_best if best else None,
        )

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError."""
        if isinstance(block, RunInfo):
            self._info = block
            self._best = self._best or best_epochs(block.config, block.task)
        elif isinstance(block, Samples):
            self._splits.update(block.splits)
            self._digests.update(block)
        elif isinstance(block, Skip):
            self._skipped[block.reason] += 1
        elif isinstance(block, Epoch):
            self._epochs.append(block)
        self._phases.update(block)
        self._duplicates.update(block)
        self._waiting.update(block)
        self._held_out.update(block)

    def _is_best(self, sums: Epoch) -> bool:
        """Return True if these are the sums of the best epoch so far."""
        if self._best is None:
            return False
        self._best.update(sums)
        return self._best.is_best(sums)

    def result(self) -> Summary:
        """The summary of what was read.

        Raises RecordsError if that was not even a run record, UsageError if it has not the epoch that was asked for.
        """
        if self._info is None:
            raise self._run.error() or RecordsError(f"{self._run.name}: no records")
        if missing := self._phases.missing(self._run.name):
            raise self._run.error() or missing
        best = best_epoch(with_all_folds(self._epochs), self._info.config, self._info.task)
        if self._wants_best and best is None:
            raise no_best_epoch(self._run)
        chosen = self._phases.chosen()
        under_way = list(self._phases.under_way.values())
        if self._wants_best:
            under_way = [one for one in under_way if best and one.epoch == best.epoch]
        error: RecordsError | None = None
        for phase in [*under_way, *([chosen] if chosen else [])]:
            try:
                phase.read()
            except RecordsError as found:
                error = error or found
        scores = chosen.fold.result() if chosen else None
        trained = [one.epoch for one in self._epochs if one.phase == "train"]
        state = RunState.of(self._run, error)
        about_labels, about_learning = self._waiting.findings(self._digests)
        held_out = self._held_out.result()
        return Summary(
            state=state,
            failure=failure(self._run.folder) if state.ending.status == "failed" else "",
            warning=warning(self._run.folder, "trained-on")
            if "file" in self._info.model or self._info.config.get("weights")
            else "",
            info=self._info,
            splits=dict(self._splits),
            skipped=dict(self._skipped.most_common()),
            epochs=tuple(self._epochs),
            under_way=tuple(phase.fold.result() for phase in under_way),
            phase=scores,
            best=best,
            held_out=held_out,
            lesson=lesson(
                held_out=held_out,
                phase=scores,
                best=best if best and best.last > self._epochs[0].epoch else None,
                makes_models=has_best_model(self._run.folder),
                duplicates=self._duplicates.result(),
                about_labels=about_labels,
                about_learning=about_learning,
                is_first=bool(trained and scores and scores.epoch <= trained[0]),
            ),
        )
