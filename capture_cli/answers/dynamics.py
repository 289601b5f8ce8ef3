"""Training dynamics: how the predictions for each sample developed over the epochs of a run.

    dynamics = Dynamics("train")
    error = run.fold(dynamics)
    found = dynamics.result()           # SampleDynamics: arrays of one value a sample
    found.aum, found.forgetting         # [N]

One pass. Memory: a few numbers a sample and epoch, and the probabilities [E, N, C] while they fit into MAX_PROBS_BYTES.
The definitions are those of the papers named beside each field; tests/test_dynamics.py computes them again, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.answers.mixed import columns_of, shown_rows
from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import NO_LABEL, RunInfo
from capture_cli.runs import Block, Visits

MAX_PROBS_BYTES = 2**30
"""Probabilities of a run are kept up to this size; of a larger one only margins, losses and p(label) are."""
MAX_IDS = 2**26
"""Samples whose ids are numbers below this are found by an array, others by a dictionary."""
CLASS_TASKS = (None,)
"""Tasks with one label a sample."""
PHASES = ("train", "val", "test")
"""Phases whose samples have labels to learn."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDynamics:
    """One phase of a run, sample by sample: N samples in the order of their first visit, E epochs that visited any."""

    phase: str
    classes: Sequence[str]
    epochs: Ints
    """[E] as recorded, rising."""
    ids: npt.NDArray[Any]
    """[N] int64, or object where ids are texts."""
    files: npt.NDArray[Any]
    """[N] names; the id as text where samples have no files."""
    labels: Ints
    """[N]"""
    margin: Floats
    """[E, N] margin of each visit in nats, NaN where there was none (all below alike)."""
    p_label: Floats
    """[E, N]"""
    loss: Floats
    """[E, N] in nats."""
    probs: Floats | None
    """[E, N, C]; None where they do not fit into MAX_PROBS_BYTES."""
    probs_are_complete: bool
    """False where only the largest were kept and the rest of the probability was spread over the other classes."""
    not_finite: int = 0
    """Recorded visits whose loss was not finite."""
    evenly_mixed: int = 0
    """Visits whose input was of two samples and mostly of neither (mixup, cutmix): no values are kept of them."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> Bools:
        """[E, N] whether the visit's prediction was the label; False where there was none."""
        return np.asarray(np.nan_to_num(self.margin, nan=-1.0) > 0)

    @property
    def visits(self) -> Ints:
        """[N] number of visits with a finite loss; others, such as those of a training that diverged, tell nothing."""
        return np.asarray(np.isfinite(self.loss).sum(0))

    @property
    def usable_epochs(self) -> int:
        """Number of epochs with a finite loss."""
        return int(np.isfinite(self.loss).any(1).sum())

    @property
    def aum(self) -> Floats:
        """[N] area under the margin: its mean over the visits, in nats (Pleiss et al. 2020, eq. 2)."""
        return _mean(self.margin)

    @property
    def confidence(self) -> Floats:
        """[N] mean p(label) (Swayamdipta et al. 2020, section 2)."""
        return _mean(self.p_label)

    @property
    def variability(self) -> Floats:
        """[N] standard deviation of p(label) over the visits (Swayamdipta et al. 2020, section 2)."""
        return np.asarray(np.sqrt(_mean((self.p_label - self.confidence) ** 2)), np.float32)

    @property
    def correctness(self) -> Floats:
        """[N] share of visits whose prediction was the label."""
        return np.asarray(self.correct.sum(0) / np.maximum(self.visits, 1), np.float32)

    @property
    def mean_loss(self) -> Floats:
        """[N] in nats."""
        return _mean(self.loss)

    @property
    def el2n(self) -> Floats | None:
        """[N] mean over the visits of the L2 norm of probabilities minus one-hot label (Paul et al. 2021, definition 2).

        The paper takes the mean over networks in one early epoch; this is the mean over the epochs of one network. None without
        probabilities.
        """
        if self.probs is None:
            return None
        errors = np.array(self.probs)
        errors[:, np.arange(len(self)), self.labels] -= 1
        return _mean(np.sqrt((errors.astype(np.float64) ** 2).sum(2)))

    @property
    def entropy(self) -> Floats | None:
        """[N] mean over the visits of the entropy of the probabilities, in nats; None without probabilities."""
        if self.probs is None:
            return None
        probs = self.probs.astype(np.float64)
        return _mean(-(probs * np.log(np.maximum(probs, 1e-45))).sum(2))

    @property
    def mean_probs(self) -> Floats | None:
        """[N, C] mean probabilities over the visits, NaN where there was none; None without probabilities."""
        return None if self.probs is None else _mean(self.probs)

    @property
    def forgetting(self) -> Ints:
        """[N] visits that were wrong although the visit before was right (Toneva et al. 2019, definition 1)."""
        events = np.zeros(len(self), np.int64)
        last = np.zeros(len(self), bool)
        for seen, right in zip(~np.isnan(self.loss), self.correct, strict=True):
            events += seen & last & ~right
            last = np.where(seen, right, last)
        return events

    @property
    def first_learned(self) -> Ints:
        """[N] first epoch whose prediction was the label; -1 where none was."""
        return np.asarray(np.where(self.correct.any(0), self.epochs[self.correct.argmax(0)], -1))

    @property
    def learned(self) -> Ints:
        """[N] first epoch from which on every prediction was the label; -1 where the last was not."""
        wrong = ~self.correct & ~np.isnan(self.loss)
        after = np.where(wrong.any(0), len(self.epochs) - wrong[::-1].argmax(0), 0)
        return np.asarray(np.where(after < len(self.epochs), self.epochs[np.minimum(after, len(self.epochs) - 1)], -1))


class Dynamics:
    """The fold that collects them."""

    def __init__(self, phase: str, *, training: int | None = None, share: int = 1) -> None:
        """Collect a phase, of a run with folds that of one `training`; `share` folds have MAX_PROBS_BYTES together."""
        self._phase, self._training, self._max_bytes = phase, training, MAX_PROBS_BYTES // share
        self._info: RunInfo | None = None
        self._rows: dict[int | str, int] = {}
        self._files: list[str] = []
        self._labels: list[tuple[Ints, Ints]] = []
        self._parts: list[tuple[int, Ints, dict[str, npt.NDArray[Any]]]] = []
        self._probs_bytes = 0
        self._complete = True
        self._not_finite = self._even = 0
        self._table = np.full(1024, -1, np.int64)
        """Row by id, -1 for none; of ids that are numbers below MAX_IDS."""

    def update(self, block: Block) -> None:
        """Take the visits of the phase. Raises UsageError where samples do not have one label each."""
        if not isinstance(block, Visits) or block.phase != self._phase or not len(block):
            return
        if self._training is None or (block.info.fold or {}).get("number") == self._training:
            self._take(block)

    def _take(self, visits: Visits) -> None:
        if visits.info.task not in CLASS_TASKS:
            raise UsageError(
                f"the task of this run is {visits.info.task}", "training dynamics need one label a sample, as in classification"
            )
        if len(visits["label"]) and visits["label"].min() == NO_LABEL:
            raise UsageError("the samples of this run have no labels", "training dynamics need one label a sample")
        self._info, rows = visits.info, self._rows
        known = len(rows)
        places = self._places(visits["id"])
        if len(rows) > known:
            files = visits["file"]
            fresh = np.unique(places, return_index=True)
            self._files += [files[i] for place, i in zip(*fresh, strict=True) if place >= known]
        shown = shown_rows(visits)
        if shown is None:
            columns = {name: visits[name] for name in ("margin", "p_label", "loss")}
            if self._probs_bytes <= self._max_bytes:
                columns["probs"] = self._dense(visits)
            of_visits = places
        else:
            columns = columns_of(visits, self._dense(visits), shown)
            of_visits = places[shown[shown >= 0]]
            self._even += int((shown < 0).sum())
        self._probs_bytes += columns["probs"].nbytes if "probs" in columns else 0
        self._not_finite += int((~np.isfinite(columns["loss"])).sum())
        self._labels.append((places, visits["label"]))
        self._parts.append((visits.epoch, of_visits, columns))

    def _places(self, ids: npt.NDArray[Any]) -> Ints:
        """The row of each sample; new ones get the next rows. Numbers below MAX_IDS are looked up in an array: that is fast."""
        rows = self._rows
        if ids.dtype == object or ids.min() < 0 or ids.max() >= MAX_IDS:
            return np.array([rows.setdefault(one, len(rows)) for one in ids.tolist()], np.int64)
        if ids.max() >= len(self._table):
            longer = np.full(2 * int(ids.max()) + 2, -1, np.int64)
            longer[: len(self._table)] = self._table
            self._table = longer
        for one in ids[self._table[ids] < 0].tolist():
            self._table[one] = rows.setdefault(one, len(rows))
        return np.asarray(self._table[ids])

    def _dense(self, visits: Visits) -> Floats:
        """[N, C] the probabilities; of the largest K the rest is spread evenly over the other classes."""
        if "topk" not in visits:
            return np.asarray(visits["probs"])
        self._complete = False
        kept, topk, classes = visits["probs"], visits["topk"], len(visits.info.classes)
        rest = np.maximum(0, 1 - kept.sum(1)) / max(1, classes - kept.shape[1])
        dense = np.repeat(rest[:, None], classes, axis=1).astype(np.float32)
        np.put_along_axis(dense, topk, kept, axis=1)
        return dense

    def __bool__(self) -> bool:
        """Return whether the phase has visits."""
        return bool(self._parts)

    def result(self) -> SampleDynamics:
        """The dynamics of all samples. Raises RecordsError where the phase has no visits."""
        if not self._parts or self._info is None:
            raise RecordsError(f"no visits of the phase {self._phase} were captured")
        epochs = sorted({epoch for epoch, _, _ in self._parts})
        shape = len(epochs), len(self._rows)
        arrays = {name: np.full(shape, np.nan, np.float32) for name in ("margin", "p_label", "loss")}
        fits = self._probs_bytes <= self._max_bytes
        probs = np.full((*shape, len(self._info.classes)), np.nan, np.float32) if fits else None
        labels = np.zeros(len(self._rows), np.int64)
        for places, of_samples in self._labels:
            labels[places] = of_samples
        for epoch, places, columns in self._parts:
            at = epochs.index(epoch)
            for name, array in arrays.items():
                array[at, places] = columns[name]
            if probs is not None:
                probs[at, places] = columns["probs"]
        names = list(self._rows)
        ids = np.array(names, np.int64) if names and not isinstance(names[0], str) else np.array(names, object)
        files = np.empty(len(self._files), object)
        files[:] = self._files
        return SampleDynamics(
            phase=self._phase,
            classes=self._info.classes,
            epochs=np.array(epochs, np.int64),
            ids=ids,
            files=files,
            labels=labels,
            probs=probs,
            probs_are_complete=self._complete,
            not_finite=self._not_finite,
            evenly_mixed=self._even,
            **arrays,
        )


def _mean(values: npt.NDArray[Any]) -> Floats:
    """[N, ...] mean over the epochs, visits that did not happen aside; NaN where there was none."""
    seen = ~np.isnan(values)
    counts = seen.sum(0)
    sums = np.where(seen, values, 0).sum(0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / counts, np.float32)
