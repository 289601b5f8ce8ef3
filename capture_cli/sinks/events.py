"""One event file for TensorBoard: the only place that knows its messages.

    events = EventFile(folder)
    events.describe(run)                            # the run record as plain values
    events.points(points)
    events.evaluation(sums, step, worst, margins)
    events.close()

Written with TensorBoard's own records and messages; neither TensorFlow nor torch's writer is imported. In a folder that has
event files TensorBoard is told to forget what they say from the first step on, which a run that goes on says again.
"""

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from capture_cli.errors import UsageError
from capture_cli.records import Epoch
from capture_cli.sinks.gathering import Point, Sample
from capture_cli.sinks.histogram import EDGES, Histogram
from capture_cli.sinks.pictures import png

_MARKUP = re.compile(r"([^\w\s./:,=+-])")


def check_package() -> None:
    """Raise UsageError where tensorboard is missing."""
    try:
        import tensorboard.compat.proto.event_pb2  # noqa: F401 - to see whether it can be
    except ImportError as error:
        raise UsageError("the package tensorboard is missing", "pip install 'capture-cli[tensorboard]'") from error


class EventFile:
    """Made when the first event comes; what was written is on disk when a method returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._run: Mapping[str, Any] = {}

    def describe(self, run: Mapping[str, Any]) -> None:
        """Be told the run record in plain values."""
        self._run = run

    def points(self, points: Sequence[Point]) -> None:
        """Loss and learning rate of training steps."""
        for point in points:
            self._scalars(point.step, point.milliseconds / 1000, {"loss": point.loss, "lr": point.lr})
        self._flush()

    def evaluation(self, sums: Epoch, step: int, worst: Sequence[Sample], margins: Histogram | None) -> None:
        """What is known at the end of a phase, after `step` updates."""
        now = time.time()
        self._scalars(step, now, {f"{sums.phase}/loss": sums.loss, f"{sums.phase}/accuracy": sums.accuracy})
        if margins is not None and margins.n:
            self._summary(step, now, tag=f"{sums.phase}/margins in nats", histo=_histogram(margins))
        for rank, sample in enumerate(worst):
            if sample.image is not None:
                channels, height, width = sample.image.shape
                image = {"height": height, "width": width, "colorspace": channels}
                image["encoded_image_string"] = png(sample.image, self._run.get("recipe", {}))
                self._summary(step, now, tag=f"{sums.phase}/worst/{rank}", image=image)
        if worst:
            rows = [sample.described(self._run["classes"]) for sample in worst]
            self._summary(step, now, tag=f"{sums.phase}/worst/list", **_text(_table(rows)))
        self._flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _scalars(self, step: int, seconds: float, values: Mapping[str, float | None]) -> None:
        given = [{"tag": tag, "simple_value": value} for tag, value in values.items() if value is not None]
        self._write(step=step, wall_time=seconds, summary={"value": given})

    def _summary(self, step: int, seconds: float, **value: Any) -> None:
        self._write(step=step, wall_time=seconds, summary={"value": [value]})

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._file is None:
            self._open(event["step"])
        self._writer.write(Event(**event).SerializeToString())

    def _open(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        goes_on = any(self._folder.glob("events.out.tfevents.*"))
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (self._folder / name).open("xb")
        self._writer = RecordWriter(self._file)
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        if goes_on:
            start = SessionLog(status=SessionLog.START)
            self._writer.write(Event(wall_time=time.time(), step=step, session_log=start).SerializeToString())

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()


def _histogram(margins: Histogram) -> dict[str, Any]:
    """As TensorBoard takes it, without the empty bins at both ends."""
    held = np.flatnonzero(margins.counts)
    bins = slice(max(int(held[0]) - 1, 0), int(held[-1]) + 1)
    return {
        "min": margins.least,
        "max": margins.greatest,
        "num": margins.n,
        "sum": margins.total,
        "sum_squares": margins.squares,
        "bucket_limit": EDGES[bins].tolist(),
        "bucket": margins.counts[bins].tolist(),
    }


def _text(markdown: str) -> dict[str, Any]:
    """The fields of a summary that the text plugin shows."""
    return {
        "metadata": {"plugin_data": {"plugin_name": "text"}},
        "tensor": {"dtype": "DT_STRING", "tensor_shape": {}, "string_val": [markdown.encode("utf-8", "replace")]},
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown; what could be markup in a name is escaped."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_MARKUP.sub(r"\\\1", str(row[name])) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
