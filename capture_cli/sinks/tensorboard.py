"""TensorBoard beside the records: `capture train --tensorboard`, or in your own loop

    with Recorder("runs/flowers", classes=classes, sinks=[TensorBoardSink()]) as recorder: ...

    tensorboard --logdir runs

Event files go to `tensorboard/` in the run folder. docs/sinks.md lists what they hold.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture_cli.errors import UsageError
from capture_cli.records import Record
from capture_cli.runfolder import Output
from capture_cli.sinks.evaluations import WORST
from capture_cli.sinks.event_files import NAME
from capture_cli.sinks.follower import WAIT_SECONDS, Follower


class TensorBoardSink:
    """A sink that writes event files from a process of its own, and never holds the run up."""

    every_input = "evaluation"

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, worst: int = WORST, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        """Write to `folder`, by default `tensorboard` in the run folder, and show the `worst` samples of each evaluation.

        At the end the sink waits at most `wait_seconds` for what is still to be written. Raises UsageError if tensorboard is
        missing.
        """
        if folder is not None and not str(folder).strip():
            raise UsageError("folder: its name is empty", "give a folder, or leave it out")
        self._folder = str(Path(folder).absolute()) if folder is not None else None
        self._follower = Follower(NAME, {"folder": self._folder}, worst=worst)
        self._wait_seconds, self._closed = wait_seconds, False

    def begin(self, output: Output) -> None:
        """See capture_cli.writer.sink.Sink. Raises UsageError if there is no run folder and none was given."""
        if not (self._folder or output.folder):
            raise UsageError(f"event files need a folder, and the records go to {output.where}", "give a run folder")
        command = f"capture log {shlex.quote(output.where)} --tensorboard"
        rest = f"`{command}` writes the rest" if output.folder and not self._folder else ""
        self._follower.begin(output, rest=rest)

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """See capture_cli.writer.sink.Sink."""
        self._follower.write(record, inputs)

    def close(self) -> None:
        """Wait for the rest to be written, and leave the counts in events.jsonl. May be called twice."""
        if not self._closed:
            self._closed = True
            self._follower.finish(self._wait_seconds)
            self._follower.close()
