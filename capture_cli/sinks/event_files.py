"""Event files of one run for TensorBoard: the only module that knows its messages.

They are written with TensorBoard's own records and messages; neither TensorFlow nor torch's writer is imported. What the folder
holds already is compared with what is to be written, and is not written again. From the first step on at which they differ,
TensorBoard is told to forget what is there.
"""

import os
import re
import socket
import struct
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from capture_cli.answers.best import scalars
from capture_cli.errors import UsageError
from capture_cli.records import RunInfo
from capture_cli.runfolder import TENSORBOARD
from capture_cli.runs import Cursor
from capture_cli.sinks.evaluations import BatchStep, EvaluatedSample, PhaseResult
from capture_cli.sinks.pictures import png

NAME = "tensorboard"
_MARKUP = re.compile(r"([^\w\s./:,=+-])")
_POSITIVE = np.geomspace(0.01, 128.0, 60)
EDGES = np.concatenate([-_POSITIVE[::-1], [0.0], _POSITIVE])
"""Right ends of the bins of margins in nats, finer towards 0, where right and wrong predictions part."""


class _Event(NamedTuple):
    """Values of one step; all of them are in the file, or none."""

    step: int
    scalars: Mapping[str, float]
    others: Sequence[Mapping[str, Any]] = ()
    """Fields of further summary values: pictures, histograms, texts."""


class EventFiles:
    """The event files of one run; a Destination, see capture_cli.sinks.sending."""

    def __init__(self, *, folder: str | None = None) -> None:
        """Write to `folder`, by default `tensorboard` in the run folder. Raises UsageError if tensorboard is missing."""
        try:
            import tensorboard.compat.proto.event_pb2  # noqa: F401 - to see whether it can be imported
        except ImportError as error:
            raise UsageError("the package tensorboard is missing", "pip install 'capture-cli[tensorboard]'") from error
        self.sent = Counter(steps=0, phases=0)
        self.identity: dict[str, Any] = {}
        self._given = folder
        self._info: RunInfo | None = None
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._steps, self._keys = array("q"), array("q")
        """Steps and keys of the events that are there, in the order in which they were written."""
        self._matched = 0
        """The number of events that are as the records say."""
        self._latest: list[_Event] = []
        """The last of those, which have the same step."""

    def open(self, *, where: str, folder: str | None, records: str | None) -> Path:  # noqa: ARG002 - see Destination
        """Make the folder. Raises UsageError if there is none."""
        if not (self._given or folder):
            raise UsageError(f"event files need a folder, and the records go to {where}", "give a run folder")
        self._folder = Path(self._given or Path(folder or "", TENSORBOARD))
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def begin(self, info: RunInfo) -> None:
        if self._info is None:
            self._read()
        self._info = info

    def log_labels(self, _labels: Sequence[tuple[str, str, str]]) -> None:
        """Ignore them: TensorBoard has no place for labels."""

    def log_steps(self, steps: Sequence[BatchStep]) -> None:
        for step in steps:
            values = {"loss": step.loss} | ({} if step.lr is None else {"lr": step.lr})
            self.sent["steps"] += self._write(_Event(step.step, values))

    def log_phase(self, result: PhaseResult) -> None:
        phase, recipe, others = result.sums.phase, self._info.recipe if self._info else {}, list[Mapping[str, Any]]()
        margins = np.concatenate([np.zeros(0, np.float32), *result.margins])
        if np.isfinite(margins).any():
            others.append({"tag": f"{phase}/margins in nats", "histo": _histogram(margins)})
        for rank, sample in enumerate(result.worst):
            if sample.image is not None:
                channels, height, width = sample.image.shape
                image = {"height": height, "width": width, "colorspace": channels}
                image["encoded_image_string"] = png(sample.image, recipe)
                others.append({"tag": f"{phase}/worst/{rank}", "image": image})
        if result.worst:
            others.append({"tag": f"{phase}/worst/list", **_text(_table(result.worst))})
        self.sent["phases"] += self._write(_Event(result.step, _scalars(result), others))

    def pictures(self, result: PhaseResult) -> int:
        """Count all as there, if the event is: it was written whole."""
        return len(result.worst) if _key(result.step, _scalars(result)) in self._keys else -1

    def caught_up(self, _cursor: Cursor) -> None:
        if self._file is not None:
            self._file.flush()

    def end(self, _cursor: Cursor) -> None:
        if self._matched < len(self._keys):
            self._forget(self._steps[self._matched])
        if self._file is not None:
            self._file.close()

    def _write(self, event: _Event) -> bool:
        """Write an event unless it is there; return whether it was written."""
        if self._matched == len(self._keys):
            self._put(event)
            return True
        if self._keys[self._matched] == _key(event.step, event.scalars):
            self._matched += 1
            self._latest = [one for one in self._latest if one.step == event.step] + [event]
            return False
        self._forget(min(event.step, self._steps[self._matched]))
        self._put(event)
        return True

    def _forget(self, step: int) -> None:
        """Let TensorBoard forget everything from `step` on, and write again what is right of that."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        del self._steps[self._matched :], self._keys[self._matched :]
        self._put_message(step=step, session_log=SessionLog(status=SessionLog.START))
        for event in self._latest:
            if event.step >= step:
                self._put(event)

    def _put(self, event: _Event) -> None:
        scalars = [{"tag": tag, "simple_value": value} for tag, value in event.scalars.items()]
        self._put_message(step=event.step, summary={"value": [*scalars, *event.others]})

    def _put_message(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = (self._folder / name).open("xb")
            self._writer = RecordWriter(self._file)
            self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def _read(self) -> None:
        """Read the events that are there, as TensorBoard reads them: a start with a step takes back those from it on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        for path in sorted(self._folder.glob("events.out.tfevents.*")):
            for event in _events(path):
                if event.session_log.status == SessionLog.START:
                    while self._steps and self._steps[-1] >= event.step:
                        self._steps.pop(), self._keys.pop()
                elif event.HasField("summary"):
                    scalars = {one.tag: one.simple_value for one in event.summary.value if one.HasField("simple_value")}
                    self._steps.append(event.step)
                    self._keys.append(_key(event.step, scalars))


def _events(path: Path) -> Iterator[Any]:
    """Read an event file up to the first incomplete record: size [8 bytes], its checksum [4], message, its checksum [4]."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    left = path.stat().st_size
    with path.open("rb") as file:
        while len(header := file.read(12)) == 12:
            (size,) = struct.unpack("<Q", header[:8])
            left -= 16 + size
            if left < 0:
                return
            try:
                yield Event.FromString(file.read(size + 4)[:size])
            except DecodeError:
                return


def _scalars(result: PhaseResult) -> dict[str, float]:
    return {f"{result.sums.phase}/{name}": value for name, value in scalars(result.sums, result.task).items()}


def _key(step: int, scalars: Mapping[str, float]) -> int:
    """A number by which events are compared within this process."""
    with np.errstate(over="ignore"):
        return hash((step, *((tag, repr(np.float32(value))) for tag, value in scalars.items())))


def _histogram(margins: npt.NDArray[np.float32]) -> dict[str, Any]:
    """A histogram as TensorBoard takes it, without the empty bins at both ends; margins that are not finite are skipped."""
    values = margins[np.isfinite(margins)].astype(np.float64)
    counts = np.bincount(np.searchsorted(EDGES, values).clip(0, len(EDGES) - 1), minlength=len(EDGES))
    filled = np.flatnonzero(counts)
    bins = slice(max(int(filled[0]) - 1, 0), int(filled[-1]) + 1)
    moments = {"num": len(values), "sum": float(values.sum()), "sum_squares": float(np.square(values).sum())}
    limits = {"min": float(values.min()), "max": float(values.max())}
    return {**limits, **moments, "bucket_limit": EDGES[bins].tolist(), "bucket": counts[bins].tolist()}


def _text(markdown: str) -> dict[str, Any]:
    """The fields of a summary that the text plugin shows."""
    tensor = {"dtype": "DT_STRING", "tensor_shape": {}, "string_val": [markdown.encode("utf-8", "replace")]}
    return {"metadata": {"plugin_data": {"plugin_name": "text"}}, "tensor": tensor}


def _table(samples: Sequence[EvaluatedSample]) -> str:
    """A table in Markdown; what could be markup in a name is escaped."""
    rows = [sample.to_json() for sample in samples]
    names = list(dict.fromkeys(name for row in rows for name in row))  # what is not finite is missing from its row
    cells = ([_MARKUP.sub(r"\\\1", str(row.get(name, ""))) for name in names] for row in rows)
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
