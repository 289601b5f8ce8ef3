"""Which images two runs answer differently: the same phase of both, image by image.

    phases = Phases(names)                  # one for each run, `names` shared
    phases.take(line, run)                  # batches
    phases.finish(epoch)                    # their sums
    pair = phases.common(others)            # the last `val` of both, else `train`, else `test`
    result = outcome(pair[0].answers(), pair[1].answers(), limit=10)

Images are matched by path, classes by name. Where a phase has an image more than once, its last visit counts. What is kept is
one number a file name and a few bytes an image; the batches of a phase are parsed only once it is clear that it is the one to
look at, or when they become many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capture_cli.answers.files import Few
from capture_cli.answers.visits import checked_batch
from capture_cli.records import Epoch, RunInfo

if TYPE_CHECKING:
    from capture_cli.runs import Line

PREFERRED = ("val", "train", "test")
_WAITING_BYTES = 16 << 20

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One image that one run has right and the other wrong; classes by name."""

    file: str
    label: str
    """In run a."""
    label_b: str
    """In run b: another where the label rule or the file's name for it changed."""
    pred_a: str
    pred_b: str
    p_label_a: float | None
    """Probability of the label, with the precision of float32; None where it was not finite."""
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
        """Accuracy in b less that in a; None where one has no image of the class."""
        return self.correct_b / self.n_b - self.correct_a / self.n_a if self.n_a and self.n_b else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The phase of one run that was looked at."""

    epoch: int
    complete: bool
    """Whether its sums have been written."""
    n: int
    """Images captured."""
    correct: int
    """Of the images that both runs have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What differs between the answers of two runs."""

    phase: str
    a: Score
    b: Score
    both: int
    """Images that were captured in both."""
    right_to_wrong: Few[Turn]
    """Right in a and wrong in b, the largest change of p(label) first."""
    wrong_to_right: Few[Turn]
    otherwise_wrong: int
    """Wrong in both, with another prediction."""
    classes: tuple[ClassChange, ...]
    """Every class that either run has, in the order of run a."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One phase of one epoch as columns over N images; `files` are numbers into `names`."""

    phase: str
    epoch: int
    complete: bool
    names: Mapping[str, int]
    classes: Sequence[str]
    files: Ints
    labels: Ints
    preds: Ints
    p_labels: Floats


class Captured:
    """The batches of one phase of one epoch."""

    def __init__(self, phase: str, epoch: int, run: RunInfo, names: dict[str, int]) -> None:
        self.phase = phase
        self.epoch = epoch
        self.complete = False
        self._run = run
        self._names = names
        self._waiting: list[Line] = []
        self._bytes = 0
        self._parts: list[tuple[Ints, Ints, Ints, Floats]] = []

    def take(self, line: Line) -> None:
        """Add one batch. Raises RecordsError where one of those that wait makes no sense."""
        self._waiting.append(line)
        self._bytes += line.size
        if self._bytes > _WAITING_BYTES:
            self._parse()

    def _parse(self) -> None:
        for line in self._waiting:
            batch = checked_batch(line, self._run)
            labels = batch.labels
            p_labels = batch.probs[np.arange(len(labels)), labels] if batch.p_labels is None else batch.p_labels
            names = batch.names
            if batch.positions is not None:  # each position is answered by itself
                names = [f"{name}:{position}" for name, position in zip(names, batch.positions.tolist(), strict=True)]
            files = np.array([self._names.setdefault(name, len(self._names)) for name in names], np.int64)
            self._parts.append((files, labels, batch.preds, p_labels))
        self._waiting.clear()
        self._bytes = 0

    def answers(self) -> Answers:
        """What the network said of each image. Raises RecordsError for a batch that verifies but makes no sense."""
        self._parse()
        files, labels, preds, p_labels = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        last = len(files) - 1 - np.unique(files[::-1], return_index=True)[1]
        return Answers(
            phase=self.phase,
            epoch=self.epoch,
            complete=self.complete,
            names=self._names,
            classes=self._run.classes,
            files=files[last],
            labels=labels[last],
            preds=preds[last],
            p_labels=p_labels[last],
        )


class Phases:
    """The last of each phase of a run: the one that is complete, and the one under way."""

    def __init__(self, names: dict[str, int]) -> None:
        """Files are numbered in `names`, which other runs may share."""
        self._names = names
        self._under_way: dict[str, Captured] = {}
        self._complete: dict[str, Captured] = {}

    def take(self, line: Line, run: RunInfo) -> None:
        """Add one batch. Raises RecordsError for one that makes no sense."""
        phase, epoch = line.phase_and_epoch()
        captured = self._under_way.get(phase)
        if captured is None or captured.epoch != epoch:
            captured = self._under_way[phase] = Captured(phase, epoch, run, self._names)
        captured.take(line)

    def finish(self, sums: Epoch) -> None:
        """A phase is complete."""
        captured = self._under_way.pop(sums.phase, None)
        if captured is not None and captured.epoch == sums.epoch:
            captured.complete = True
            self._complete[sums.phase] = captured

    def common(self, other: Phases) -> tuple[Captured, Captured] | None:
        """The phase that says most of those that both have, complete in both if there is one."""
        for mine, others in ((self._complete, other._complete), (self._last(), other._last())):
            for phase in dict.fromkeys([*PREFERRED, *mine]):
                if phase in mine and phase in others:
                    return mine[phase], others[phase]
        return None

    def _last(self) -> dict[str, Captured]:
        return self._under_way | self._complete


def outcome(a: Answers, b: Answers, *, limit: int) -> Outcome:
    """Compare two phases; at most `limit` images are listed that turned from right to wrong, and as many the other way."""
    _, mine, others = np.intersect1d(a.files, b.files, assume_unique=True, return_indices=True)
    classes = list(dict.fromkeys([*a.classes, *b.classes]))
    label_a, pred_a = _renumbered(a, classes, mine)
    label_b, pred_b = _renumbered(b, classes, others)
    files = list(a.names)
    p_a, p_b = a.p_labels[mine], b.p_labels[others]
    right_a, right_b = (label_a == pred_a) & np.isfinite(p_a), (label_b == pred_b) & np.isfinite(p_b)
    change = np.nan_to_num(np.abs(p_b.astype(np.float64) - p_a))

    def turned(which: Bools) -> Few[Turn]:
        chosen = np.flatnonzero(which)
        order = sorted(chosen.tolist(), key=lambda i: (-change[i], files[a.files[mine[i]]]))
        return Few(
            len(chosen),
            tuple(
                Turn(
                    file=files[a.files[mine[i]]],
                    label=classes[label_a[i]],
                    label_b=classes[label_b[i]],
                    pred_a=classes[pred_a[i]],
                    pred_b=classes[pred_b[i]],
                    p_label_a=_number(p_a[i]),
                    p_label_b=_number(p_b[i]),
                )
                for i in order[:limit]
            ),
        )

    return Outcome(
        phase=a.phase,
        a=Score(epoch=a.epoch, complete=a.complete, n=len(a.files), correct=int(right_a.sum())),
        b=Score(epoch=b.epoch, complete=b.complete, n=len(b.files), correct=int(right_b.sum())),
        both=len(mine),
        right_to_wrong=turned(right_a & ~right_b),
        wrong_to_right=turned(~right_a & right_b),
        otherwise_wrong=int((~right_a & ~right_b & (pred_a != pred_b)).sum()),
        classes=_class_changes(classes, label_a, right_a, label_b, right_b),
    )


def _renumbered(answers: Answers, classes: Sequence[str], chosen: Ints) -> tuple[Ints, Ints]:
    """Labels and predictions of the chosen images as numbers into `classes`."""
    places = {name: place for place, name in enumerate(classes)}
    numbers = np.array([places[name] for name in answers.classes], np.int64)
    return numbers[answers.labels[chosen]], numbers[answers.preds[chosen]]


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


def _number(p: np.float32) -> float | None:
    """A probability as the records have it: the shortest decimal fraction of the float32."""
    return float(str(p)) if math.isfinite(p) else None
