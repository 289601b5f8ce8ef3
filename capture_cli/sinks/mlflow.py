"""MLflow beside the records: `capture train --mlflow`, or in your own loop

    sink = MlflowSink("http://127.0.0.1:5000", experiment="flowers", model=model)
    with Recorder("runs/flowers", classes=classes, sinks=[sink]) as recorder: ...

docs/sinks.md lists what a run in MLflow holds. `capture log RUN --mlflow URI` sends the same afterwards, or what is missing.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.errors import UsageError, redacted
from capture_cli.records import End, Record
from capture_cli.runfolder import Output
from capture_cli.sinks.evaluations import WORST
from capture_cli.sinks.follower import WAIT_SECONDS, Follower
from capture_cli.sinks.mlflow_run import NAME
from capture_cli.sinks.sending import described


class MlflowSink:
    """A sink that sends a run to MLflow from a process of its own, and never holds the run up."""

    every_input = "evaluation"

    def __init__(
        self,
        uri: str | None = None,
        *,
        experiment: str | None = None,
        run_name: str | None = None,
        model: Any = None,
        worst: int = WORST,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """Find the store; nothing is written there yet, except the experiment if it is new.

        `uri` defaults to where MLflow itself would log (`MLFLOW_TRACKING_URI`, else sqlite:///mlflow.db), `experiment` to
        `MLFLOW_EXPERIMENT_NAME`, else `capture`, and `run_name` to the name of the run folder. The `worst` samples of each
        evaluation are shown. `model`, a torch.nn.Module, is logged if the run is completed. At the end the sink waits at most
        `wait_seconds` for what is still to be sent.

        Raises UsageError if mlflow is missing, nobody answers at the URI, or MLflow cannot log there.
        """
        for name, value in (("uri", uri), ("experiment", experiment), ("run_name", run_name)):
            if value is not None and not value.strip():
                raise UsageError(f"{name}: it is empty", "give a value, or leave it out")
        self.model = model
        """May be set until the run begins."""
        self.read_model: Callable[[Path], Any] | None = None
        """Reads the model to log from the run folder, as `capture log --model` does; None: `model` is logged as it is."""
        self._output: Output | None = None
        self._follower = Follower(NAME, {"uri": uri, "experiment": experiment, "run_name": run_name}, worst=worst)
        self._wait_seconds = wait_seconds
        self._example: npt.NDArray[Any] | None = None
        self._status = ""
        self._closed = False

    @property
    def run_id(self) -> str:
        """The run in MLflow; empty until it has begun there."""
        self._follower.poll()
        return str(self._follower.run.get("run_id", ""))

    def begin(self, output: Output) -> None:
        """See capture_cli.writer.sink.Sink. A run that an earlier process sent is continued."""
        self._output = output if output.folder else None
        command = f"capture log {shlex.quote(output.where)} --mlflow {shlex.quote(redacted(self._follower.uri))}"
        command += " --model" if self.read_model and self._output else ""
        rest = f"`{command}` sends the rest" if output.records else ""
        self._follower.begin(output, rest=rest)

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """See capture_cli.writer.sink.Sink."""
        self._follower.write(record, inputs)
        if isinstance(record, End):
            self._status = record.status
        elif self._example is None and self.model is not None and inputs is not None and inputs.dtype == np.float32:
            self._example = inputs[:2].copy()

    def close(self) -> None:
        """Wait for the rest to be sent, and leave the counts in events.jsonl. May be called twice."""
        if not self._closed:
            self._closed = True
            follower, until = self._follower, time.monotonic() + self._wait_seconds
            follower.finish(self._wait_seconds)
            if self.model is not None and self._example is not None and self._status == "completed" and not follower.error:
                self._log_model(until - time.monotonic())
            follower.close(uri=redacted(follower.uri), run_id=self.run_id)

    def _log_model(self, seconds: float) -> None:
        """Log the model from this process, which has it, waiting at most so long."""
        from capture_cli.sinks.mlflow_model import log_model

        error = f"the model was not sent within {self._wait_seconds:g} seconds"

        def work() -> None:
            nonlocal error
            try:
                model = self.read_model(Path(self._output.place)) if self.read_model and self._output else self.model
                log_model(model, self._example, uri=self._follower.uri, **self._follower.run)
                error = ""
            except Exception as failure:  # noqa: BLE001 - whatever MLflow raises must not reach the training
                error = described(failure)

        thread = Thread(target=work, name="capture-model", daemon=True)
        thread.start()
        thread.join(max(seconds, 0))
        if error:
            self._follower.fail(error)
        else:
            self._follower.result["sent"]["model"] = 1
