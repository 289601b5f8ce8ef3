"""TensorBoard beside the records: `capture train --tensorboard`, or in anyone's loop

    with Recorder("runs/flowers", classes=classes, sinks=[TensorBoardSink()]) as recorder: ...

    tensorboard --logdir runs

Event files go to `tensorboard/` in the run folder: scalars `loss` and `lr` by the step, `<phase>/loss` and `<phase>/accuracy`
after each phase, the worst samples of each evaluation as a list and as images, and histograms of its margins (in nats, see
capture_cli.answers.visits): what lies below 0 is wrong. The step of everything is the number of updates before it.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture_cli.answers.visits import margins
from capture_cli.errors import CaptureError, UsageError
from capture_cli.records import Batch, Epoch, Numbers, Record, RunInfo
from capture_cli.runfolder import TENSORBOARD, Output
from capture_cli.sinks.background import WAIT_SECONDS, Background
from capture_cli.sinks.gathering import WORST, Gathering, Sample
from capture_cli.sinks.histogram import Histogram
from capture_cli.sinks.messages import sample_to_json
from capture_cli.sinks.remote import Remote

SECONDS = 2.0
"""Between two parcels of numbers."""
NAME = "tensorboard"


class TensorBoardSink:
    """Writes event files while a run goes on, and never holds it up."""

    every_input = "evaluation"
    """The worst samples of one are known at its end."""

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, worst: int = WORST, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        """`folder` is by default `tensorboard` in the run folder; of each evaluation the `worst` samples are shown.

        Raises UsageError where tensorboard is missing.
        """
        self._remote = Remote(NAME)
        self._folder = Path(folder) if folder is not None else None
        self._wait_seconds = wait_seconds
        self._gathering = Gathering(worst=worst)
        self._margins: dict[str, Histogram] = defaultdict(Histogram)
        self._sent_at = time.monotonic()
        self._step = 0
        self._begun = self._closed = False

    def begin(self, output: Output) -> None:
        """Take the folder of the records. Raises UsageError where there is none and none was given."""
        folder = self._folder or (output.folder / TENSORBOARD if output.folder else None)
        if folder is None:
            raise UsageError(f"event files need a folder, and the records go to {output.where}", "give a run folder")
        self._output, self._events = output, str(folder.absolute())
        self._background = Background(NAME)
        self._begun = True
        if output.journal.place["bytes"]:
            self._background.put(self._call("begin", folder=self._events, run=None, records=str(output.records)))

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Gather what is wanted of a record, and pass it on every few seconds."""
        if isinstance(record, Batch | Numbers):
            self._gathering.take(record, inputs)
            self._step = record.step + (record.phase == "train")
            if isinstance(record, Batch) and record.phase != "train":
                self._margins[record.phase].add(margins(record))
            if time.monotonic() - self._sent_at >= SECONDS:
                self._send_points()
        elif isinstance(record, RunInfo):
            self._background.put(self._call("begin", folder=self._events, run=asdict(record), records=None))
        elif isinstance(record, Epoch):
            self._send_points()
            worst, histogram = self._gathering.evaluated(record), self._margins.pop(record.phase, None)
            job = partial(self._evaluation, asdict(record), self._step, worst, histogram)
            self._background.put(job, evaluations=1)

    def close(self) -> None:
        """Write what is left and leave the counts in events.jsonl. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if not self._begun:  # there was no run
            self._remote.close()
            return
        self._send_points()
        self._background.put(self._call("end"))
        self._background.close(self._wait_seconds)
        self._remote.close(at_once=self._background.abandoned)
        with suppress(CaptureError):  # a full disk ends the run by itself, and not here
            self._output.event("sink", sink=NAME, **self._background.counts())

    def _send_points(self) -> None:
        self._sent_at = time.monotonic()
        points = self._gathering.points()
        if points:
            self._background.put(self._call("points", points=points), steps=len(points))

    # Done by the thread, which waits for the process meanwhile.

    def _call(self, name: str, **arguments: Any) -> partial[Any]:
        return partial(self._remote.call, name, **arguments)

    def _evaluation(self, sums: dict[str, Any], step: int, worst: Sequence[Sample], margins: Histogram | None) -> None:
        samples, histogram = [sample_to_json(sample) for sample in worst], margins.to_dict() if margins else None
        self._remote.call("evaluation", sums=sums, step=step, worst=samples, margins=histogram)
