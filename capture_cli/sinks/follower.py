"""The training's handle on a sink process: start it, give it inputs for pictures, and wait for it at the end, but not for long.

The process (capture_cli.sinks.process) follows the file of records, so a slow tracker delays no step. It may be killed at any
time. In a thread its work would cost the training as much time as it takes: the interpreter runs one thread at a time.

Two things are not in the file and go through the process's folder: inputs of an evaluation's worst samples, written at its end,
and records that go into a pipe.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture_cli.errors import CaptureError, UsageError, redacted
from capture_cli.files import write_all
from capture_cli.records import AnyBatch, Epoch, Record
from capture_cli.runfolder import RECORDS, Output
from capture_cli.sinks.evaluations import Largest
from capture_cli.sinks.pictures import Spool, is_picture

POLL_SECONDS = 1.0
"""Between two looks at what the process reports."""
WAIT_SECONDS = 60.0
"""At the end of a run, for what is still to be sent."""
END_SECONDS = 2.0
"""For the process to end by itself, once all is sent."""
_Input = tuple[int, int, npt.NDArray[Any]]
"""Batch, position in it, and the input [C, H, W]."""


class Follower:
    """A process that follows one run and sends it to one tracker. Nothing here waits unless it says so."""

    def __init__(self, tracker: str, options: Mapping[str, Any], *, worst: int) -> None:
        """Start the process and wait until it can send. Raises UsageError if it cannot."""
        self.error = ""
        """Why it gave up; empty if it did not."""
        self.run: dict[str, Any] = {}
        """The run in the tracker, once it has begun there: `run_id`, ..."""
        self.result: dict[str, Any] = {"sent": {}}
        """Counts of what was sent, once known: by kind, and `lines` of the records."""
        self._tracker, self._worst = tracker, worst
        self._evaluations: dict[str, Largest[_Input]] = {}
        self._output: Output | None = None
        self._rest, self._until = "", 0
        self._copy = -1
        self._polled_at = time.monotonic()
        self._process = _start()
        self._line = b""
        try:
            self._tell(tracker=tracker, **options)
            while not (reports := self._reports(None)):
                pass
        except BaseException:
            self.kill()
            raise
        (ready,) = reports
        if "error" in ready:
            self.kill()
            raise (UsageError if ready.get("usage") else CaptureError)(ready["error"], ready.get("hint", ""))
        self.uri: str = ready["uri"]
        """The address of the tracker, with any password that is in it."""
        self.spool = Spool(Path(ready["scratch"]))

    def begin(self, output: Output, *, rest: str = "") -> None:
        """Let the process follow the records of `output`; `rest` tells how to send later what was not sent."""
        self._output, self._rest = output, rest
        if output.records is None:
            output.journal.copies.append(self._copy_line)
        paths = {"folder": output.folder, "records": output.records}
        place = {name: str(path.absolute()) if path else None for name, path in paths.items()}
        self._until = output.journal.size
        held = f"/proc/{os.getpid()}/fd/{output.descriptor}" if output.descriptor is not None else None
        self._tell(place={"where": output.where, **place}, held=held, worst=self._worst, until=self._until)

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Keep the inputs of worst samples, and notice now and then how the process does."""
        if time.monotonic() - self._polled_at >= POLL_SECONDS:
            self.poll()
        if self.error or not (self._worst and self._output and self._output.journal.position["bytes"] > self._until):
            return  # inputs of evaluations that an earlier process recorded are made again in the process
        try:
            if isinstance(record, AnyBatch):
                if record.phase != "train" and inputs is not None and is_picture(record.inputs.shape, inputs.dtype):
                    self._keep(record, inputs)
            elif isinstance(record, Epoch) and (largest := self._evaluations.pop(record.phase, None)):
                for _, (batch, index, image) in largest.falling:
                    self.spool.add(record.phase, record.epoch, batch=batch, index=index, image=image)
                self.spool.complete(record.phase, record.epoch)
        except OSError as error:
            self._fail_to_write(error)

    def poll(self) -> None:
        """Take what the process reports; warn once if it gave up."""
        self._polled_at = time.monotonic()
        for report in self._reports(0):
            self._take(report)

    def finish(self, seconds: float) -> None:
        """Wait at most so long until everything is sent."""
        until = time.monotonic() + seconds
        self._tell(end=True)
        while self._output and not (self.error or "lines" in self.result):
            for report in self._reports(max(until - time.monotonic(), 0)):
                self._take(report)
            if time.monotonic() >= until and "lines" not in self.result:
                self.fail(f"not everything was sent within {seconds:g} seconds")

    def fail(self, error: str) -> None:
        """Give up, with one warning."""
        if not self.error:
            self.error = error
            self.kill()
            text = f"{self._tracker}: {error}; the run goes on without it"
            warnings.warn(f"{text}; {self._rest}" if self._rest else text, stacklevel=4)

    def close(self, **values: Any) -> None:
        """End the process, and leave what it did, and `values`, in events.jsonl."""
        if self._process.stdin:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.kill()
        if self._copy >= 0 and self._output:
            self._output.journal.copies.remove(self._copy_line)
            os.close(self._copy)
            self._copy = -1
        shutil.rmtree(self.spool.folder, ignore_errors=True)  # it does so itself, unless it was killed
        self._event(**values, **self.result, **({"error": self.error} if self.error else {}))

    def kill(self) -> None:
        """End the process at once. May be called twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _tell(self, **message: Any) -> None:
        """Write a line, unless the process is gone, which `_reports` will say."""
        with contextlib.suppress(OSError, ValueError):
            write_all(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]

    def _reports(self, seconds: float | None) -> list[dict[str, Any]]:
        """Return what the process has reported, waiting so long for something (None: for ever); an error if it is gone."""
        if self._process.stdout is None or self._process.stdout.closed:
            return []
        ready = select.poll()
        ready.register(self._process.stdout, select.POLLIN)
        if not ready.poll(seconds and seconds * 1000):
            return []
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            return [] if "lines" in self.result else [{"error": "its process has ended"}]  # it ends once all is sent
        *lines, self._line = (self._line + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _take(self, report: dict[str, Any]) -> None:
        if (run := report.get("run", {})) and run != self.run:
            self.run = run
            self._event(uri=redacted(self.uri), run_id=run["run_id"])
        self.result = {name: report[name] for name in ("sent", "lines") if name in report} or self.result
        if "error" in report:
            self.fail(report["error"])

    def _event(self, **values: Any) -> None:
        with contextlib.suppress(CaptureError):  # a full disk ends the run by itself, and not here
            if self._output:
                self._output.event("sink", sink=self._tracker, **values)

    def _keep(self, record: AnyBatch, inputs: npt.NDArray[Any]) -> None:
        if record.phase not in self._evaluations:
            self.spool.announce(record.phase, record.epoch)
            self._evaluations[record.phase] = Largest(self._worst)
        if record.losses is not None:
            self._evaluations[record.phase].add(record.losses, lambda index: (record.batch, index, inputs[index].copy()))

    def _copy_line(self, line: bytes) -> None:
        try:
            if not self.error:
                if self._copy < 0:
                    self._copy = os.open(self.spool.folder / RECORDS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
                write_all(self._copy, line)
        except OSError as error:
            self._fail_to_write(error)

    def _fail_to_write(self, error: OSError) -> None:
        self.poll()  # the process may have given up and removed its folder, and says why
        self.fail(f"'{self.spool.folder}' could not be written: {error.strerror}")


def _start() -> "subprocess.Popen[bytes]":
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "capture_cli.sinks.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("CAPTURE_DEBUG") else subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        start_new_session=True,  # Ctrl-C is for the training, which then says how it ended
        bufsize=0,
    )
