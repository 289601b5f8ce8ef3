"""The training's side of a sink: start its process, hand over inputs for pictures, and wait at the end, but not for long.

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

from capture_cli.errors import CaptureError, UsageError
from capture_cli.files import write_all
from capture_cli.records import Batch, Epoch, Numbers, Record
from capture_cli.runfolder import RECORDS, Output
from capture_cli.sinks.evaluations import Largest
from capture_cli.sinks.pictures import Spool, is_picture
from capture_cli.sinks.sending import Place
from capture_cli.sinks.uri import shown

POLL_SECONDS = 1.0
"""Between two looks at what the process reports."""
WAIT_SECONDS = 60.0
"""At the end of a run, for what is still to be sent."""
END_SECONDS = 2.0
"""For the process to end by itself, once all is sent."""
_Kept = tuple[int, int, npt.NDArray[Any]]
"""Batch, position in it, input."""


class Live:
    """One sink process and what the training does for it."""

    def __init__(self, tracker: str, options: Mapping[str, Any], *, worst: int) -> None:
        """Start the process and wait until it can send. Raises UsageError if it cannot."""
        self.tracker = tracker
        self.error = ""
        """Why it gave up; empty if it did not."""
        self.run: dict[str, Any] = {}
        """The run in the tracker, once it has begun there: `run_id`, ..."""
        self.result: dict[str, Any] = {"sent": {}}
        """What was sent, once that is known: by kind, and records in `lines`."""
        self._output: Output | None = None
        self._worst = worst
        self._evaluations: dict[str, Largest[_Kept]] = {}
        self._copy = -1
        self._polled_at = time.monotonic()
        self._process = _Process()
        try:
            self._process.tell({"tracker": tracker, **options})
            ready = self._process.first_report()
        except BaseException:
            self._process.kill()
            raise
        if "error" in ready:
            self._process.kill()
            raise (UsageError if ready.get("usage") else CaptureError)(ready["error"], ready.get("hint", ""))
        self.uri: str = ready["uri"]
        """Where the tracker is, with any password that is in it."""
        self._spool = Spool(Path(ready["scratch"]))

    def begin(self, output: Output, *, rest: str = "") -> None:
        """Let the process follow the records of `output`; `rest` tells how to send later what was not sent."""
        self._output, self._rest = output, rest
        folder, records = (str(path.absolute()) if path else None for path in (output.folder, output.records))
        if records is None:
            self._copy = os.open(self._spool.folder / RECORDS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            output.journal.copies.append(self._copy_line)
        place = Place(output.where, folder, records)
        self._process.tell({"place": place, "worst": self._worst, "until": output.journal.position["bytes"]})

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Keep the inputs of worst samples, and notice now and then how the process does."""
        if time.monotonic() - self._polled_at >= POLL_SECONDS:
            self.poll()
        if self.error or not self._worst:
            return
        try:
            if isinstance(record, Batch | Numbers):
                if record.phase != "train" and inputs is not None and is_picture(record.inputs.shape, inputs.dtype):
                    self._keep(record, inputs)
            elif isinstance(record, Epoch) and (largest := self._evaluations.pop(record.phase, None)):
                for batch, index, image in largest.falling():
                    self._spool.add(record.phase, record.epoch, batch=batch, index=index, image=image)
                self._spool.complete(record.phase, record.epoch)
        except OSError as error:
            self._fail_to_write(error)

    def poll(self) -> None:
        """Take what the process reports; warn once if it gave up."""
        self._polled_at = time.monotonic()
        for report in self._process.reports(0):
            self._take(report)

    def finish(self, seconds: float) -> None:
        """Wait at most so long until everything is sent."""
        until = time.monotonic() + seconds
        self._process.tell({"end": True})
        while self._output and not (self.error or "lines" in self.result):
            for report in self._process.reports(max(until - time.monotonic(), 0)):
                self._take(report)
            if time.monotonic() >= until:
                self.fail(f"not everything was sent within {seconds:g} seconds")

    def fail(self, error: str) -> None:
        """Give up, with one warning."""
        if self.error or "lines" in self.result:
            return
        self.error = error
        self._process.kill()
        text = f"{self.tracker}: {error}; the run goes on without it"
        warnings.warn(f"{text}; {self._rest}" if self._rest else text, stacklevel=4)

    def close(self, **values: Any) -> None:
        """End the process, and leave what it did, and `values`, in events.jsonl."""
        self._process.close()
        if self._copy >= 0 and self._output:
            self._output.journal.copies.remove(self._copy_line)
            os.close(self._copy)
        shutil.rmtree(self._spool.folder, ignore_errors=True)  # it does so itself, unless it was killed
        self._event(**values, **self.result, **({"error": self.error} if self.error else {}))

    def _event(self, **values: Any) -> None:
        with contextlib.suppress(CaptureError):  # a full disk ends the run by itself, and not here
            if self._output:
                self._output.event("sink", sink=self.tracker, **values)

    def _take(self, report: dict[str, Any]) -> None:
        if (run := report.get("run", {})) != self.run:
            self.run = run
            self._event(uri=shown(self.uri), run_id=run.get("run_id"))
        self.result = {name: report[name] for name in ("sent", "lines") if name in report} or self.result
        if "error" in report:
            self.fail(report["error"])

    def _keep(self, record: Batch | Numbers, inputs: npt.NDArray[Any]) -> None:
        if record.phase not in self._evaluations:
            self._spool.announce(record.phase, record.epoch)
            self._evaluations[record.phase] = Largest(self._worst)
        self._evaluations[record.phase].add(record.losses, lambda index: (record.batch, index, inputs[index].copy()))

    def _copy_line(self, line: bytes) -> None:
        try:
            if not self.error:
                write_all(self._copy, line)
        except OSError as error:
            self._fail_to_write(error)

    def _fail_to_write(self, error: OSError) -> None:
        self.poll()  # it may have given up and removed its folder, and says why
        self.fail(f"'{self._spool.folder}' could not be written: {error.strerror}")


class _Process:
    """The process and its two pipes. Nothing here waits unless it is asked to."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "capture_cli.sinks.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("CAPTURE_DEBUG") else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the training, which then says how it ended
            bufsize=0,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes
        assert stdout is not None  # noqa: S101
        self._stdin, self._stdout, self._line = stdin, stdout, b""
        self._poll = select.poll()
        self._poll.register(stdout, select.POLLIN)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Write a line, unless the process is gone, which `reports` will say."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.write(json.dumps(message).encode() + b"\n")

    def first_report(self) -> dict[str, Any]:
        """Wait for the process to start."""
        while not (reports := self.reports(None)):
            pass
        return reports[0]

    def reports(self, seconds: float | None) -> list[dict[str, Any]]:
        """Return what it has reported, waiting at most so long for something (None: for ever); an error if it is gone."""
        if not self._poll.poll(seconds and seconds * 1000):
            return []
        data = os.read(self._stdout.fileno(), 1 << 16)
        if not data:
            return [{"error": "its process has ended"}]
        *lines, self._line = (self._line + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Let it end, and kill it if it does not."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._stdout.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
