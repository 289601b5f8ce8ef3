"""A comparison of two runs: whether they are equal, where they diverge, what was set differently, which predictions changed.

    with open_run("runs/a") as a, open_run("runs/b") as b:
        diff = compare(a, b, limit=10)
    diff.relation           # equal, a_is_prefix, b_is_prefix, differ, or undecided if one is damaged before they diverge
    diff.first              # the first record that differs: its fields, and the images whose values differ
    diff.changes            # differences between the run records: options, images, versions, device
    diff.predictions        # images that one run has right and the other wrong

Both runs are read once, side by side, so either may be a pipe. Memory grows with the images and classes, not with the records.
Only lines that verify are compared. Images are matched by path, and where only one run has a path by the digest of the file,
never by number. An `end` line that does not say `completed` is
no difference to a run that was resumed: the one run is then a prefix of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from capture_cli.answers.best import chosen_epoch
from capture_cli.answers.comparison import EpochPair, epoch_pairs, measures
from capture_cli.answers.files import FileChanges, FileTable, FirstOf
from capture_cli.answers.losses import LossChanges, loss_changes
from capture_cli.answers.phases import F, PhaseVisits, preferred
from capture_cli.answers.predictions import Flip, PredictionChanges, prediction_changes
from capture_cli.answers.side import RecordPosition, Side
from capture_cli.answers.state import RunState
from capture_cli.answers.value_differences import ValueDifference, first_difference, values_by_sample
from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import End, RunInfo
from capture_cli.records.comparing import Change, changes
from capture_cli.records.values import loads
from capture_cli.runs import BATCHES, Line, Run, folds_of
from capture_cli.runs.merging import whole

if TYPE_CHECKING:
    import pandas

_SURROUNDINGS = ("versions", "device", "threads")
"""Fields of a run record that nobody sets to get other results."""
MAX_FILES = 5
"""Files listed of those whose values differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDifference:
    """Two records that should be the same."""

    a: RecordPosition
    b: RecordPosition
    fields: tuple[str, ...]
    """The fields that differ, in the order of the format; `kind` alone if the records are of two kinds."""
    same_inputs: bool | None
    """True if two batches have the same images and every input tensor was the same; None for other records."""
    files: FirstOf[ValueDifference]
    """Images in both records whose values differ."""
    only_a: FirstOf[str]
    only_b: FirstOf[str]

    def to_json(self) -> dict[str, Any]:
        """The difference as plain values."""
        return {"field": self.fields[0] if self.fields else None, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """The differences between run a and run b."""

    a: RunState
    b: RunState
    relation: str
    """equal, a_is_prefix, b_is_prefix, differ; undecided if one is damaged and no record before that differs."""
    common: int
    """Equal lines at the beginning."""
    first: RecordDifference | None
    """The first record that differs; None unless `relation` is differ, or if the record cannot be read."""
    first_batch: RecordDifference | None
    """If `first` is no batch: the first batch that differs in more than the ids of its images."""
    changes: tuple[Change, ...]
    """Differences between the run records: `was` in a, `now` in b."""
    files: FileChanges
    predictions: PredictionChanges | None
    """None if no phase with predicted classes was captured in both; if the runs are equal, nothing has changed."""
    losses: LossChanges | None
    """The same for the losses of runs without predicted classes."""
    best: tuple[int | None, int | None]
    """The best epochs of a and b; None without validation."""
    epochs: tuple[EpochPair, ...]
    """Loss and accuracy of every phase in both runs; empty if they are equal."""
    phases: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """The phases of a and b of which an epoch has ended."""
    partial: tuple[str, ...] = ()
    """Names of the runs, `a` and `b`, in which the epoch that is compared has not ended."""

    @property
    def is_meant(self) -> bool:
        """True if options or images are not the same, so that other predictions are no fault of software or hardware."""
        return any(not one.name.startswith(_SURROUNDINGS) for one in self.changes)

    @property
    def not_captured(self) -> tuple[int, int]:
        """Visits of the compared phase that were not captured in a and b: the measures are about the others."""
        if self.predictions:
            return self.predictions.a.not_captured, self.predictions.b.not_captured
        return (self.losses.not_captured_a, self.losses.not_captured_b) if self.losses else (0, 0)

    def measures(self) -> dict[str, float | None] | None:
        """The measures of capture_cli.answers.comparison; None without predictions or losses in both."""
        if self.predictions:
            return measures(self.predictions)
        return self.losses.measures() if self.losses else None

    def to_pandas(self) -> pandas.DataFrame:
        """The images that flipped, `right_to_wrong` first. Raises UsageError if pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("to_pandas() needs pandas", "pip install pandas") from error
        kinds = ("right_to_wrong", "wrong_to_right") if self.predictions else ()
        rows = [{"flip": kind, **asdict(one)} for kind in kinds for one in getattr(self.predictions, kind).first]
        return pd.DataFrame(rows, columns=["flip", *Flip.__dataclass_fields__])

    @property
    def error(self) -> RecordsError | None:
        """The error in the records of one of them, if there is any."""
        return self.a.error or self.b.error

    def to_json(self, *, a: str, b: str) -> dict[str, Any]:
        """The differences as plain values; `a` and `b` are how the user named the runs."""
        return {
            "equal": self.relation == "equal",
            "relation": self.relation,
            "common_lines": self.common,
            "a": {"run": a, **self.a.to_json()},
            "b": {"run": b, **self.b.to_json()},
            "first_difference": self.first.to_json() if self.first else None,
            "first_batch": self.first_batch.to_json() if self.first_batch else None,
            "run": [{"name": change.name, "a": change.was, "b": change.now} for change in self.changes],
            "files": asdict(self.files),
            "predictions": asdict(self.predictions) if self.predictions else None,
            "losses": asdict(self.losses) if self.losses else None,
            "best_epochs": dict(zip("ab", self.best, strict=True)),
            "epochs": [asdict(one) for one in self.epochs],
            "measures": self.measures(),
        }


def compare(a: Run, b: Run, *, limit: int = 10, epoch: int | str = "last") -> Diff:
    """Compare two runs; list at most `limit` images that went from right to wrong, and as many the other way.

    Predictions are those of the epoch `last`, `best` (of each run, which is then read twice) or a number. Where a run is not
    completed, `last` is the last epoch that both completed, or as far as one of them came in it; for an earlier one both are
    read again. Raises UsageError if one of them does not have it.
    """
    numbers: dict[str, int] = {}
    files = FileTable()
    left, right = (Side(run, side, files, numbers, chosen_epoch(run, epoch)) for side, run in enumerate((a, b)))
    common = 0
    one, other = left.next(), right.next()
    while one and other and one.data == other.data:
        common += 1
        one, other = left.next(), right.next()
    relation = _relation(left, right, one, other)
    first = first_batch = None
    if one and other and relation == "differ":
        first = _difference(left, one, right, other, _body)
        if one.kind not in BATCHES or other.kind not in BATCHES:
            first_batch = _first_batch(left, one, right, other)
    left.drain()
    right.drain()
    left.demand_epoch()
    right.demand_epoch()
    # None for runs of different tasks
    pair: tuple[PhaseVisits[Any], PhaseVisits[Any]] | None = left.latest.common(right.latest)  # type: ignore[arg-type]
    is_like = True
    if pair and epoch == "last" and not (RunState.of(a).is_finished and RunState.of(b).is_finished):
        shared = _shared_epoch(left, right)
        if shared is not None and (pair[0].epoch, pair[1].epoch) != (shared, shared):
            with suppress(UsageError):  # a pipe is read once
                return compare(a, b, limit=limit, epoch=shared)
        is_like = pair[0].epoch == pair[1].epoch
    files.match_moved(left.samples, right.samples)
    return Diff(
        relation=relation,
        common=common,
        first=first,
        first_batch=first_batch,
        changes=tuple(changes(_info_of(a, left.info), _info_of(b, right.info))) if left.info and right.info else (),
        files=files.changes(),
        predictions=_predictions(left, right, limit, files.moved) if is_like else None,
        losses=_losses(left, right, limit, files.moved) if is_like else None,
        best=(left.best, right.best),
        epochs=() if relation == "equal" else epoch_pairs(left.epochs, right.epochs, left.task, right.task),
        a=RunState.of(a, left.error),
        b=RunState.of(b, right.error),
        phases=(left.ended, right.ended),
        partial=tuple(
            name
            for name, side, one in zip("ab", (left, right), pair or (), strict=False)
            if side.latest.complete.get(one.phase) is not one
        ),
    )


def _shared_epoch(left: Side, right: Side) -> int | None:
    """The last epoch that both completed in the phase that says most, else the one that one of them was in; None: neither."""
    both = left.epochs.keys() & right.epochs.keys()
    for phase in preferred({phase for _, phase in both}):
        return max(epoch for epoch, one in both if one == phase)
    for side, other in ((left, right), (right, left)):
        for phase, visits in side.latest.under_way.items():
            begun = other.latest.under_way.get(phase)
            if (visits.epoch, phase) in other.epochs or (begun and begun.epoch == visits.epoch):
                return visits.epoch
    return None


def _info_of(run: Run, info: RunInfo) -> RunInfo:
    """The run record to compare: of a run with folds that of all of it."""
    return whole(info) if folds_of(run.info) else info


def _relation(left: Side, right: Side, one: Line | None, other: Line | None) -> str:
    """The relation of two runs, given the first pair of lines that are not equal; None: there is no line."""
    if (one is None and left.is_broken) or (other is None and right.is_broken):
        return "undecided"
    if one is None or other is None:
        return "equal" if one is other else "a_is_prefix" if one is None else "b_is_prefix"
    if _is_interruption(one) == _is_interruption(other):
        return "differ"
    return "a_is_prefix" if _is_interruption(one) else "b_is_prefix"


def _is_interruption(line: Line) -> bool:
    """True for the end line of a run that was not completed: resuming takes it off."""
    if line.kind != "end":
        return False
    record = line.record()  # cannot fail: the chain has checked it
    return isinstance(record, End) and record.status != "completed"


def _first_batch(left: Side, one: Line, right: Side, other: Line) -> RecordDifference | None:
    """The first pair of batches, counted in each run, that differ in anything but the ids of their images."""
    for one_batch, other_batch in zip(_batches(left, one), _batches(right, other), strict=False):
        if _content(one_batch) == _content(other_batch):
            continue
        if not (left.position(one_batch) and right.position(other_batch)):
            return None
        if _differing(_results(one_batch), _results(other_batch)):
            return _difference(left, one_batch, right, other_batch, _results)
    return None


def _batches(reader: Side, line: Line | None) -> Iterator[Line]:
    while line:
        if line.kind in BATCHES:
            yield line
        line = reader.next()


def _content(line: Line) -> bytes:
    """A line without `seq` and `chain`."""
    return line.data[line.data.index(b",") : line.data.rindex(b',"chain":"')]


def _body(line: Line) -> dict[str, Any]:
    """The fields of a line without `seq` and `chain`."""
    return {name: value for name, value in loads(line.data).items() if name not in ("seq", "chain")}


def _results(line: Line) -> dict[str, Any]:
    """The fields of a batch that depend neither on the ids of its images nor on how many inputs were kept."""
    body = {name: value for name, value in _body(line).items() if name != "flight"}
    if "files" in body:
        del body["ids"]
    if isinstance(body.get("inputs"), dict):
        body["inputs"] = {name: body["inputs"].get(name) for name in ("shape", "dtype", "digests")}
    return body


def _differing(left: dict[str, Any], right: dict[str, Any]) -> tuple[str, ...]:
    """The names of the fields in which two bodies differ; `kind` alone if they are of two kinds."""
    if left.get("kind") != right.get("kind"):
        return ("kind",)
    return tuple(name for name in dict.fromkeys([*left, *right]) if left.get(name) != right.get(name))


def _difference(
    left: Side, one: Line, right: Side, other: Line, body: Callable[[Line], dict[str, Any]]
) -> RecordDifference | None:
    """Two lines that differ, field by field and image by image; None if one of them cannot be read."""
    a, b = left.position(one), right.position(other)
    if a is None or b is None:
        return None
    bodies = body(one), body(other)
    mine, others = map(values_by_sample, bodies) if a.kind == b.kind else ({}, {})
    found = [found for file in mine if file in others and (found := first_difference(file, mine[file], others[file]))]
    only_a, only_b = [file for file in mine if file not in others], [file for file in others if file not in mine]
    same_inputs = None
    if a.kind == b.kind and a.kind in BATCHES:
        same_inputs = not only_a and not only_b and not any(one.field == "inputs.digests" for one in found)
        if "positions" in bodies[0]:
            same_inputs = same_inputs and bodies[0].get("inputs") == bodies[1].get("inputs")
    return RecordDifference(
        a=a,
        b=b,
        fields=_differing(*bodies),
        same_inputs=same_inputs,
        files=FirstOf.of(found, MAX_FILES),
        only_a=FirstOf.of(only_a, MAX_FILES),
        only_b=FirstOf.of(only_b, MAX_FILES),
    )


def _predictions(left: Side, right: Side, limit: int, moved: Mapping[str, str]) -> PredictionChanges | None:
    """The changed predictions, as far as the records of both can be read."""
    pair = _read_both(left, right, left.phases.common(right.phases))
    if pair is None:
        return None
    a, b = pair
    if not a.fold or not b.fold:
        return None
    b.fold.rename(moved)
    changes = prediction_changes(a.fold, b.fold, limit=limit)
    wanted = {one.file for flips in (changes.right_to_wrong, changes.wrong_to_right) for one in flips.first}
    digests: dict[str, str] = {}
    for block in left.samples if wanted else ():
        digests.update((file, digest) for file, digest in zip(block.files, block.digests, strict=True) if file in wanted)

    def with_digests(flips: FirstOf[Flip]) -> FirstOf[Flip]:
        return replace(flips, first=tuple(replace(one, digest_a=digests.get(one.file)) for one in flips.first))

    return replace(
        changes,
        right_to_wrong=with_digests(changes.right_to_wrong),
        wrong_to_right=with_digests(changes.wrong_to_right),
    )


def _losses(left: Side, right: Side, limit: int, moved: Mapping[str, str]) -> LossChanges | None:
    """The changed losses of runs without predicted classes, as far as the records of both can be read."""
    pair = _read_both(left, right, left.losses.common(right.losses))
    if pair is None:
        return None
    pair[1].fold.rename(moved)
    return loss_changes(pair[0].fold, pair[1].fold, limit=limit)


def _read_both(
    left: Side, right: Side, pair: tuple[PhaseVisits[F], PhaseVisits[F]] | None
) -> tuple[PhaseVisits[F], PhaseVisits[F]] | None:
    """The phase of both runs, read; None, with the error kept, if it makes no sense."""
    for reader, phase in zip((left, right), pair or (), strict=False):
        try:
            phase.read()
        except RecordsError as error:
            reader.error = reader.error or error
            return None
    return pair
