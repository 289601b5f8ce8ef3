"""A run that is there, sent to MLflow afterwards: all of it, or what an earlier sending left out.

    sent = send("runs/mine", uri=None)          # raises UsageError, RecordsError where there is nothing to send
    sent.run_id, sent.counts                    # what was missing: {"numbers": 480, "parts": 1}; empty if nothing was

The records are read and verified as `capture inspect` reads them. Pictures of the worst samples are made again from the image
files, where these are there.
"""

import fcntl
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import Batch, Epoch, Numbers, loads
from capture_cli.replay import Made, Replay, Selection
from capture_cli.runs import RECORDS, Line, Run, open_run
from capture_cli.sinks.background import described
from capture_cli.sinks.gathering import WORST, Gathering, Sample
from capture_cli.sinks.mlflow import earlier_run, place_of
from capture_cli.sinks.parts import Parts, Read
from capture_cli.sinks.tracker import Place, Tracker

POINTS = 500
"""Training steps that are sent at once."""
Evaluations = list[tuple[Epoch, list[Sample]]]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of it."""

    tracker: Tracker
    """Still open for the run's model."""
    error: RecordsError | None
    """What is wrong with records of which only the beginning was sent."""
    without_pictures: str
    """Why some of the worst samples have none; empty if all have."""


def send(run: str, *, uri: str | None, images: Path | None = None, worst: int = WORST) -> Sent:
    """Send a run folder or a file of records to MLflow; `images` is where the images are now, if not where the run says.

    Raises UsageError for a run that is not there or still going on, RecordsError for one without a whole record, what Tracker
    raises, and CaptureError where MLflow fails on the way.
    """
    if run == "-":
        raise UsageError("stdin cannot be sent: it is read more than once", "give a run folder or a file of records")
    with open_run(run) as reading, _kept_still(Path(run)) as read:
        tracker = Tracker(uri)
        try:
            missing = _send(reading, read, tracker, Path(run), images, worst)
        except CaptureError:
            raise
        except Exception as failure:  # whatever MLflow and its libraries raise
            hint = "what was sent is kept; the same command sends the rest"
            raise CaptureError(f"sending failed on the way: {described(failure)}", hint) from failure
        return Sent(tracker=tracker, error=reading.ending.error(reading.name), without_pictures=missing)


def _send(reading: Run, read: Read, tracker: Tracker, run: Path, images: Path | None, worst: int) -> str:
    """Everything; why some of the worst samples have no picture."""
    evaluations = list(_numbers(reading, tracker, run, Gathering(worst=worst)))
    if not tracker.run_id:
        raise reading.ending.error(reading.name) or RecordsError(f"{reading.name}: no records")
    new = [(sums, samples) for sums, samples in evaluations if not tracker.has_evaluation(sums, samples)]
    pictured, missing = _pictured(run, new, images)
    for sums, samples in pictured:
        tracker.evaluation(sums, samples)
    with tempfile.TemporaryDirectory(prefix="capture-") as folder:
        parts = Parts(read, Path(folder))
        tracker.resume_parts(parts, read)
        tracker.records(parts, reading.ending.bytes)
    tracker.end(reading.ending.status, reading.ending.chain)
    return missing


@contextmanager
def _kept_still(run: Path) -> Iterator[Read]:
    """Read the bytes of the records. Raises UsageError where somebody is writing them."""
    fd = os.open(run / RECORDS if run.is_dir() else run, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"'{run}' is still being written", "send it once it has ended") from error
        fcntl.lockf(fd, fcntl.LOCK_UN)
        yield lambda offset, count: os.pread(fd, count, offset)
    finally:
        os.close(fd)


def _numbers(reading: Run, tracker: Tracker, run: Path, gathering: Gathering) -> Iterator[tuple[Epoch, list[Sample]]]:
    """Open the run in MLflow, send what is known of steps, and yield each evaluation."""
    waiting = 0
    for line in reading.lines():
        if line.kind == "run":
            _open(line, tracker, run)
            continue
        record = line.record() if line.kind in ("batch", "numbers", "epoch") else None
        if isinstance(record, Batch | Numbers):
            gathering.take(record, None)
            waiting += 1
        elif isinstance(record, Epoch):
            yield record, gathering.evaluated(record)
        if waiting >= POINTS:
            waiting = 0
            tracker.points(gathering.points())
    tracker.points(gathering.points())


def _open(line: Line, tracker: Tracker, run: Path) -> None:
    line.run()  # raises RecordsError where it is none
    record = loads(line.data)
    folder = run if run.is_dir() else None
    place = Place(**place_of(folder, run / RECORDS if folder else run, str(run), record["chain"]))
    earlier = tracker.run_id or earlier_run(folder, tracker.uri) or tracker.find(place)
    tracker.open(record, place, earlier=earlier)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen(Selection):
    """Samples by their places, rather than by name."""

    places: Mapping[tuple[str, int, int], Sequence[int]] = field(default_factory=dict)
    """(phase, epoch, batch) -> places in the batch."""

    def may_hold(self, line: Line) -> bool:
        return line.phase_and_epoch() in {(phase, epoch) for phase, epoch, _ in self.places}

    def positions(self, batch: Batch | Numbers) -> list[int]:
        return sorted(self.places.get((batch.phase, batch.epoch, batch.batch), ()))


def _pictured(run: Path, evaluations: Evaluations, images: Path | None) -> tuple[Evaluations, str]:
    """The same samples with the inputs that the network saw, and why some have none."""
    places = defaultdict[tuple[str, int, int], list[int]](list)
    for sums, samples in evaluations:
        for sample in samples:
            places[sums.phase, sums.epoch, sample.batch].append(sample.index)
    if not places:
        return evaluations, ""
    made, why = {}, ""
    try:
        with open_run(run) as reading:
            for some in Replay(reading, _Chosen(places=places), folder=images):
                if not isinstance(some, Made):  # a run without recipe: there is nothing to make inputs of
                    continue
                for index, image in zip(some.equal.tolist(), some.inputs, strict=True):
                    made[some.batch.phase, some.batch.epoch, some.batch.batch, index] = image
                why = why or next((f"{one.subject}: {one.detail or one.cause}" for one in some.differences), "")
    except CaptureError as error:
        why = error.message
    return [
        (
            sums,
            [replace(one, image=made.get((sums.phase, sums.epoch, one.batch, one.index))) for one in samples],
        )
        for sums, samples in evaluations
    ], why
