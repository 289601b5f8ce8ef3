"""Every visit of one image: its label, prediction, p(label) and loss from epoch to epoch.

    with open_run("runs/mine") as run:
        history = sample_history(run, "boot_0007.png")

The image is named by its recorded path or by the end of it where that is enough: `cats/1.png`, `1.png` or even `7.png` find one
image, or are an error that lists the candidates. Samples without files are named by their id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from capture_cli.answers.state import RunState
from capture_cli.answers.visits import AnyVisit, Visit, visit_at
from capture_cli.errors import RecordsError, UsageError, closest
from capture_cli.records import NO_LABEL, RunInfo, Samples, Skip
from capture_cli.runs import Block, Run, Visits

MAX_CANDIDATES = 20
"""Samples to follow until it is clear which of them is meant."""
_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image as its samples record has it, or a sample that only batches name: then only `id` and `file` are known."""

    id: int | str
    file: str
    """The id as text where samples have no files."""
    label: str | None = None
    split: str | None = None
    size: int | None = None
    """Bytes of the file."""
    digest: str | None = None
    """BLAKE2b (16 bytes, hex) of the file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One image and its visits, in the order of the records."""

    state: RunState
    info: RunInfo
    sample: Sample
    extra: Mapping[str, Any]
    """Values passed to the recorder as `extra=`, at its last visit."""
    visits: tuple[AnyVisit, ...]
    folds: tuple[int, ...] | None = None
    """The number of the training for each visit, in a run with folds."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Phase -> label, where they differ: the id stands for more than one sample. Visits are then in the order of phases."""

    @property
    def note(self) -> str:
        """A sentence that says so; empty where the labels agree."""
        differ = ", ".join(f"{label} in {phase}" for phase, label in self.labels.items())
        return f"the label is {differ}: this id stands for more than one sample" if differ else ""

    def to_json(self) -> dict[str, Any]:
        """The history as plain values."""
        visits = [asdict(one) for one in self.visits]
        if self.folds is not None:
            visits = [{"fold": fold, **one} for fold, one in zip(self.folds, visits, strict=True)]
        sample = {"sample": asdict(self.sample), "note": self.note or None, "extra": dict(self.extra)}
        return {**self.state.to_json(), **sample, "visits": visits}


def sample_history(run: Run, wanted: str) -> History:
    """Collect the visits of the image `wanted` in one pass.

    Raises UsageError if no image or several could be meant, RecordsError if not even the first line can be read.
    """
    fold = SampleSearch(run, wanted)
    run.fold(fold)
    return fold.result()


class SampleSearch:
    """Follows the samples that could be meant. A fold over one pass of a run."""

    def __init__(self, run: Run, wanted: str) -> None:
        self._run = run
        self._wanted = wanted
        self._info: RunInfo | None = None
        self._candidates: dict[int | str, Sample] = {}
        self._visits: dict[int | str, list[tuple[int, AnyVisit]]] = {}
        """Visits of each candidate, by id, each with the number of its training (0 without folds)."""
        self._extra: dict[int | str, Mapping[str, Any]] = {}
        self._n_matching = 0
        """Files that end in `wanted`."""
        self._is_exact = False
        self._others: dict[str, None] = {}
        """Files that are not meant, for suggestions. Without samples records, every name."""
        self._has_samples = False
        """True if samples records name the samples."""
        self._skipped: dict[str, Skip] = {}
        """Skipped files that match."""

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError."""
        if isinstance(block, RunInfo):
            self._info = block
        elif isinstance(block, Samples) and self._info:
            self._has_samples = True
            for index, file in enumerate(block.files):
                if self._could_be_meant(file):
                    self._follow(_sample(block, index, self._info))
        elif isinstance(block, Skip):
            if block.file.endswith(self._wanted) and len(self._skipped) < MAX_CANDIDATES:
                self._skipped[block.file] = block
        elif isinstance(block, Visits):
            self._take_visits(block)

    def _could_be_meant(self, file: str) -> bool:
        if file.endswith(self._wanted) and not self._is_exact:
            return True
        self._others[file] = None
        return False

    def _follow(self, sample: Sample) -> None:
        if sample.file == self._wanted:  # the exact name wins over longer ones that end in it
            self._is_exact, self._n_matching = True, 0
            self._candidates.clear()
            self._visits.clear()
        self._n_matching += 1
        if len(self._candidates) < MAX_CANDIDATES:
            self._candidates[sample.id] = sample
            self._visits[sample.id] = []

    def _take_visits(self, visits: Visits) -> None:
        if not self._has_samples:
            for number, file in dict(zip(visits["id"].tolist(), visits["file"], strict=True)).items():
                if file not in self._others and self._could_be_meant(file):
                    self._others[file] = None
                    self._follow(Sample(id=number, file=file))
        for batch in visits.batches_with(self._visits) if self._visits else ():
            for row, number in enumerate(batch["id"].tolist()):
                if number in self._visits:
                    training = batch.info.fold["number"] if batch.info.fold else 0
                    self._visits[number].append((training, visit_at(batch, row)))
                    self._extra[number] = batch["extra"][row] or {}

    def result(self) -> History:
        """The history of the sample that is meant. Raises UsageError if that is unclear, RecordsError if damage may hide it."""
        error = self._run.error()
        if self._info is None:
            raise error or RecordsError(f"{self._run.name}: no records")
        sample = self._found(error)
        visits = sorted(self._visits[sample.id], key=lambda one: one[0])  # one training after the other
        labels = _differing_labels(visit for _, visit in visits)
        visits.sort(key=lambda one: list(labels).index(one[1].phase) if labels else 0)
        return History(
            state=RunState.of(self._run),
            info=self._info,
            sample=sample,
            extra=self._extra.get(sample.id, {}),
            visits=tuple(visit for _, visit in visits),
            folds=tuple(training for training, _ in visits) if self._info.fold else None,
            labels=labels,
        )

    def _found(self, error: RecordsError | None) -> Sample:
        noun = "image" if self._has_samples else "sample"
        if self._n_matching == 1:
            return next(iter(self._candidates.values()))
        if self._n_matching:
            names = _listed(sample.file for sample in self._candidates.values())
            raise UsageError(
                f"{self._n_matching:,} {noun}s end in '{self._wanted}': {names}", "give the whole path as recorded"
            )
        if len(self._skipped) == 1 or self._wanted in self._skipped:
            skip = self._skipped.get(self._wanted) or next(iter(self._skipped.values()))
            reason = f"{skip.reason} ({skip.detail})" if skip.detail else skip.reason
            raise UsageError(f"'{skip.file}' was skipped in this run: {reason}", "the model has not seen it")
        if error:  # the sample may be in the part that cannot be read
            raise error
        close = _close(self._wanted, list(self._others))
        hint = f"did you mean {_listed(close)}?" if close else "`capture rows RUN --columns file` lists them"
        raise UsageError(f"no {noun} '{self._wanted}' among the {len(self._others):,} of this run", hint)


def _sample(record: Samples, index: int, info: RunInfo) -> Sample:
    return Sample(
        id=record.ids[index],
        file=record.files[index],
        label=None if record.labels[index] == NO_LABEL else info.classes[int(record.labels[index])],
        split=record.splits[index],
        size=record.sizes[index],
        digest=record.digests[index],
    )


def _differing_labels(visits: Iterable[AnyVisit]) -> dict[str, str]:
    """Phase -> label of one id, in the order of the records; empty unless each phase has one label, and not all the same."""
    found = dict.fromkeys((one.phase, one.label) for one in visits if type(one) is Visit and one.label is not None)
    labels = dict(found.keys())
    return labels if len(labels) == len(found) and len(set(labels.values())) > 1 else {}


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    more = len(first) - _SUGGESTIONS
    return ", ".join(f"'{name}'" for name in first[:_SUGGESTIONS]) + (", ..." if more > 0 else "")


def _close(wanted: str, files: Sequence[str]) -> list[str]:
    """Names that somebody who typed `wanted` may have meant."""
    part = wanted.rsplit("/", 1)[-1].lower()
    within = [file for file in files if part and part in file.lower()]
    return within[:_SUGGESTIONS] or closest(wanted, files[:20_000], _SUGGESTIONS)
