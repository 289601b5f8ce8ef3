"""MLflow beside the records: `capture train --mlflow`, or in anyone's loop

    sink = MlflowSink("http://127.0.0.1:5000", experiment="flowers", model=model)
    with Recorder("runs/flowers", classes=classes, sinks=[sink]) as recorder: ...

What a run in MLflow holds:

    parameters      the run record: options, model, versions, device
    metrics         loss and lr by the step; <phase>/loss and <phase>/accuracy by the epoch
    classes.json, labels.csv
    worst/          the worst samples of each evaluation, listed and as pictures
    records/        records.jsonl in parts, each uploaded once; one after the other they are the file
    model           the model with a signature, where it was given and the run was completed
    tags            capture.run_folder, capture.records, capture.chain, capture.status, capture.version

`capture log RUN --mlflow URI` sends the same of a run that is there, or what is missing of it (capture_cli.sinks.sending).
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.errors import CaptureError
from capture_cli.records import Batch, End, Epoch, Numbers, Record, RunInfo
from capture_cli.runfolder import EVENTS, Output
from capture_cli.sinks.background import WAIT_SECONDS, Background
from capture_cli.sinks.gathering import WORST, Gathering
from capture_cli.sinks.messages import sample_to_json
from capture_cli.sinks.parts import PART_BYTES, PART_SECONDS
from capture_cli.sinks.remote import Remote
from capture_cli.sinks.uri import shown

SECONDS = 5.0
"""Between two parcels of numbers."""
NAME = "mlflow"


class MlflowSink:
    """Sends a run to MLflow while it goes on, from a process of its own, and never holds it up."""

    every_input = "evaluation"
    """The worst samples of one are known at its end."""

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
        """Find the store; nothing is written there yet but the experiment, where it is new.

        `uri` is by default where MLflow itself would log (`MLFLOW_TRACKING_URI`, else sqlite:///mlflow.db), `experiment` by
        default `MLFLOW_EXPERIMENT_NAME`, else `capture`, `run_name` the name of the run folder. Of each evaluation the `worst`
        samples are shown. `model`, a torch.nn.Module, is logged where the run is completed. At the end it waits at most
        `wait_seconds` for what is still to be sent.

        Raises UsageError where mlflow is missing, nobody answers at the URI, or MLflow cannot log there.
        """
        self.model = model
        """May be set until the run begins."""
        self.run_id = ""
        """Of the run in MLflow; empty until it is made there."""
        self._remote = Remote(NAME, uri=uri, experiment=experiment, run_name=run_name)
        self._uri: str = self._remote.made["uri"]
        self._wait_seconds = wait_seconds
        self._gathering = Gathering(worst=worst)
        self._example: npt.NDArray[Any] | None = None
        self._status: str | None = None
        self._begun = self._closed = False

    def begin(self, output: Output) -> None:
        """Take the place of the records; what an earlier process of the same run has sent is gone on with."""
        self._output, self._journal = output, output.journal
        self._sent_at = self._records_at = time.monotonic()
        self._records_to = 0
        rest = f"`capture log {output.where} --mlflow {shown(self._uri)}` sends the rest" if output.records else ""
        self._background = Background(NAME, rest=rest)
        self._begun = True
        if output.records and self._journal.place["bytes"]:
            self._background.put(partial(self._begin, None))

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:
        """Gather what is wanted of a record, and pass it on every few seconds."""
        if isinstance(record, Batch | Numbers):
            self._gathering.take(record, inputs)
            if self._example is None and self.model is not None and inputs is not None and inputs.dtype == np.float32:
                self._example = inputs[:2].copy()
            if time.monotonic() - self._sent_at >= SECONDS:
                self._send_points()
        elif isinstance(record, RunInfo):
            self._background.put(partial(self._begin, asdict(record), self._journal.chain.hex()))
        elif isinstance(record, Epoch):
            worst = self._gathering.evaluated(record)
            self._background.put(partial(self._evaluation, asdict(record), worst), evaluations=1)
            self._send_records(time.monotonic() - self._records_at >= PART_SECONDS)
        elif isinstance(record, End):
            self._status = record.status

    def close(self) -> None:
        """Send what is left, waiting for it at most so long, and leave the counts in events.jsonl. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if not self._begun:  # there was no run
            self._remote.close()
            return
        self._send_points()
        self._send_records(True)
        self._background.put(self._call("end", status=self._status, chain=self._journal.chain.hex()))
        if self.model is not None and self._example is not None and self._status == "completed":
            self._background.put(self._log_model, models=1)
        self._background.close(self._wait_seconds)
        self._remote.close(at_once=self._background.abandoned)
        with suppress(CaptureError):  # a full disk ends the run by itself, and not here
            known = {"sink": NAME, "uri": shown(self._uri), "run_id": self.run_id}
            self._output.event("sink", **known, **self._background.counts())

    def _send_points(self) -> None:
        self._sent_at = time.monotonic()
        points = self._gathering.points()
        if points:
            self._background.put(self._call("points", points=points), steps=len(points))
        self._send_records(self._journal.place["bytes"] - self._records_to >= PART_BYTES)

    def _send_records(self, due: bool) -> None:
        until = self._journal.place["bytes"]
        if due and self._output.records and until > self._records_to:
            self._background.put(self._call("records", until=until), records_bytes=until - self._records_to)
            self._records_at, self._records_to = time.monotonic(), until

    # Done by the thread, which waits for the process meanwhile.

    def _call(self, name: str, **arguments: Any) -> partial[Any]:
        return partial(self._remote.call, name, **arguments)

    def _begin(self, run: dict[str, Any] | None, begins: str = "") -> None:
        output, records = self._output, self._output.records
        made = self._remote.call(
            "begin",
            run=run,
            place=place_of(output.folder, records, output.where, begins),
            records=str(records.absolute()) if records else None,
            earlier=self.run_id or earlier_run(output.folder, self._uri),
        )
        if made["run_id"] != self.run_id:
            self.run_id = made["run_id"]
            output.event("sink", sink=NAME, uri=shown(self._uri), run_id=self.run_id)
        self._made = made

    def _evaluation(self, sums: dict[str, Any], worst: Any) -> None:
        self._remote.call("evaluation", sums=sums, worst=[sample_to_json(sample) for sample in worst])

    def _log_model(self) -> None:
        """In this process, which has the model; the steps are over."""
        from capture_cli.sinks.tracker import log_model

        experiment, torch = self._made["experiment_id"], self._made["torch"]
        log_model(self.model, self._example, uri=self._uri, experiment_id=experiment, run_id=self.run_id, torch=torch)


def place_of(folder: Path | None, records: Path | None, where: str, begins: str) -> dict[str, Any]:
    """Where a run is, absolutely: the fields of capture_cli.sinks.tracker.Place."""
    return {
        "where": where,
        "folder": str(folder.absolute()) if folder else None,
        "records": str(records.absolute()) if records else None,
        "begins": begins,
    }


def earlier_run(folder: Path | None, uri: str) -> str | None:
    """The run in MLflow at this URI that a run folder was last sent to, by its events.jsonl."""
    if folder is None or not (folder / EVENTS).is_file():
        return None
    found = None
    with (folder / EVENTS).open("rb") as lines:
        for line in lines:
            if b'"event":"sink"' in line and line.endswith(b"\n"):
                event = json.loads(line)
                if event.get("sink") == NAME and event.get("uri") == shown(uri) and event.get("run_id"):
                    found = str(event["run_id"])
    return found
