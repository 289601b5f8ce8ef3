"""One run in MLflow, and what it is told: the only place that talks to MLflow.

    tracker = Tracker(uri, experiment="flowers")        # raises UsageError: no such store, no server, no mlflow
    tracker.open(run, place, earlier=run_id)            # goes on with a run that is there, or makes one
    tracker.points(points)                              # loss and learning rate by the step
    tracker.evaluation(sums, worst)                     # loss and accuracy by the epoch, and the worst samples
    tracker.records(parts, until)                       # classes, labels, and the records in parts
    tracker.end("completed", chain)

Everything may be told twice: a number that is there with its step, and a part that is there with its bytes, is not sent again.
"""

import copy
import json
import logging
import math
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from capture_cli import __version__
from capture_cli.errors import CaptureError, UsageError
from capture_cli.records import Epoch
from capture_cli.sinks.background import described
from capture_cli.sinks.gathering import Point, Sample
from capture_cli.sinks.parts import Parts, Read, whole
from capture_cli.sinks.pictures import caption, png
from capture_cli.sinks.uri import absolute, check, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

OLDEST = (3, 17)
"""The first MLflow that all of this was tested with."""
EXPERIMENT = "capture"
WORST_LIST = "worst.json"
MAX_METRICS, MAX_PARAMS, MAX_TEXT = 1000, 100, 6000
"""What MLflow takes at once, and characters of a parameter."""
TRIES = 3
"""How often a server that does not answer is asked, a second and then two apart."""
STATUS = {"completed": "FINISHED", "failed": "FAILED"}
"""How a run ended, in MLflow's words; any other: KILLED."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the records are, for whoever looks at the run in MLflow."""

    where: str
    """As the user called it."""
    folder: str | None
    records: str | None
    """Absolute paths, None where there is none."""
    begins: str
    """The chain of the first record, 32 hex digits."""

    def tags(self) -> dict[str, str]:
        """Those that lead back, without what is not there."""
        tags = {"capture.run_folder": self.folder, "capture.records": self.records, "capture.begins": self.begins}
        return {name: value for name, value in tags.items() if value} | {"capture.version": __version__}


class _Metric(NamedTuple):
    key: str
    value: float
    milliseconds: int
    step: int


class Tracker:
    """Of one run; every method may raise whatever MLflow and its libraries raise."""

    def __init__(self, uri: str | None = None, *, experiment: str | None = None, run_name: str | None = None) -> None:
        """Find the store, by default where MLflow itself would log, and the experiment.

        Raises UsageError where mlflow is missing or too old, nobody answers at the URI, or it is none.
        """
        try:
            import mlflow
        except ImportError as error:
            raise UsageError("the package mlflow is missing", "pip install 'capture-cli[mlflow]'") from error
        if tuple(map(int, mlflow.__version__.split(".")[:2])) < OLDEST:
            raise UsageError(f"mlflow {mlflow.__version__} is too old", "pip install --upgrade 'capture-cli[mlflow]'")

        self.uri = absolute(uri or mlflow.get_tracking_uri())
        check(self.uri)
        self.run_id = ""
        """Empty until `open`."""
        self.torch = ""
        """The version of torch in the run record."""
        self.sent: Counter[str] = Counter()
        """What was not there before: numbers, parts, evaluations."""
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        self._name = run_name
        self._classes: Sequence[str] = ()
        self._recipe: Mapping[str, Any] = {}
        self._continues = False
        self._known: dict[str, set[tuple[int, str]]] = {}
        self._rows_sent = 0
        try:
            self._client: MlflowClient = mlflow.MlflowClient(self.uri)
            self.experiment_id = self._find_experiment()
        except Exception as error:
            raise UsageError(f"MLflow cannot log to {shown(self.uri)}: {described(error)}", "give another URI") from error

    def find(self, place: Place) -> str | None:
        """The run that was made of these very records, by its tags."""
        tags = place.tags()
        text = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in ("capture.begins", "capture.records") if name in tags)
        found = self._client.search_runs([self.experiment_id], text, order_by=["attributes.start_time DESC"], max_results=1)
        return found[0].info.run_id if found else None

    def open(self, run: Mapping[str, Any], place: Place, *, earlier: str | None = None) -> None:
        """Go on with the run `earlier`, if it is there, else make one; `run` is the run record in plain values."""
        self._ask_first()
        self._begin(run)
        there = self._there(earlier) if earlier else None
        params = _params(run)
        if there is not None:
            self._continues = True
            self.run_id = there.info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
            changed = {name: text for name, text in params.items() if there.data.params.get(name, text) != text}
            tags = {f"capture.now.{name}": text for name, text in changed.items()}
            params = {name: text for name, text in params.items() if name not in there.data.params}
        else:
            name = self._name or Path(place.where).name
            self.run_id = self._client.create_run(self.experiment_id, tags=place.tags(), run_name=name).info.run_id
            tags = {}
        self._log_params(params, tags)

    def points(self, points: Sequence[Point]) -> None:
        """Send what was gathered of training steps."""
        metrics = [_Metric("loss", point.loss, point.milliseconds, point.step) for point in points]
        metrics += [_Metric("lr", p.lr, p.milliseconds, p.step) for p in points if p.lr is not None]
        self._log_metrics(metrics)

    def evaluation(self, sums: Epoch, worst: Sequence[Sample]) -> None:
        """Send the sums of a phase, and its worst samples as a list and as pictures."""
        now = int(time.time() * 1000)
        metrics = [_Metric(f"{sums.phase}/loss", sums.loss, now, sums.epoch)]
        if sums.accuracy is not None:
            metrics.append(_Metric(f"{sums.phase}/accuracy", sums.accuracy, now, sums.epoch))
        self._log_metrics(metrics)
        if worst:
            with tempfile.TemporaryDirectory() as folder:
                listed = _write_pictures(Path(folder, "pictures"), worst, self._classes, self._recipe)
                self._client.log_artifacts(self.run_id, f"{folder}/pictures", _worst_of(sums))
                Path(folder, WORST_LIST).write_text(json.dumps(listed, indent=1), "utf-8")
                self._client.log_artifact(self.run_id, f"{folder}/{WORST_LIST}", _worst_of(sums))
            self.sent["evaluations"] += 1

    def has_evaluation(self, sums: Epoch, worst: Sequence[Sample]) -> bool:
        """Whether all of it is there: the sums and, where there are worst samples, their list, which is sent last."""
        if not self._is_known(_Metric(f"{sums.phase}/loss", sums.loss, 0, sums.epoch)):
            return False
        there = [Path(file.path).name for file in self._client.list_artifacts(self.run_id, _worst_of(sums))] if worst else []
        return not worst or WORST_LIST in there

    def resume_parts(self, parts: Parts, read: Read) -> None:
        """Let `parts` pass over those that are there already and have the bytes of the records."""
        sizes = self._parts_there() if self._continues else []
        while sizes:
            offset = sum(sizes[:-1])
            with tempfile.TemporaryDirectory() as folder:
                there = self._client.download_artifacts(self.run_id, f"records/part-{len(sizes) - 1:05d}.jsonl", folder)
                if Path(there).read_bytes() == whole(read, offset, sizes[-1]):
                    break
            sizes.pop()  # its records were taken back, as an end that was not the end
        parts.pass_over(sum(sizes), len(sizes))
        self._rows_sent = parts.table.rows

    def records(self, parts: Parts, until: int) -> None:
        """Send the records up to `until` bytes in parts; then the labels, if there are more."""
        self._ask_first()
        for path in parts.cut(until):
            self._client.log_artifact(self.run_id, str(path), "records")
            self.sent["parts"] += 1
        if parts.table.rows > self._rows_sent:
            self._client.log_artifact(self.run_id, str(parts.table.path))
            self._rows_sent = parts.table.rows

    def has_model(self) -> bool:
        """Whether a model of this run was logged."""
        outputs = self._client.get_run(self.run_id).outputs
        return bool(outputs and outputs.model_outputs)

    def model(self, model: Any, example: Any) -> None:
        """Log the run's model: see `log_model`."""
        self._ask_first()
        with warnings.catch_warnings():  # of torch 2.11, which warns of what it does itself
            warnings.simplefilter("ignore")
            log_model(model, example, uri=self.uri, experiment_id=self.experiment_id, run_id=self.run_id, torch=self.torch)

    def end(self, status: str | None, chain: str) -> None:
        """Say how it ended: the status of the records, None where they have no end, and their last chain."""
        self._ask_first()
        from mlflow.entities import RunTag

        tags = {"capture.status": status or "unsealed", "capture.chain": chain}
        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self._client.set_terminated(self.run_id, STATUS.get(status or "", "KILLED"))

    def abandon(self) -> None:
        """Say that it was killed."""
        self._client.set_terminated(self.run_id, "KILLED")

    def _begin(self, run: Mapping[str, Any]) -> None:
        self._classes, self._recipe = run["classes"], run["recipe"]
        self.torch = run["versions"].get("torch", "").partition("+")[0]

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return self._client.create_experiment(self._experiment)
        if found.lifecycle_stage != "active":
            raise CaptureError(f"the experiment '{self._experiment}' is deleted")
        return found.experiment_id

    def _there(self, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _parts_there(self) -> list[int]:
        """Sizes of the parts, from the first to the last that follows without a gap."""
        sizes = {Path(file.path).name: file.file_size or 0 for file in self._client.list_artifacts(self.run_id, "records")}
        return [sizes[name] for number in range(len(sizes)) if (name := f"part-{number:05d}.jsonl") in sizes]

    def _log_params(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        given = [Param(name, text) for name, text in params.items()]
        self._client.log_batch(self.run_id, tags=[RunTag(name, text) for name, text in tags.items()])
        for at in range(0, len(given), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=given[at : at + MAX_PARAMS])
        self._client.log_dict(self.run_id, list(self._classes), "classes.json")  # type: ignore[arg-type]

    def _log_metrics(self, metrics: Sequence[_Metric]) -> None:
        from mlflow.entities import Metric

        self._ask_first()
        new = [metric for metric in metrics if not self._is_known(metric)]
        for at in range(0, len(new), MAX_METRICS):
            part = [Metric(*metric) for metric in new[at : at + MAX_METRICS]]
            self._client.log_batch(self.run_id, metrics=part)
            self.sent["numbers"] += len(part)

    def _is_known(self, metric: _Metric) -> bool:
        if not self._continues:
            return False
        if metric.key not in self._known:
            history = self._client.get_metric_history(self.run_id, metric.key)
            self._known[metric.key] = {(one.step, repr(one.value)) for one in history}
        return (metric.step, repr(metric.value)) in self._known[metric.key]

    def _ask_first(self) -> None:
        """Find out soon whether the server is there: MLflow would try for minutes."""
        for number in range(TRIES):
            try:
                check(self.uri)
            except UsageError as error:
                if number == TRIES - 1:
                    raise CaptureError(error.message) from error
                time.sleep(number + 1)
            else:
                return


def log_model(model: Any, example: Any, *, uri: str, experiment_id: str, run_id: str, torch: str) -> None:
    """Log a torch model with a signature, as a graph that torch.export traces: no pickle.

    `example` [B, ...] float32 is what it is traced with; any other B will do afterwards. `torch` is the version it needs.
    """
    import mlflow
    import mlflow.pytorch

    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # without pip here it says so, which nobody asked
    client = mlflow.MlflowClient(uri)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
    there = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
    try:
        if before != uri:
            mlflow.set_tracking_uri(uri)
        mlflow.pytorch.log_model(
            copy.deepcopy(model).cpu().eval(),
            name="model",
            model_id=there.model_id,
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch}" if torch else "torch"],
        )
    finally:
        if before != uri:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None takes it out of the environment
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(there.model_id, step=0)])


def _worst_of(sums: Epoch) -> str:
    return f"worst/{sums.phase}-epoch-{sums.epoch:04d}"


def _write_pictures(
    folder: Path, worst: Sequence[Sample], classes: Sequence[str], recipe: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The pictures there are, and the samples in words, which name them."""
    folder.mkdir()
    listed = [sample.described(classes) for sample in worst]
    for rank, (sample, one) in enumerate(zip(worst, listed, strict=True)):
        if sample.image is not None:
            one["picture"] = caption(rank, one)
            (folder / one["picture"]).write_bytes(png(sample.image, recipe))
    return listed


def _params(run: Mapping[str, Any]) -> dict[str, str]:
    """The run record as parameters: options by their own names, the rest by where it stands."""
    model = {f"model.{name}": value for name, value in run["model"].items()}
    versions = {f"versions.{name}": value for name, value in run["versions"].items()}
    rest = {"classes": len(run["classes"]), "device": run["device"], "threads": run["threads"], "folder": run["folder"]}
    images = {f"images.{name}": value for name, value in (run.get("images") or {}).items()}
    given = dict(_flat(run["config"])) | model | versions | rest | images | {"task": run.get("task") or "classification"}
    texts = {re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]: _text(value) for name, value in given.items()}
    return {name: text for name, text in texts.items() if name}


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    safe = text.encode("utf-8", "backslashreplace").decode()
    return safe if len(safe) <= MAX_TEXT else safe[: MAX_TEXT - 1] + "…"
