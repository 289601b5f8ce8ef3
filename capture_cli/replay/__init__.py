"""Reproduce captured inputs from the image files and the recipe in the run record, and compare their digests.

    with open_run("runs/mine") as run:
        report = Report()
        for reproduced in Replay(run, Selection(phase="val")):     # some samples of one batch
            reproduced.inputs                                      # float32 [n, C, H, W], those with the recorded digest
            reproduced.add_to(report)

* An input is `equal` only if its XXH3-64 is the recorded one, and its file has the recorded BLAKE2b.
* Any other input has a cause (capture_cli.replay.report), looked for in this order: the file, the decoder, the record.
* Nothing is trusted: recipes are looked up in a fixed table, files are opened safely, and no record makes it take much memory.
  No model is run and torch is not imported.

A run that was resumed or extended has several run records; each holds for the batches after it. Records from a loop of your own
(capture_cli.recorder) have no recipe, so only the inputs that were stored whole can be compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capture_cli.errors import RecordsError, UsageError
from capture_cli.mixing import Mix
from capture_cli.preprocessing import digests
from capture_cli.records import AnyBatch, Batch, RunInfo, Samples, sample_names
from capture_cli.replay.images import DecodedImages, ImageFile
from capture_cli.replay.recipes import RunRecipe
from capture_cli.replay.report import Difference, Report
from capture_cli.replay.stored import StoredInputs, inputs_before
from capture_cli.runs import Line, Run, RunImages, Visits

PART_BYTES = 2**26
"""Float32 inputs that are made at once."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which captured inputs to reproduce; None: all. Numbers are those of the records."""

    phase: str | None = None
    epoch: int | None = None
    batch: int | None = None
    sample: str | None = None
    """A file as it is recorded, or the end of its path; every one that matches."""
    limit: int | None = None
    """Only the first so many of those."""

    def may_hold(self, line: Line) -> bool:
        """Return whether a batch line can have such inputs, judged without parsing it."""
        phase, epoch = line.phase_and_epoch()
        if self.phase not in (None, phase) or self.epoch not in (None, epoch):
            return False
        return self.sample is None or not _same_in_json(self.sample) or self.sample.encode() in line.data

    def positions(self, batch: AnyBatch) -> list[int]:
        """Positions of the chosen inputs in a batch, without regard to `limit`."""
        if self.batch not in (None, batch.batch):
            return []
        return [i for i, name in enumerate(input_names(batch)) if self.sample is None or name.endswith(self.sample)]

    def __str__(self) -> str:
        chosen = {"phase": self.phase, "epoch": self.epoch, "batch": self.batch, "sample": self.sample}
        return " ".join(f"--{name} {value}" for name, value in chosen.items() if value is not None)


def _same_in_json(text: str) -> bool:
    return text.isascii() and json.dumps(text) == f'"{text}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """Some samples of one captured batch, reproduced and compared."""

    info: RunInfo
    """The run record in force."""
    batch: AnyBatch
    line: int
    """Its line in the records, from 1."""
    n: int = 0
    """Inputs that were to be reproduced; 0 in a run without recipe."""
    equal: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Positions in the batch of those that are as recorded, rising; each of the others has a difference."""
    inputs: Floats = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float32))
    """[len(equal), C, H, W]"""
    differences: Sequence[Difference]
    stored: int = 0
    """Stored inputs that were compared."""

    def add_to(self, report: Report) -> None:
        """Count all of it."""
        report.inputs += self.n
        report.equal += len(self.equal)
        report.stored += self.stored
        report.add(self.differences)


class Replay:
    """One pass over a run that reproduces the chosen inputs, in the order of the records."""

    def __init__(
        self,
        run: Run,
        selection: Selection,
        *,
        folder: Path | None = None,
        whole: bool = False,
        stored: bool = False,
        without_recipe: bool = False,
    ) -> None:
        """Read images from `folder`, by default from where the run says.

        `whole` reproduces each batch in one piece, whatever memory that takes. `stored` also compares stored inputs. A run
        without recipe is refused unless `without_recipe`, and then only its stored inputs are compared.
        """
        self.not_stored = 0
        """Chosen inputs of a run without recipe that were not stored."""
        self._run = run
        self._selection = selection
        self._folder = folder
        self._whole = whole
        self._without_recipe = without_recipe
        self._stored = StoredInputs(run.folder) if stored else None
        self._left = selection.limit
        self._samples: dict[str, tuple[int, ImageFile]] = {}
        self._source: RunImages | None = None
        self._images: DecodedImages | None = None
        self._recipe: RunRecipe | None = None

    def __iter__(self) -> Iterator[Reproduced]:
        """Raise RecordsError for damaged records and for records that make no sense, UsageError without a folder or recipe.

        With a limit the rest of the records is not read.
        """
        with self._stored or StoredInputs(None):
            for block in self._run.blocks():
                if isinstance(block, RunInfo):
                    self._begin(block)
                elif isinstance(block, Samples):
                    files = map(ImageFile, block.files, block.digests)
                    self._samples.update(zip(block.files, zip(block.ids, files, strict=True), strict=True))
                elif isinstance(block, Visits):
                    for number, line in enumerate(block.lines):
                        if self._left != 0 and self._selection.may_hold(line):
                            yield from self._batch(block, number)
                if self._left == 0:
                    return

    def _begin(self, info: RunInfo) -> None:
        if not info.recipe:
            if not self._without_recipe:
                raise UsageError(
                    f"{self._run.name} was recorded in a loop of your own, so it does not say how its inputs were made",
                    "use --stored alone to compare the inputs that it stored",
                )
            self._recipe = None
            return
        self._source = self._source or self._run.images_in(self._folder)
        with _named(self._run.located):
            self._recipe = RunRecipe.from_info(info)
        if self._images is None or self._images.geometry != self._recipe.geometry:
            self._images = DecodedImages(self._source, self._recipe.geometry)

    def _batch(self, visits: Visits, number: int) -> Iterator[Reproduced]:
        batch, line = visits.record(number), visits.lines[number].seq + 1
        positions = self._selection.positions(batch)[: self._left]
        if not positions:
            return
        if self._left is not None:
            self._left -= len(positions)
        with _named(lambda error: visits.error(error.message, number)):
            stored, mismatches = self._compare_stored(batch, positions, line)
        if self._recipe is None or self._images is None:
            self.not_stored += max(0, len(positions) - stored)
            yield Reproduced(info=visits.info, batch=batch, line=line, stored=stored, differences=mismatches)
            return
        shape, dtype = batch.inputs.shape, batch.inputs.dtype
        if not isinstance(batch, Batch) or (shape, dtype) != (list(self._recipe.geometry.shape), self._recipe.recipe.dtype):
            raise visits.error(f"inputs of shape {shape} and dtype {dtype!r}, which the run's recipe does not make", number)
        step = len(positions)
        if not self._whole:
            most = min(self._images.capacity, PART_BYTES // (4 * math.prod(self._images.geometry.shape)))
            step = max(1, most // 2 if batch.mix else most)  # mixed inputs need those of their partners
        for at in range(0, len(positions), step):
            part = positions[at : at + step]
            equal, inputs, differences = self._reproduce(self._recipe, self._images, batch, part, line)
            yield Reproduced(
                info=visits.info,
                batch=batch,
                line=line,
                n=len(part),
                equal=equal,
                inputs=inputs,
                differences=differences if at else [*differences, *mismatches],
                stored=0 if at else stored,
            )

    def _reproduce(
        self, recipe: RunRecipe, images: DecodedImages, batch: Batch, positions: Sequence[int], line: int
    ) -> tuple[Ints, Floats, list[Difference]]:
        """The positions of the inputs that are equal, these inputs, and the differences of the others."""
        names, changes = sample_names(batch), recipe.decoder_changes
        mix = Mix.from_json(batch.mix, size=len(names)) if batch.mix else None
        partner_of = {index: mix.partners[index] for index in positions} if mix else {}
        found, inputs, problems = self._inputs(recipe, images, batch, [*dict.fromkeys([*positions, *partner_of.values()])])
        row = {index: at for at, index in enumerate(found)}
        for index, partner in partner_of.items():
            if index in row and partner not in row:
                problems[index] = problems[partner][0], f"it is mixed with {names[partner]}: {problems[partner][1]}"
        made = [index for index in positions if index in row and partner_of.get(index, index) in row]
        if mix and made:
            rows = [row[index] for index in made]
            inputs = mix.apply(inputs[rows], inputs[[row[partner_of[index]] for index in made]])
        equal = np.ones(len(made), bool)
        for at, (index, digest) in enumerate(zip(made, digests(inputs), strict=True)):
            recorded = batch.inputs.digests[index]
            if digest != recorded:
                equal[at] = False
                untrue = "mismatch", f"its digest is {digest}, recorded is {recorded}"
                problems[index] = ("decoder", changes) if changes else untrue
        differences = [
            Difference(cause, names[index], detail, line, f"{place(batch)}, sample {index}")
            for index, (cause, detail) in sorted(problems.items())
            if index in set(positions)
        ]
        return np.asarray(made, np.int64)[equal], inputs if equal.all() else inputs[equal], differences

    def _inputs(
        self, recipe: RunRecipe, images: DecodedImages, batch: Batch, positions: Sequence[int]
    ) -> tuple[list[int], Floats, dict[int, tuple[str, str]]]:
        """The positions whose inputs could be made, before any mixing, these inputs, and a cause and detail for the others."""
        names = sample_names(batch)
        problems: dict[int, tuple[str, str]] = {}
        known = []
        for index in positions:
            if self._samples.get(names[index], (None,))[0] == batch.ids[index]:
                known.append(index)
            else:
                problems[index] = "mismatch", f"no samples record has this file with id {batch.ids[index]}"
        got = images.get([self._samples[names[index]][1] for index in known])
        for at, unusable in got.unusable.items():
            if unusable.reason in ("missing", "changed"):
                problems[known[at]] = unusable.reason, unusable.detail
            else:  # another version of the decoder may refuse what the run's accepted
                problems[known[at]] = "unreadable", "; ".join(filter(None, [str(unusable), recipe.decoder_changes]))
        found = [known[at] for at in got.found]
        repeats = None if batch.repeats is None else batch.repeats[found]
        files = [names[i] for i in found]
        return found, recipe.make(got.pixels, files, phase=batch.phase, epoch=batch.epoch, repeats=repeats), problems

    def _compare_stored(self, batch: AnyBatch, positions: Sequence[int], line: int) -> tuple[int, list[Difference]]:
        """Count the stored inputs of these samples and list those that differ; the first part has the batch before as well."""
        if self._stored is None:
            return 0, []
        before, where, names = self._stored.count, place(batch), input_names(batch)
        differences = [
            Difference("stored", names[one.sample], f"{one.place}: {one.reason}", line, f"{where}, sample {one.sample}")
            for one in self._stored.mismatches(batch.inputs, set(positions))
        ]
        kept = inputs_before(batch) if self._selection.sample is None and positions[0] == 0 else None
        if kept:
            differences += [
                Difference("stored", one.place, one.reason, line, f"the batch before {where}, sample {one.sample}")
                for one in self._stored.mismatches(kept, range(len(kept.digests)))
            ]
        return self._stored.count - before, differences


def input_names(batch: AnyBatch) -> Sequence[str]:
    """The name of each input of a batch: its file, else its id; a sequence has one for all its positions."""
    if isinstance(batch, Batch) and batch.sequences is not None:
        return [str(one) for one in batch.sequences["ids"]]
    return sample_names(batch)


def place(batch: AnyBatch) -> str:
    """A batch, for people."""
    return f"{batch.phase} batch {batch.batch} of epoch {batch.epoch}"


@contextmanager
def _named(located: Callable[[RecordsError], RecordsError]) -> Iterator[None]:
    """Let an error name the run, and the line if it is known."""
    try:
        yield
    except RecordsError as error:
        raise located(error) from error
