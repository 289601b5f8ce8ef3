"""Send a run to MLflow or TensorBoard, as far as it goes: a sink process and `capture log` both run this code.

    with open_run(folder) as run, alone(destination.open(where=folder, folder=folder, records=file)):
        sending = Sending(run, destination, Spool(scratch))
        sending.reproduce(images)           # pictures of evaluations that ended earlier
        sending.advance()                   # everything that has been written since
        sending.finish()                    # the rest, and how the run ended

A destination compares what it is given with what it holds, so a run may be sent any number of times, from its beginning.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from capture_cli.errors import CaptureError, RecordsError, quoted, redacted
from capture_cli.records import NO_LABEL, AnyBatch, Epoch, RunInfo, Samples
from capture_cli.replay import Replay, Selection
from capture_cli.runs import Block, Cursor, Line, Run, Visits
from capture_cli.sinks.evaluations import WORST, BatchStep, EvaluationCollector, PhaseResult
from capture_cli.sinks.pictures import Spool

LOCK_SECONDS = 120.0
"""For another process that is still sending the same run: one whose training was killed finishes what it does."""


class Destination(Protocol):
    """A tracker that shows one run. Methods are called in the order of the records, and raise what its library raises.

    `open` sets the run: `where` as the user called it, folder and file of records as absolute paths, None if there is none.
    It returns a file or folder that stands for the run in this tracker, to be locked, if there is one. `begin` takes a run
    record: the first one creates the run in the tracker, or continues it. Labels are (file or id, label, split). `pictures`
    counts those that the tracker has of an evaluation, -1 if it does not have the evaluation. `caught_up` delivers what was
    taken, now that the records have been read up to `cursor`; `end` delivers the rest and says how the run ended.
    """

    sent: Counter[str]
    """Counts of what the tracker did not have before, by kind."""
    identity: dict[str, Any]
    """The identity of the run in the tracker, for the training process; empty until it has begun."""

    def open(self, *, where: str, folder: str | None, records: str | None) -> Path | None: ...
    def begin(self, info: RunInfo) -> None: ...
    def log_labels(self, labels: Sequence[tuple[str, str, str]], /) -> None: ...
    def log_steps(self, steps: Sequence[BatchStep]) -> None: ...
    def log_phase(self, result: PhaseResult) -> None: ...
    def pictures(self, result: PhaseResult) -> int: ...
    def caught_up(self, cursor: Cursor, /) -> None: ...
    def end(self, cursor: Cursor, /) -> None: ...


class Sending:
    """One run on its way to one destination."""

    def __init__(self, run: Run, destination: Destination, spool: Spool, *, worst: int = WORST) -> None:
        """Show the `worst` samples of each evaluation, with the inputs that are in `spool`."""
        self._run, self._to, self._spool, self._worst = run, destination, spool, worst
        self._phases = EvaluationCollector(worst=worst)
        self._cursor: Cursor | None = None
        self.lines = 0
        """Records that were read so far."""
        self.behind = False
        """True if `advance` left records for its next call."""
        self._labelled: set[str] = set()
        """Phases whose samples are known. Where no record lists the samples, they are those of a phase's first epoch."""

    def reproduce(self, images: Path | None = None, *, until: int | None = None) -> str:
        """Make the inputs of worst samples again where the destination lacks them, from the image files.

        `images` is where these are now, if not where the run says. Only evaluations within the first `until` bytes of the
        records count, by default all. Returns why some inputs could not be made; empty if all were.
        """
        missing, phases = list[PhaseResult](), EvaluationCollector(worst=self._worst)
        with suppress(RecordsError):  # raised again by `advance`, which sends what comes before
            for block in self._run.follow(None):
                if until is not None and self._run.cursor.at.bytes > until:
                    break
                if isinstance(block, RunInfo):
                    self._to.begin(block)
                elif isinstance(block, Visits):
                    phases.update(block)
                elif isinstance(block, Epoch):
                    result = phases.finish(block)
                    if result.worst and self._to.pictures(result) < len(result.worst):
                        missing.append(result)
        return _replay(self._run, missing, self._spool, images) if missing else ""

    def advance(self, seconds: float = math.inf) -> RecordsError | None:
        """Send what has been written since; return what is wrong with the records behind it.

        Stops after so many seconds, because a run may be written as fast as it is sent: its end would never be reached.
        """
        error, until = None, time.monotonic() + seconds
        self.behind = False
        try:
            for block in self._run.follow(self._cursor):
                self._send(block)
                self.behind = time.monotonic() >= until
                if self.behind:
                    break
        except RecordsError as found:
            error = found
        self.lines = self._run.cursor.at.seq
        if self.lines:
            self._cursor = self._run.cursor
            self._to.caught_up(self._cursor)
        elif not self._run.ending.lines and self._run.ending.state != "damaged":  # the run record is still to come
            error = None
        return error

    def finish(self) -> RecordsError | None:
        """Send the rest and how the run ended; return what is wrong with records that were not sent."""
        error = self.advance()
        if self._cursor:
            self._to.end(self._cursor)
        return error

    def _send(self, block: Block) -> None:
        if isinstance(block, RunInfo):
            self._to.begin(block)
        elif isinstance(block, Samples):
            self._labelled |= {"train", "val", "test"}
            self._log_labels(zip(block.files, block.labels, block.splits, strict=True))
        elif isinstance(block, Visits):
            if block.phase not in self._labelled and block.info.task is None:
                self._log_labels((file, label, block.phase) for file, label in zip(block["file"], block["label"], strict=True))
            steps = self._phases.update(block)
            if block.phase == "train":
                self._to.log_steps(steps)
        elif isinstance(block, Epoch):
            self._labelled.add(block.phase)
            result = self._phases.finish(block)
            images = self._spool.take(block.phase, block.epoch) if result.worst else {}
            worst = [replace(one, image=images.get((one.visit.batch, one.index))) for one in result.worst]
            self._to.log_phase(replace(result, worst=worst))

    def _log_labels(self, rows: Iterable[tuple[str, int, str]]) -> None:
        classes = self._run.info.classes
        self._to.log_labels([(file, classes[label], split) for file, label, split in rows if label != NO_LABEL])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen(Selection):
    """Samples by position."""

    places: Mapping[tuple[str, int], Mapping[int, Sequence[int]]] = field(default_factory=dict)
    """(phase, epoch) -> batch -> positions in the batch."""

    def may_hold(self, line: Line) -> bool:
        return line.phase_and_epoch() in self.places

    def positions(self, batch: AnyBatch) -> list[int]:
        return sorted(self.places.get((batch.phase, batch.epoch), {}).get(batch.batch, ()))


def _replay(run: Run, results: Sequence[PhaseResult], spool: Spool, images: Path | None) -> str:
    """Put the inputs of the worst samples into `spool`; return why some could not be made."""
    places: dict[tuple[str, int], dict[int, list[int]]] = {}
    for result in results:
        batches = places[result.sums.phase, result.sums.epoch] = defaultdict(list)
        for sample in result.worst:
            batches[sample.visit.batch].append(sample.index)
        spool.announce(result.sums.phase, result.sums.epoch)
    why = ""
    try:
        for reproduced in Replay(run, _Chosen(places=places), folder=images):
            batch = reproduced.batch
            for index, image in zip(reproduced.equal.tolist(), reproduced.inputs, strict=True):
                spool.add(batch.phase, batch.epoch, batch=batch.batch, index=index, image=image)
            why = why or next((f"{one.subject}: {one.detail or one.cause}" for one in reproduced.differences), "")
    except CaptureError as error:
        why = error.message
    for phase, epoch in places:
        spool.complete(phase, epoch)
    return why


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Wait until no other process sends the same run to the same tracker. Raises CaptureError if that takes too long."""
    if lock is None or not lock.exists():
        yield
        return
    descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_SECONDS
        with suppress(OSError):  # a file system without locks
            while True:
                try:  # unlike a lock by lockf, it is not released by closing another descriptor of the file
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise CaptureError("another process is still sending this run", "try again when it has ended") from None
                    time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def described(error: BaseException) -> str:
    """An error's message in one line, without passwords; that of another package with its type."""
    if isinstance(error, CaptureError):
        return redacted(error.message)
    kind, text = type(error).__name__, quoted(error)
    return kind if text == kind else f"{kind}: {text}"
