"""Every visit of one image: how label, prediction, p(label) and loss went from epoch to epoch.

    with open_run("runs/mine") as run:
        history = sample_history(run, "boot_0007.png")

The image is named by its path as the records have it, or by the end of it where that is enough: `cats/1.png`, `1.png` or even
`7.png` find one image or are an error that lists what they could mean. Samples without files are named by their id.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from capture_cli.answers.visits import AnyVisit, checked, extra_of, name_of, visit
from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import RunInfo, Samples, Skip
from capture_cli.runs import BATCHES, Ending

if TYPE_CHECKING:
    from capture_cli.runs import Line, Run

MAX_CANDIDATES = 20
"""Samples that are followed until it is clear which of them was meant; of more, none can be."""
_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image as its samples record has it, or a sample that only batches name: then nothing else is known of it."""

    id: int | str
    file: str
    """Its name: where there are no files, the id as text."""
    label: str | None = None
    split: str | None = None
    size: int | None = None
    """Bytes of the file."""
    digest: str | None = None
    """BLAKE2b (16 bytes, hex) of the file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One image and its visits, in the order of the records."""

    name: str
    run: RunInfo
    ending: Ending
    error: RecordsError | None
    """Why what follows a certain line is not in here, if something is wrong with it."""
    sample: Sample
    extra: Mapping[str, Any]
    """What the caller of the recorder said beside it, at its last visit."""
    visits: tuple[AnyVisit, ...]


def sample_history(reading: Run, wanted: str) -> History:
    """Collect the visits of the image `wanted`, going through the run once.

    Raises UsageError if no image or several could be meant, RecordsError if not even the first line can be read.
    """
    search: _Search | None = None
    error: RecordsError | None = None
    try:
        for line in reading.lines():
            if search is None:
                search = _Search(line.run(), wanted)
            else:
                search.take(line)
    except RecordsError as found:
        error = reading.located(found)
    error = error or reading.ending.error(reading.name)
    if search is None:
        raise error or RecordsError(f"{reading.name}: no records")
    sample = search.found(error)
    return History(
        name=reading.name,
        run=search.run,
        ending=reading.ending,
        error=error,
        sample=sample,
        extra=search.extra.get(sample.id, {}),
        visits=tuple(search.visits[sample.id]),
    )


class _Search:
    """Follows the samples that could be meant."""

    def __init__(self, run: RunInfo, wanted: str) -> None:
        self.run = run
        self.visits: dict[int | str, list[AnyVisit]] = {}
        """Of every sample that could be meant, by id."""
        self.extra: dict[int | str, Mapping[str, Any]] = {}
        self._wanted = wanted
        self._candidates: dict[int | str, Sample] = {}
        self._matching = 0
        """Files that end as wanted."""
        self._exact = False
        self._files: dict[str, None] = {}
        """Of samples that could not be meant, for suggestions; of samples that only batches name, all."""
        self._are_listed = False
        """Whether samples records name them."""
        self._left_out: dict[str, Skip] = {}
        """Files that could be meant, and are no samples."""

    def take(self, line: Line) -> None:
        """Add one line. Raises RecordsError for one that verifies but makes no sense."""
        if line.kind == "run":
            self.run = line.run(self.run)
        elif line.kind == "samples":
            record = line.record()
            if isinstance(record, Samples):
                self._samples(record, line)
        elif line.kind == "skip":
            skip = line.record()
            if isinstance(skip, Skip) and skip.file.endswith(self._wanted) and len(self._left_out) < MAX_CANDIDATES:
                self._left_out[skip.file] = skip
        elif line.kind in BATCHES and (self.visits or not self._are_listed):
            self._batch(line)

    def _samples(self, record: Samples, line: Line) -> None:
        self._are_listed = True
        for index, file in enumerate(record.files):
            self._consider(file, partial(self._sample, record, index, line))

    def _consider(self, file: str, sample: Callable[[], Sample]) -> None:
        """Follow a sample if it could be meant."""
        exact = file == self._wanted
        if self._exact or not (exact or file.endswith(self._wanted)):
            self._files[file] = None
            return
        one = sample()
        self._matching += 1
        if exact:  # whatever else it is the end of, this is what was named
            self._exact, self._matching = True, 1
            self._candidates.clear()
            self.visits.clear()
        if len(self._candidates) < MAX_CANDIDATES:
            self._candidates[one.id] = one
            self.visits[one.id] = []

    def _sample(self, record: Samples, index: int, line: Line) -> Sample:
        label = int(record.labels[index])
        if not 0 <= label < len(self.run.classes):
            raise line.error(f"a samples record with a label that is none of the {len(self.run.classes):,} classes")
        return Sample(
            id=record.ids[index],
            file=record.files[index],
            label=self.run.classes[label],
            split=record.splits[index],
            size=record.sizes[index],
            digest=record.digests[index],
        )

    def _batch(self, line: Line) -> None:
        if self._are_listed:
            try:
                if self.visits.keys().isdisjoint(orjson.loads(line.column("ids"))):
                    return
            except (ValueError, TypeError) as error:
                raise line.error("a batch record whose ids are no numbers") from error
        batch = checked(line, self.run)
        for index, number in enumerate(batch.ids):
            if not self._are_listed and (name := name_of(batch, index)) not in self._files:
                self._files[name] = None
                self._consider(name, partial(Sample, id=number, file=name))
            if number in self.visits:
                self.visits[number].append(visit(batch, index, self.run))
                self.extra[number] = extra_of(batch, index)

    def found(self, error: RecordsError | None) -> Sample:
        """The one that is meant. Raises UsageError if that is not clear, or `error`, behind which it may stand."""
        what = "image" if self._are_listed else "sample"
        if self._matching == 1:
            return next(iter(self._candidates.values()))
        if self._matching:
            names = _listed(sample.file for sample in self._candidates.values())
            raise UsageError(
                f"{self._matching:,} {what}s end in '{self._wanted}': {names}", "give the whole path as the records have it"
            )
        if len(self._left_out) == 1 or self._wanted in self._left_out:
            skip = self._left_out.get(self._wanted) or next(iter(self._left_out.values()))
            why = f"{skip.reason} ({skip.detail})" if skip.detail else skip.reason
            raise UsageError(f"'{skip.file}' was left out of this run: {why}", "no network has seen it")
        if error:  # who knows what stands behind it
            raise error
        close = _close(self._wanted, list(self._files))
        hint = f"did you mean {_listed(close)}?" if close else "`capture rows RUN --columns file` lists them"
        raise UsageError(f"no {what} '{self._wanted}' among the {len(self._files):,} of this run", hint)


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    more = len(first) - _SUGGESTIONS
    return ", ".join(f"'{name}'" for name in first[:_SUGGESTIONS]) + (", ..." if more > 0 else "")


def _close(wanted: str, files: Sequence[str]) -> list[str]:
    """Names that somebody who typed `wanted` may have meant."""
    part = wanted.rsplit("/", 1)[-1].lower()
    within = [file for file in files if part and part in file.lower()]
    return within[:_SUGGESTIONS] or difflib.get_close_matches(wanted, files[:20_000], n=_SUGGESTIONS)
