"""The process of a sink: takes calls on standard input, line by line, and answers each on standard output.

    python -m capture_cli.sinks.process             # capture_cli.sinks.remote starts it

It is niced, so that the training has the processors first. What libraries print goes to standard error. When standard input
ends before the run was said to have ended, the run was killed, and MLflow is told so.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from capture_cli.errors import CaptureError, UsageError
from capture_cli.records import Epoch
from capture_cli.records import loads as record_of
from capture_cli.sinks.background import described
from capture_cli.sinks.events import EventFile, check_package
from capture_cli.sinks.gathering import Point
from capture_cli.sinks.histogram import Histogram
from capture_cli.sinks.messages import dumps, loads, sample_from_json
from capture_cli.sinks.parts import Parts, Read, first_line
from capture_cli.sinks.tracker import Place, Tracker

NICENESS = 10
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the rest can be sent later
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
"""How MLflow behaves here and in `capture log`, unless the environment says otherwise."""


def quieten() -> None:
    """Before MLflow is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)


class _Sender(Protocol):
    made: dict[str, Any]

    def abandon(self) -> None:
        """The run has ended without saying so."""


class MlflowSender:
    """What is told to MLflow of one run."""

    def __init__(self, *, uri: str | None, experiment: str | None, run_name: str | None) -> None:
        quieten()
        self._tracker = Tracker(uri, experiment=experiment, run_name=run_name)
        self._folder = tempfile.TemporaryDirectory(prefix="capture-")
        self._parts: Parts | None = None
        self._ended = False
        self.made = {"uri": self._tracker.uri}

    def begin(
        self, *, run: Mapping[str, Any] | None, place: dict[str, Any], records: str | None, earlier: str | None
    ) -> dict[str, Any]:
        """The run record, None where an earlier process wrote it; one that comes later has new options."""
        read = _reading(records)
        tracker, again = self._tracker, bool(self._tracker.run_id)
        if run is None:
            run = record_of(first_line(read))
            place["begins"] = run["chain"]
            earlier = earlier or tracker.find(Place(**place))
        tracker.open(run, Place(**place), earlier=tracker.run_id or earlier)
        if records and not again:
            self._parts = Parts(read, Path(self._folder.name))
            tracker.resume_parts(self._parts, read)
        return {"run_id": tracker.run_id, "experiment_id": tracker.experiment_id, "torch": tracker.torch}

    def points(self, *, points: Sequence[Sequence[Any]]) -> None:
        self._tracker.points([Point(*point) for point in points])

    def evaluation(self, *, sums: dict[str, Any], worst: Sequence[dict[str, Any]]) -> None:
        self._tracker.evaluation(Epoch(**sums), [sample_from_json(sample) for sample in worst])

    def records(self, *, until: int) -> None:
        if self._parts:
            self._tracker.records(self._parts, until)

    def end(self, *, status: str | None, chain: str) -> None:
        self._ended = True
        self._tracker.end(status, chain)
        self._folder.cleanup()

    def abandon(self) -> None:
        if self._tracker.run_id and not self._ended:
            self._tracker.abandon()


class EventSender:
    """What is written for TensorBoard of one run."""

    def __init__(self) -> None:
        check_package()
        self._file: EventFile | None = None
        self.made: dict[str, Any] = {}

    def begin(self, *, folder: str, run: Mapping[str, Any] | None, records: str | None) -> None:
        """The run record, None where an earlier process wrote it."""
        self._file = self._file or EventFile(Path(folder))
        self._events.describe(record_of(first_line(_reading(records))) if run is None else run)

    @property
    def _events(self) -> EventFile:
        if self._file is None:
            raise CaptureError("nothing has begun")
        return self._file

    def points(self, *, points: Sequence[Sequence[Any]]) -> None:
        self._events.points([Point(*point) for point in points])

    def evaluation(
        self, *, sums: dict[str, Any], step: int, worst: Sequence[dict[str, Any]], margins: dict[str, Any] | None
    ) -> None:
        histogram = Histogram.from_dict(margins) if margins else None
        self._events.evaluation(Epoch(**sums), step, [sample_from_json(sample) for sample in worst], histogram)

    def end(self) -> None:
        self._events.close()

    def abandon(self) -> None:
        if self._file:
            self._file.close()


KINDS: dict[str, type[_Sender]] = {"mlflow": MlflowSender, "tensorboard": EventSender}


def _reading(records: str | None) -> Read:
    """Reads the records, which another process has locked; none where they are in no file."""
    if records is None:
        return lambda _offset, _count: b""
    fd = os.open(records, os.O_RDONLY | os.O_CLOEXEC)
    return lambda offset, count: os.pread(fd, count, offset)


def main() -> None:
    """Take calls until there are no more."""
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


def serve(calls: BinaryIO, answers: BinaryIO) -> None:
    """Do what each line says and answer with what came of it."""
    sender: _Sender | None = None
    for line in calls:
        call = loads(line)
        name = call.pop("call")
        try:
            if name == "make":
                sender = KINDS[call.pop("kind")](**call)
                answer = sender.made
            else:
                answer = getattr(sender, name)(**call) or {}
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises is for the caller to tell of
            answer = _failure(error)
        try:
            answers.write(dumps(answer))
            answers.flush()
        except BrokenPipeError:  # the run was killed while the call was under way
            break
    if sender:
        sender.abandon()


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, CaptureError):
        return {"error": error.message, "hint": error.hint, "usage": isinstance(error, UsageError)}
    return {"error": described(error), "hint": "", "usage": False}


if __name__ == "__main__":
    main()
