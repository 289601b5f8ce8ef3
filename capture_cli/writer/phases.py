"""The open phases of a run: their sums, and the ids they have seen.

    sums = phases.enter("train", 1)
    phases.open["train"] = sums.plus(n=64, loss=..., correct=..., captured=True)
    record = phases.sums("train").to_record(accuracy=True)
    phases.leave("train")

Several phases may be open: a loop that evaluates in the middle of an epoch continues the epoch afterwards.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from capture_cli.errors import UsageError, shown
from capture_cli.records import Epoch, Ints
from capture_cli.records.checking import PHASE

CLASS_COUNTS = ("labelled", "predicted", "correct")
_MAX_FLAGS = 2**26


@dataclass
class Sums:
    """Sums over every sample of one phase of one epoch, captured or not."""

    phase: str = ""
    epoch: int = -1
    batches: int = 0
    n: int = 0
    loss: float = 0.0
    correct: float = 0
    captured: int = 0
    classes: Ints | None = None
    """[3, C] samples (or pixels) labelled, predicted and correct, by class; None where they are not counted."""
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Sum and count of each named number."""
    padded: int = 0
    """Visits that are not counted: a sampler repeated samples so that all processes get equally many."""

    def plus(self, *, n: int, loss: float, correct: float, captured: bool, classes: Ints | None = None) -> "Sums":
        """Return the sums with one more batch of n samples."""
        loss, correct, kept = self.loss + loss, self.correct + correct, self.captured + captured * n
        if classes is not None and self.classes is not None:
            classes = self.classes + classes
        return Sums(
            self.phase, self.epoch, self.batches + 1, self.n + n, loss, correct, kept, classes, self.numbers, self.padded
        )

    def with_numbers(self, numbers: Mapping[str, Sequence[float]]) -> "Sums":
        """Return the sums with the sum and count of each of these."""
        added = {name: (total, n) for name, (total, n) in self.numbers.items()}
        for name, (total, n) in numbers.items():
            before, count = added.get(name, (0.0, 0))
            added[name] = (before + total, count + n)
        return replace(self, numbers=added)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Sums":
        """Read what `to_json` returned."""
        counts = values["classes"]
        return cls(**{**values, "classes": None if counts is None else np.array(counts, np.int64)})

    def to_json(self) -> dict[str, Any]:
        """Return the sums as plain values, as a checkpoint holds them: named numbers and padding only if there are any."""
        values = {**asdict(self), "classes": None if self.classes is None else self.classes.tolist()}
        return {name: value for name, value in values.items() if value or name not in ("numbers", "padded")}

    def to_record(self, *, accuracy: bool) -> Epoch:
        """Return the record of the phase."""
        correct, counted = self.correct, float(self.n)
        if self.classes is not None and self.classes[0].any():
            correct, counted = int(self.classes[2].sum()), int(self.classes[0].sum())
        return Epoch(
            phase=self.phase,
            epoch=self.epoch,
            n=self.n,
            loss=self.loss / self.n if self.n else math.nan,
            accuracy=correct / counted if accuracy and counted else None,
            captured=self.captured,
            not_captured=self.n - self.captured,
            class_counts=None if self.classes is None else dict(zip(CLASS_COUNTS, self.classes.tolist(), strict=True)),
            number_means=number_means(self.numbers) or None,
            padded=self.padded or None,
        )


def number_means(sums: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return the mean of each named number, None where it is not finite, and the samples that had it."""
    means = {name: (total / n if n else math.nan, int(n)) for name, (total, n) in sums.items()}
    return {name: {"mean": mean if math.isfinite(mean) else None, "n": n} for name, (mean, n) in means.items()}


class Phases:
    """The open phases, the most recent one last."""

    def __init__(self) -> None:
        self.open: dict[str, Sums] = {}
        self.ended: dict[str, int] = {}
        """Phase -> its last epoch that has ended."""
        self._seen: dict[str, _Seen] = {}
        self._checked: tuple[_Seen, Sequence[int | str]] | None = None
        """The ids of a batch that is not counted yet, and the set that has them already."""

    def resume(self, open_phases: Mapping[str, Sums], ended: Mapping[str, int]) -> None:
        """Continue with the phases of an earlier loop; their ids may come again."""
        self.open, self.ended = dict(open_phases), dict(ended)
        self._seen = {phase: _Seen() for phase in open_phases}

    def check(self, phase: str, epoch: int) -> None:
        """Raise UsageError unless a batch of this phase and epoch may come: epochs of a phase never go back."""
        if isinstance(phase, str) and type(epoch) is int and phase in self.open and self.open[phase].epoch == epoch:
            return
        if not isinstance(phase, str) or not re.fullmatch(PHASE, phase):
            raise UsageError(f"phase={phase!r} is not valid", "choose a short lower-case word, such as train or val")
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise UsageError(f"epoch={shown(epoch)} is not valid", "choose a whole number from 0")
        if epoch <= self.ended.get(phase, -1) or (phase in self.open and epoch < self.open[phase].epoch):
            raise UsageError(
                f"{phase} epoch {epoch} has ended",
                "count epochs up within a phase; a second evaluation needs a phase of its own, such as val-2",
            )

    def check_ids(self, phase: str, epoch: int, ids: Sequence[int | str]) -> None:
        """Raise UsageError if an id repeats within a phase of an epoch."""
        if self._checked:  # that batch was refused
            self._checked[0].remove(self._checked[1])
            self._checked = None
        seen = self._seen[phase] if phase in self.open and self.open[phase].epoch == epoch else _Seen()
        if not seen.add(ids):
            counts = Counter(ids)
            again = next(one for one in ids if counts[one] > 1 or one in seen)
            raise UsageError(
                f"ids: {again!r} comes twice in {phase} epoch {epoch}", "if that is intended, use Recorder(repeats=True)"
            )
        self._checked = seen, ids

    def enter(self, phase: str, epoch: int) -> Sums:
        """Return the sums of a phase, opening it if needed. Its epoch before must have been left."""
        sums = self.open.get(phase) or Sums(phase, epoch)
        if not sums.batches:
            self._seen[phase] = _Seen()
        if next(reversed(self.open), None) != phase:  # in one step, for Ctrl-C may come between any two
            self.open = {name: one for name, one in self.open.items() if name != phase} | {phase: sums}
        return sums

    def batches(self, phase: str, epoch: int) -> int:
        """Return the number of batches so far in a phase of an epoch."""
        sums = self.open.get(phase)
        return sums.batches if sums and sums.epoch == epoch else 0

    def add_ids(self, phase: str) -> None:
        """Remember the ids that were checked: their batch is counted."""
        if self._checked:
            self._seen[phase], self._checked = self._checked[0], None

    def sums(self, phase: str | None = None) -> Sums:
        """Return the sums of a phase, by default the most recent one. Raises UsageError if it is not open."""
        name = phase if phase is not None else next(reversed(self.open), "")
        if name not in self.open:
            raise UsageError(f"the phase {name!r} has no batch since its last end", "end a phase after its last batch")
        return self.open[name]

    def leave(self, phase: str) -> None:
        """Close a phase whose record is written."""
        self.ended[phase] = self.open.pop(phase).epoch


class _Seen:
    """A set of ids: one byte per integer up to the largest, since ids of data sets are small; a set for the others."""

    def __init__(self) -> None:
        self._flags = bytearray()
        self._others: set[int | str] = set()

    def __contains__(self, one: int | str) -> bool:
        if isinstance(one, int) and 0 <= one < len(self._flags):
            return bool(self._flags[one])
        return one in self._others

    def add(self, ids: Sequence[int | str]) -> bool:
        """Add the ids of a batch; return False, and add none, if one is there or comes twice."""
        small, others = _split(ids)
        flags = self._flags
        if small and (needed := max(small) + 1) > len(flags):
            flags.extend(bytes(max(needed, 2 * len(flags)) - len(flags)))
        for number, one in enumerate(small):  # for one batch this is faster than sets and arrays
            if flags[one]:
                self._clear(small[:number])
                return False
            flags[one] = 1
        if others and (len(set(others)) < len(others) or not self._others.isdisjoint(others)):
            self._clear(small)
            return False
        self._others.update(others)
        return True

    def remove(self, ids: Sequence[int | str]) -> None:
        """Take back what `add` has added."""
        small, others = _split(ids)
        self._clear(small)
        self._others.difference_update(others)

    def _clear(self, small: Sequence[int]) -> None:
        for one in small:
            self._flags[one] = 0


def _split(ids: Sequence[int | str]) -> tuple[Sequence[int], Sequence[int | str]]:
    """Split ids into small integers and others."""
    if isinstance(ids[0], str):
        return (), ids
    numbers: Sequence[int] = ids  # type: ignore[assignment] # all are of one type
    if min(numbers) >= 0 and max(numbers) < _MAX_FLAGS:
        return numbers, ()
    return [one for one in numbers if 0 <= one < _MAX_FLAGS], [one for one in numbers if not 0 <= one < _MAX_FLAGS]
