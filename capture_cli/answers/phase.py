"""One phase of one epoch, looked at closely: its classes or outputs, confused pairs, the worst samples, from its batches.

    captured = CapturedPhase("val", 3, run, keep=8)
    captured.take(line)                         # each of its batches
    captured.read()
    captured.score(confusions=10, digest=digest_of)

What it promises: batches wait unread until `read` asks for them, since only the last epoch of a run is looked at. When they
become many, their labels, predictions and losses are kept, and nothing else but the worst samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from capture_cli.answers import columns
from capture_cli.answers.columns import ClassScore, Confusion, OutputScore, Part
from capture_cli.answers.visits import NUMBERS_TASKS, AnyVisit, checked, visit
from capture_cli.errors import RecordsError
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import batch_beginning

if TYPE_CHECKING:
    from capture_cli.runs import Line

_WAITING_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """One of the visits with the highest losses, and what identifies its image."""

    visit: AnyVisit
    digest: str | None
    """BLAKE2b (16 bytes, hex) of the image file's bytes; None if no samples record names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseScore:
    """One phase of one epoch, from its captured batches."""

    phase: str
    epoch: int
    complete: bool
    """Whether its epoch record has been written."""
    n: int
    """Captured samples; of sequences, positions whose label counts."""
    not_captured: int
    correct: int | None
    """None where targets are numbers."""
    loss: float | None
    """Mean over the captured samples, nats; None where it is not finite."""
    classes: tuple[ClassScore, ...]
    """One for each class, in the order of the run; none where targets are numbers."""
    confusions: tuple[Confusion, ...]
    """The most frequent first."""
    confusions_left_out: int
    """Pairs beyond those."""
    outputs: tuple[OutputScore, ...]
    """One for each output, in the order of the run, where targets are numbers."""
    worst: tuple[Worst, ...]
    """The highest loss first; losses that are not finite before all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """What is captured of a phase so far."""

    phase: str
    epoch: int
    n: int
    loss: float | None
    """Mean, nats; None where it is not finite."""


class CapturedPhase:
    """The batches of one phase of one epoch, as far as needed."""

    def __init__(self, phase: str, epoch: int, run: RunInfo, *, keep: int) -> None:
        """Of the worst samples `keep` are kept."""
        self.phase = phase
        self.epoch = epoch
        self._are_numbers = run.task in NUMBERS_TASKS
        self.beginning = batch_beginning("numbers" if self._are_numbers else "batch", phase, epoch)
        """How its batches begin."""
        self.sums: Epoch | None = None
        """Its epoch record, when it has been written."""
        self._run = run
        self._keep = keep
        self._waiting: list[Line] = []
        self._bytes = 0
        self._parts: list[Part] = []
        """Of the batches that were read."""
        self._worst: list[tuple[float, AnyVisit]] = []
        """The highest loss first."""

    def take(self, line: Line) -> None:
        """Add one batch. Raises RecordsError where one of those that waited makes no sense."""
        self._waiting.append(line)
        self._bytes += line.size
        if self._bytes > _WAITING_BYTES:
            self.read()

    def read(self) -> None:
        """Read the batches that wait. Raises RecordsError for the first that makes no sense; those before it count."""
        lines, self._waiting, self._bytes = self._waiting, [], 0
        try:
            self._read(lines)
        except RecordsError:
            for line in lines:
                self._read([line])

    def _read(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        part = (columns.of_numbers if self._are_numbers else columns.of_classes)(lines, self._run)
        self._keep_worst(lines, part)
        self._parts.append(part)

    def _keep_worst(self, lines: Sequence[Line], part: Part) -> None:
        """Only the batches of samples that are among the worst so far, which are few, are read whole."""
        rank = np.where(np.isnan(part.losses), np.float32(np.inf), part.losses)  # what is not a number is worse than any
        least = np.partition(rank, -self._keep)[-self._keep] if 0 < self._keep < len(rank) else -np.inf
        candidates = np.flatnonzero(rank >= least)
        chosen = candidates[np.argsort(-rank[candidates], kind="stable")][: self._keep]
        if self._worst and len(self._worst) == self._keep:
            chosen = chosen[rank[chosen] > self._worst[-1][0]]
        starts = np.cumsum([0, *part.sizes])
        numbers = (np.searchsorted(starts, chosen, "right") - 1).tolist()
        batches = {number: checked(lines[number], self._run) for number in sorted(set(numbers))}
        found = [
            (float(rank[place]), visit(batches[number], int(place - starts[number]), self._run))
            for place, number in zip(chosen, numbers, strict=True)
        ]
        self._worst = sorted([*self._worst, *found], key=lambda one: -one[0])[: self._keep]

    def so_far(self) -> UnderWay:
        """The sums of what was read."""
        losses = columns.joined(self._parts).losses
        return UnderWay(phase=self.phase, epoch=self.epoch, n=len(losses), loss=columns.mean(losses))

    def score(self, confusions: int, digest: Callable[[int | str], str | None]) -> PhaseScore:
        """Work out what was read. `digest` knows the digest of a sample's file, by its id."""
        part = columns.joined(self._parts)
        pairs, left_out = columns.confusions(part, self._run, confusions)
        return PhaseScore(
            phase=self.phase,
            epoch=self.epoch,
            complete=self.sums is not None,
            n=len(part.losses),
            not_captured=self.sums.not_captured if self.sums else 0,
            correct=None if self._are_numbers else int(part.right.sum()),
            loss=columns.mean(part.losses),
            classes=() if self._are_numbers else columns.class_scores(part, self._run),
            confusions=pairs,
            confusions_left_out=left_out,
            outputs=columns.output_scores(part, self._run),
            worst=tuple(Worst(visit=one, digest=digest(one.id)) for _, one in self._worst),
        )
