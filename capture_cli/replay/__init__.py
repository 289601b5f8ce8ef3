"""Captured inputs made again, from the image files and the recipe in the run record, and compared with their digests.

    with open_run("runs/mine") as run:
        replay, report = Replay(run, Selection(phase="val")), Report()
        for made in replay:                 # some samples of one captured batch
            made.inputs                     # float32 [n, C, H, W], those that came out with the recorded digest
            made.add_to(report)             # counts, and what was wrong, by file

What it promises:

* An input is `equal` only if its XXH3-64 is the recorded one, and its file has the recorded BLAKE2b.
* What is not has a cause (capture_cli.replay.findings), looked for in this order: the file, the decoder's version, the record.
* Nothing is believed: lines must verify (capture_cli.runs), recipes are looked up in a fixed table and carried out by this code
  alone, files are opened safely, and no record makes it take much memory. No model is run and torch is not imported.

A run may have several run records, where it was extended or went on elsewhere: each holds for the batches behind it.

Records of a loop of one's own (capture_cli.recorder) have no recipe: how their inputs were made nobody knows. What is stored of
them can be compared all the same, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.errors import RecordsError, UsageError
from capture_cli.preprocessing import digests
from capture_cli.records import Batch, Inputs, Numbers, RunInfo, Samples
from capture_cli.replay.findings import Difference, Report
from capture_cli.replay.originals import File, Lost, Originals, place_of
from capture_cli.replay.remaking import Rules, rules_of
from capture_cli.replay.stored import StoredInputs, Wrong
from capture_cli.runs import Line, Run
from capture_cli.sources.access import opened

PART_BYTES = 2**26
"""Of float32 inputs that are made at once."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which captured inputs to make again; None: all. Numbers are those of the records."""

    phase: str | None = None
    epoch: int | None = None
    batch: int | None = None
    sample: str | None = None
    """A file as it is recorded, or the end of its path; all that fit."""
    limit: int | None = None
    """The first so many of those."""

    def may_hold(self, line: Line) -> bool:
        """Whether a batch line can have such inputs, by what is seen without reading all of it."""
        phase, epoch = line.phase_and_epoch()
        if (self.phase is not None and phase != self.phase) or (self.epoch is not None and epoch != self.epoch):
            return False
        return self.sample is None or not _same_in_json(self.sample) or self.sample.encode() in line.data

    def positions(self, batch: Batch | Numbers) -> list[int]:
        """Places of the chosen inputs in a batch, `limit` aside."""
        if self.batch is not None and batch.batch != self.batch:
            return []
        return [i for i, name in enumerate(names(batch)) if self.sample is None or name.endswith(self.sample)]

    def __str__(self) -> str:
        chosen = {"phase": self.phase, "epoch": self.epoch, "batch": self.batch, "sample": self.sample}
        return " ".join(f"--{name} {value}" for name, value in chosen.items() if value is not None)


def _same_in_json(text: str) -> bool:
    return text.isascii() and json.dumps(text) == f'"{text}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Some samples of one captured batch, made again."""

    line: Line
    run: RunInfo
    """The run record that holds for it."""
    batch: Batch
    n: int
    """How many were asked for."""
    equal: Ints
    """Places in the batch of those that came out as recorded, rising; each of the others has a difference."""
    inputs: Floats
    """[len(equal), C, H, W]"""
    differences: Sequence[Difference]
    stored: int = 0
    """How many stored inputs were compared as well."""

    def add_to(self, report: Report) -> None:
        """Count all of it."""
        report.inputs += self.n
        report.equal += len(self.equal)
        report.stored += self.stored
        for difference in self.differences:
            report.note(difference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What is stored of a batch without recipe, compared."""

    stored: int
    """How many inputs that is."""
    differences: Sequence[Difference]

    def add_to(self, report: Report) -> None:
        """Count all of it."""
        report.stored += self.stored
        for difference in self.differences:
            report.note(difference)


class Replay:
    """Goes through a run once and makes the chosen inputs again, in the order of the records."""

    def __init__(
        self,
        reading: Run,
        selection: Selection,
        *,
        folder: Path | None = None,
        whole: bool = False,
        stored: bool = False,
        without_recipe: bool = False,
    ) -> None:
        """Look for images in `folder`, by default where the run says.

        `whole` batches come in one part, whatever memory that takes; `stored` inputs are compared as well, and of a run
        `without_recipe` they alone: without it such a run is refused.
        """
        self.unstored = 0
        """Inputs of a run without recipe of which nothing is stored."""
        self._without_recipe = without_recipe
        self._reading = reading
        self._selection = selection
        self._folder = folder
        self._whole = whole
        self._stored = StoredInputs(reading.folder) if stored else None
        self._left = selection.limit
        self._samples: dict[str, tuple[int, File]] = {}
        self._descriptor: int | None = None
        self._chapter: _Chapter | None = None

    def __iter__(self) -> Iterator[Made | Compared]:
        """Raises RecordsError for lines that verify and make no sense, UsageError where there is no folder or no recipe.

        That the file ended as it should is for the caller to see: `reading.ending`. With a limit it may not be read to its end.
        """
        with contextlib.ExitStack() as stack:
            if self._stored:
                stack.enter_context(self._stored)
            for line in self._reading.lines():
                if line.kind == "run":
                    self._begin(line, stack)
                elif line.kind == "samples":
                    self._learn(line)
                elif line.kind in ("batch", "numbers") and self._selection.may_hold(line):
                    yield from self._batch(line) if self._chapter else self._stored_alone(line)
                    if self._left == 0:
                        return

    def _begin(self, line: Line, stack: contextlib.ExitStack) -> None:
        run, before = line.run(), self._chapter
        if not run.recipe:
            if not self._without_recipe:
                raise UsageError(
                    f"{self._reading.name} was recorded in a loop of its own: how its inputs were made is not in the records",
                    "--stored, alone, compares those that it kept",
                )
            self._chapter = None
            return
        if self._descriptor is None:
            self._descriptor = stack.enter_context(opened(self._folder or place_of(run, self._reading.folder)))
        with _naming(line):
            rules = rules_of(run)
        same = before is not None and before.rules.geometry == rules.geometry
        originals = before.originals if before and same else Originals(self._descriptor, rules.geometry)
        self._chapter = _Chapter(run, rules, originals)

    def _learn(self, line: Line) -> None:
        record = line.record()
        if isinstance(record, Samples):
            files = map(File, record.files, record.digests)
            self._samples.update(zip(record.files, zip(record.ids, files, strict=True), strict=True))

    def _batch(self, line: Line) -> Iterator[Made]:
        batch, chapter = line.record(), self._chapter
        if not isinstance(batch, Batch) or chapter is None:
            raise line.error("no batch record")
        _demand_inputs(line, batch, chapter.rules)
        positions = self._selection.positions(batch)[: self._left]
        if self._left is not None:
            self._left -= len(positions)
        parts = (self._part(line, batch, chapter, some) for some in chapter.divided(positions))
        if self._whole and positions:
            yield _joined(list(parts))
        else:
            yield from parts

    def _part(self, line: Line, batch: Batch, chapter: _Chapter, positions: Sequence[int]) -> Made:
        differences: list[Difference] = []

        def differs(index: int, cause: str, detail: str) -> None:
            differences.append(Difference(cause, batch.names[index], detail, line.seq + 1, f"{place(batch)}, sample {index}"))

        known = []
        for index in positions:
            if self._samples.get(batch.names[index], (None,))[0] == batch.ids[index]:
                known.append(index)
            else:
                differs(index, "untrue", f"no samples record has this file as number {batch.ids[index]}")
        taken = chapter.originals.take([self._samples[batch.names[index]][1] for index in known])
        for at, lost in taken.lost.items():
            differs(known[at], lost.cause, chapter.explained(lost))
        held, inputs = chapter.make(batch, np.asarray(known, np.int64), taken.slots)
        equal = np.ones(len(held), bool)
        for at, (index, digest) in enumerate(zip(held.tolist(), digests(inputs), strict=True)):
            recorded = batch.inputs.digests[index]
            if digest != recorded:
                equal[at] = False
                differs(index, *chapter.doubt(f"its digest is {digest}, recorded is {recorded}"))
        stored = self._compare_stored(line, batch, positions, differences) if self._stored else 0
        return Made(
            line=line,
            run=chapter.run,
            batch=batch,
            n=len(positions),
            equal=held[equal],
            inputs=inputs if equal.all() else inputs[equal],
            differences=differences,
            stored=stored,
        )

    def _stored_alone(self, line: Line) -> Iterator[Compared]:
        """What there is of a batch whose inputs nobody can make again."""
        batch = line.record()
        if not isinstance(batch, Batch | Numbers):
            raise line.error("no batch record")
        positions = self._selection.positions(batch)[: self._left]
        if self._left is not None:
            self._left -= len(positions)
        differences: list[Difference] = []
        stored = self._compare_stored(line, batch, positions, differences) if positions else 0
        self.unstored += max(0, len(positions) - stored)
        yield Compared(stored=stored, differences=differences)

    def _compare_stored(
        self, line: Line, batch: Batch | Numbers, positions: Sequence[int], differences: list[Difference]
    ) -> int:
        """How many there are of these samples

        The first part has those of the batch before as well, where the flight recorder kept it.
        """
        if self._stored is None:
            return 0
        before, where = self._stored.count, place(batch)

        def differ(wrong: Wrong, subject: str, where: str) -> Difference:
            return Difference(
                "stored", subject, f"{wrong.place}: {wrong.reason}", line.seq + 1, f"{where}, sample {wrong.sample}"
            )

        with _naming(line):
            found = self._stored.wrong(batch.inputs, set(positions))
            called = names(batch)
            differences += [differ(wrong, called[wrong.sample], where) for wrong in found]
            earlier = (batch.flight or {}).get("before")
            if earlier and self._selection.sample is None and positions[0] == 0:
                kept = _inputs_of(earlier)
                found = self._stored.wrong(kept, range(len(kept.digests)))
                differences += [differ(wrong, wrong.place, f"the batch before {where}") for wrong in found]
        return self._stored.count - before


@dataclass(frozen=True, slots=True)
class _Chapter:
    """What one run record says, which holds until the next."""

    run: RunInfo
    rules: Rules
    originals: Originals

    def divided(self, positions: Sequence[int]) -> Iterator[Sequence[int]]:
        """Parts that can be made at once."""
        step = max(1, min(self.originals.room, PART_BYTES // (4 * int(np.prod(self.rules.shape)))))
        for at in range(0, len(positions), step):
            yield positions[at : at + step]

    def make(self, batch: Batch, known: Ints, slots: Ints) -> tuple[Ints, Floats]:
        """Of the samples at the places `known`, those whose pixels are in `slots`, and their inputs."""
        there = slots >= 0
        held, files = known[there], [batch.names[i] for i in known[there].tolist()]
        return held, self.rules.make(self.originals.pixels, slots[there], files, phase=batch.phase, epoch=batch.epoch)

    def explained(self, lost: Lost) -> str:
        """Why a file cannot be had: another decoder may refuse what the run's took."""
        return "; ".join(filter(None, [lost.detail, self.rules.decoder if lost.cause == "unreadable" else ""]))

    def doubt(self, detail: str) -> tuple[str, str]:
        """The cause and detail where an unchanged file gives another input."""
        return ("decoder", self.rules.decoder) if self.rules.decoder else ("untrue", detail)


def names(batch: Batch | Numbers) -> Sequence[str]:
    """What each input of a batch is called: its file, else its id; of sequences there is one for all positions."""
    if isinstance(batch, Batch) and batch.sequences is not None:
        return [str(one) for one in batch.sequences["ids"]]
    return batch.names


def place(batch: Batch | Numbers) -> str:
    """A batch, for people."""
    return f"{batch.phase} batch {batch.batch} of epoch {batch.epoch}"


@contextlib.contextmanager
def _naming(line: Line) -> Iterator[None]:
    """Let what is wrong with a record say which line it is."""
    try:
        yield
    except RecordsError as error:
        raise line.error(error.message, error.hint) from error


def _demand_inputs(line: Line, batch: Batch, rules: Rules) -> None:
    """Raise RecordsError unless a batch record has inputs such as its run record's recipe makes."""
    inputs = batch.inputs
    if inputs.shape != rules.shape or inputs.dtype != rules.recipe.dtype:
        raise line.error(f"inputs of shape {inputs.shape} and dtype {inputs.dtype!r}, which are not of the run's recipe")
    if len(inputs.digests) != len(batch.names):
        raise line.error("a batch record whose fields do not fit: inputs")


def _joined(parts: Sequence[Made]) -> Made:
    first = parts[0]
    if len(parts) == 1:
        return first
    return Made(
        line=first.line,
        run=first.run,
        batch=first.batch,
        n=sum(part.n for part in parts),
        equal=np.concatenate([part.equal for part in parts]),
        inputs=np.concatenate([part.inputs for part in parts]),
        differences=[difference for part in parts for difference in part.differences],
        stored=sum(part.stored for part in parts),
    )


def _inputs_of(earlier: Any) -> Inputs:
    """The inputs of the batch before one whose loss went wrong. Raises RecordsError for what is none."""
    body = earlier.get("inputs") if isinstance(earlier, Mapping) else None
    try:
        inputs = Inputs(**body)  # type: ignore[arg-type]
    except TypeError as error:
        raise RecordsError("a batch record whose flight does not fit") from error
    whole = isinstance(inputs.shape, list) and all(type(n) is int for n in inputs.shape)
    if not whole or not isinstance(inputs.digests, list) or not isinstance(inputs.dtype, str):
        raise RecordsError("a batch record whose flight does not fit")
    return inputs
