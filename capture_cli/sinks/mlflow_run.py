"""One run in MLflow: with `mlflow_model` the only module that talks to MLflow.

What MLflow has is not sent again: a metric with its step and value, an evaluation with its list and pictures, a part of the
records with its bytes.
"""

import csv
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from capture_cli import __version__
from capture_cli.answers.best import BestEpochs, best_epochs, scalars
from capture_cli.errors import CaptureError, RecordsError, UsageError, redacted
from capture_cli.records import Epoch, RunInfo
from capture_cli.records.chain import claimed_chain
from capture_cli.runfolder import EVENTS
from capture_cli.runs import Cursor
from capture_cli.runs.names import name_of
from capture_cli.sinks.evaluations import BatchStep, PhaseResult
from capture_cli.sinks.pictures import picture_name, png
from capture_cli.sinks.sending import described
from capture_cli.sinks.uri import OTHER, absolute, check

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
NAME = "mlflow"
OLDEST = (3, 17)
"""The oldest MLflow that passed all tests."""
EXPERIMENT = "capture"
PART_BYTES, PART_SECONDS = 16 << 20, 60.0
"""Records are uploaded when so many bytes have come, or any after so many seconds."""
MAX_PART_BYTES = 32 << 20
"""Size of a part, unless one line is longer."""
WORST_LIST, LABELS = "worst.json", "labels.csv"
MAX_METRICS, MAX_PARAMS, MAX_TEXT = 1000, 100, 6000
"""Limits of MLflow: items at once, and characters of a parameter."""
TRY_AGAIN_SECONDS = (1, 2)
"""When a server that does not answer is asked again."""
STATUS = {"completed": "FINISHED", "failed": "FAILED"}
"""The status of a run in MLflow's words; anything else is KILLED."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the rest can be sent later
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
"""Settings of MLflow in the processes that send, unless the environment says otherwise."""


class _Metric(NamedTuple):
    key: str
    value: float
    milliseconds: int
    step: int

    @property
    def known_as(self) -> tuple[int, str]:
        """By which a value is compared: databases have no infinity, and NaN is not equal to itself."""
        return self.step, repr(min(max(self.value, -sys.float_info.max), sys.float_info.max))


class MlflowRun:
    """One run in MLflow; a Destination, see capture_cli.sinks.sending."""

    def __init__(self, *, uri: str | None = None, experiment: str | None = None, run_name: str | None = None) -> None:
        """Find the store, by default where MLflow itself would log, and the experiment.

        Raises UsageError if mlflow is missing or too old, nobody answers at the URI, or MLflow cannot log there.
        """
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        try:
            import mlflow
        except ImportError as error:
            raise UsageError("the package mlflow is missing", "pip install 'capture-cli[mlflow]'") from error
        if tuple(map(int, mlflow.__version__.split(".")[:2])) < OLDEST:
            raise UsageError(f"mlflow {mlflow.__version__} is too old", "pip install --upgrade 'capture-cli[mlflow]'")

        self.uri = absolute(uri or mlflow.get_tracking_uri())
        check(self.uri)
        self.identity: dict[str, Any] = {}
        self.sent = Counter(metrics=0, evaluations=0, parts=0)
        self._name = run_name
        self._info: RunInfo | None = None
        self._best = BestEpochs()
        self._continues = False
        self._known: dict[str, set[tuple[int, str]]] = {}
        self._metrics: list[_Metric] = []
        self._records: BinaryIO | None = None
        self._part_sizes: list[int] = []
        """Sizes in bytes of the parts of the records that are there; in order, they are the beginning of the file."""
        self._parts_at = time.monotonic()
        try:
            self._client: MlflowClient = mlflow.MlflowClient(self.uri)
            self._experiment_id = self._find_experiment(experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        except Exception as error:
            raise UsageError(f"MLflow cannot log to {redacted(self.uri)}: {described(error)}", OTHER) from error

    @property
    def run_id(self) -> str:
        """The run in MLflow; empty until `begin`."""
        return str(self.identity.get("run_id", ""))

    def open(self, *, where: str, folder: str | None, records: str | None) -> Path | None:
        self._name, self._folder = self._name or name_of(Path(where)), folder
        self._records = Path(records).open("rb") if records else None  # noqa: SIM115 - open while this process sends
        self._scratch = tempfile.TemporaryDirectory(prefix="capture-")
        self._labels = Path(self._scratch.name, LABELS)
        self._labels.write_text("file,label,split\n")
        return Path(folder, EVENTS) if folder else None

    def begin(self, info: RunInfo) -> None:
        from mlflow.entities import Param, RunTag

        if info == self._info:
            return
        self._ask_first()
        there = self._client.get_run(self.run_id) if self.run_id else self._find()
        params, tags = _params(info), []
        if there is None:
            there = self._client.create_run(self._experiment_id, tags=self._tags(), run_name=self._name)
        else:
            self._continues, known = True, there.data.params
            self._client.update_run(there.info.run_id, status="RUNNING")
            tags = [RunTag(f"capture.now.{name}", text) for name, text in params.items() if known.get(name, text) != text]
            params = {name: text for name, text in params.items() if name not in known}
        torch = info.versions.get("torch", "").partition("+")[0]
        self.identity = {"run_id": there.info.run_id, "experiment_id": self._experiment_id, "torch": torch}
        self._client.log_batch(self.run_id, tags=tags)
        for some in batched([Param(name, text) for name, text in params.items()], MAX_PARAMS):
            self._client.log_batch(self.run_id, params=some)
        self._client.log_dict(self.run_id, list(info.classes), "classes.json")  # type: ignore[arg-type]
        if self._info is None:
            self._best = best_epochs(info.config, info.task)
            self._part_sizes = self._find_parts() if self._continues else []
        self._info = info

    def log_labels(self, labels: Sequence[tuple[str, str, str]]) -> None:
        with self._labels.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(labels)

    def log_steps(self, steps: Sequence[BatchStep]) -> None:
        now = int(time.time() * 1000)
        for step in steps:
            self._metrics.append(_Metric("loss", step.loss, now, step.step))
            if step.lr is not None:
                self._metrics.append(_Metric("lr", step.lr, now, step.step))
        if len(self._metrics) >= MAX_METRICS:
            self._send_metrics()

    def log_phase(self, result: PhaseResult) -> None:
        sums, now = result.sums, int(time.time() * 1000)
        if result.worst and self.pictures(result) < sum(one.image is not None for one in result.worst):
            self._send_worst(result)
        values = {f"{sums.phase}/{name}": value for name, value in scalars(sums, result.task).items()}
        self._best.update(sums)
        if self._best.is_best(sums):  # MLflow shows the value of the last step, which is the best epoch so far
            values |= {f"best/{name}": value for name, value in values.items()} | {"best/epoch": float(sums.epoch)}
        self._metrics += [_Metric(name, value, now, sums.epoch) for name, value in values.items()]

    def pictures(self, result: PhaseResult) -> int:
        if not self._continues:
            return -1
        there = [Path(file.path).name for file in self._client.list_artifacts(self.run_id, _worst_folder(result.sums))]
        return len(there) - 1 if WORST_LIST in there else -1  # the list is sent last

    def caught_up(self, cursor: Cursor) -> None:
        self._send_metrics()
        waiting = cursor.at.bytes - sum(self._part_sizes)
        if self._records and (waiting >= PART_BYTES or (waiting and time.monotonic() - self._parts_at >= PART_SECONDS)):
            self._send_records(cursor)

    def end(self, cursor: Cursor) -> None:
        from mlflow.entities import RunTag

        self._send_records(cursor)
        tags = {"capture.status": cursor.status or "unsealed", "capture.chain": cursor.at.chain}
        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self._client.set_terminated(self.run_id, STATUS.get(cursor.status or "", "KILLED"))
        if self._records:
            self._records.close()
        self._scratch.cleanup()

    def has_model(self) -> bool:
        """Return True if a model of this run was logged."""
        outputs = self._client.get_run(self.run_id).outputs
        return bool(outputs and outputs.model_outputs)

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._client.create_experiment(name)
        if found.lifecycle_stage != "active":
            raise CaptureError(f"the experiment '{name}' is deleted")
        return found.experiment_id

    def _tags(self) -> dict[str, str]:
        """Tags that lead back to the records."""
        tags = {"capture.version": __version__}
        if self._records:
            begins = claimed_chain(self._read(0, 1) + self._records.readline()).hex()
            tags |= {"capture.records": os.path.realpath(self._records.name), "capture.begins": begins}
        return tags | ({"capture.run_folder": os.path.realpath(self._folder)} if self._folder else {})

    def _find(self) -> Any:
        """Find the run that an earlier process made of these records: by events.jsonl, else by its tags."""
        from mlflow.exceptions import MlflowException

        if earlier := _earlier_run(self._folder, self.uri):
            try:
                run = self._client.get_run(earlier)
                if run.info.lifecycle_stage == "active":
                    return run
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if not self._records:
            return None
        tags = self._tags()
        text = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in ("capture.begins", "capture.records"))
        runs = self._client.search_runs([self._experiment_id], text, order_by=["attributes.start_time DESC"], max_results=1)
        return runs[0] if runs else None

    def _send_metrics(self) -> None:
        from mlflow.entities import Metric

        for some in batched([Metric(*metric) for metric in self._metrics if not self._is_known(metric)], MAX_METRICS):
            self._ask_first()
            self._client.log_batch(self.run_id, metrics=some)
            self.sent["metrics"] += len(some)
        self._metrics = []

    def _is_known(self, metric: _Metric) -> bool:
        if not self._continues:
            return False
        if metric.key not in self._known:
            history = self._client.get_metric_history(self.run_id, metric.key)
            self._known[metric.key] = {_Metric(one.key, one.value, one.timestamp, one.step).known_as for one in history}
        return metric.known_as in self._known[metric.key]

    def _send_worst(self, result: PhaseResult) -> None:
        """Send the pictures, then the list that names them."""
        self._ask_first()
        recipe, listed = self._info.recipe if self._info else {}, [sample.to_json() for sample in result.worst]
        folder = _worst_folder(result.sums)
        for rank, (sample, one) in enumerate(zip(result.worst, listed, strict=True)):
            if sample.image is not None:
                one["picture"] = picture_name(rank, one)
                self._send_file(folder, one["picture"], png(sample.image, recipe))
        self._send_file(folder, WORST_LIST, json.dumps(listed, indent=1).encode())
        self.sent["evaluations"] += 1

    def _send_file(self, folder: str, name: str, data: bytes) -> None:
        path = Path(self._scratch.name, name)
        path.write_bytes(data)
        self._client.log_artifact(self.run_id, str(path), folder)
        path.unlink()

    def _send_records(self, cursor: Cursor) -> None:
        """Send the records up to `cursor` in parts; then the labels, if they have changed."""
        self._ask_first()
        self._parts_at = time.monotonic()
        while self._records and (offset := sum(self._part_sizes)) < cursor.at.bytes:
            data = self._read(offset, min(MAX_PART_BYTES, cursor.at.bytes - offset))
            data += b"" if data.endswith(b"\n") else self._records.readline()
            if not data.endswith(b"\n"):
                raise RecordsError("the records are shorter than they were", "the file was changed while it was sent")
            self._send_file("records", _part_name(len(self._part_sizes)), data)
            self._part_sizes.append(len(data))
            self.sent["parts"] += 1
        sizes = {file.path: file.file_size for file in self._client.list_artifacts(self.run_id)}
        if sizes.get(LABELS) != self._labels.stat().st_size:
            self._client.log_artifact(self.run_id, str(self._labels))

    def _read(self, offset: int, size: int) -> bytes:
        """Read so many bytes of the records, fewer at their end."""
        assert self._records is not None  # noqa: S101 - asked for where there are records
        self._records.seek(offset)
        return self._records.read(size)

    def _find_parts(self) -> list[int]:
        """Sizes of the parts that are there and hold the bytes of the records: the last of them has the chain of all."""
        there = {Path(file.path).name: file.file_size or 0 for file in self._client.list_artifacts(self.run_id, "records")}
        sizes = [there[name] for name in map(_part_name, range(len(there))) if name in there]
        while sizes:
            artifact = f"records/{_part_name(len(sizes) - 1)}"
            path = Path(self._client.download_artifacts(self.run_id, artifact, self._scratch.name))
            if path.read_bytes() == self._read(sum(sizes[:-1]), sizes[-1]):
                break
            sizes.pop()  # it had an end that was taken off when the run was resumed
        return sizes

    def _ask_first(self, pauses: Sequence[int] = TRY_AGAIN_SECONDS) -> None:
        """Find out soon if the server is gone: MLflow would try for minutes."""
        try:
            check(self.uri)
        except UsageError as error:
            if not pauses:
                raise CaptureError(error.message) from error
            time.sleep(pauses[0])
            self._ask_first(pauses[1:])


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most `size`."""
    return (items[at : at + size] for at in range(0, len(items), size))


def _earlier_run(folder: str | None, uri: str) -> str | None:
    """Return the run in MLflow at this URI to which a run folder was last sent, by its events.jsonl."""
    path = Path(folder or "", EVENTS)
    lines = path.read_bytes().split(b"\n")[:-1] if folder and path.is_file() else []
    events = (json.loads(line) for line in reversed(lines) if b'"event":"sink"' in line)
    mine = (event for event in events if event.get("sink") == NAME and event.get("uri") == redacted(uri))
    return next((str(event["run_id"]) for event in mine if event.get("run_id")), None)


def _worst_folder(sums: Epoch) -> str:
    return f"worst/{sums.phase}-epoch-{sums.epoch:04d}"


def _part_name(number: int) -> str:
    return f"part-{number:05d}.jsonl"


def _params(info: RunInfo) -> dict[str, str]:
    """The run record as parameters: options by their own names, everything else with the field it is in."""
    fields = {"model": info.model, "versions": info.versions, "images": info.images}
    rest = {"classes": len(info.classes), "device": info.device, "threads": info.threads, "folder": info.folder}
    given = dict(_flat(info.config)) | dict(_flat(fields)) | rest | {"task": info.task or "classification"}
    texts = {re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]: _text(value) for name, value in given.items()}
    return {name: text for name, text in texts.items() if name}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    safe = text.encode("utf-8", "backslashreplace").decode()
    return safe if len(safe) <= MAX_TEXT else safe[: MAX_TEXT - 1] + "…"
