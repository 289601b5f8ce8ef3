"""`--mlflow [URI]` and `--tensorboard`: shared by the commands that have them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture_cli.plan import Plan
    from capture_cli.sinks.mlflow import MlflowSink
    from capture_cli.training.job import Ready
    from capture_cli.writer.sink import Sink


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The sinks that a command line asks for. None of them affects results."""

    mlflow: str | None = None
    """None: no MLflow. Empty: where MLflow itself would log."""
    tensorboard: bool = False
    run_name: str | None = None


def make_ready(plan: "Plan", wanted: Wanted) -> "tuple[Ready, list[Sink]]":
    """Prepare a run, and start its sinks meanwhile. Raises UsageError for what is not valid or not there."""
    from capture_cli.training.job import prepare

    if wanted.mlflow is None and not wanted.tensorboard:
        return prepare(plan), []
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(_make_sinks, wanted)
        ready = prepare(plan)
        mlflow, sinks = making.result()
    if mlflow:
        mlflow.model = ready.model
    return ready, sinks


def make_sinks(wanted: Wanted) -> "list[Sink]":
    """Start sinks that are given no model. Raises UsageError if one cannot send."""
    return _make_sinks(wanted)[1]


def _make_sinks(wanted: Wanted) -> "tuple[MlflowSink | None, list[Sink]]":
    sinks, mlflow = list["Sink"](), None
    if wanted.tensorboard:
        from capture_cli.sinks.tensorboard import TensorBoardSink

        sinks.append(TensorBoardSink())
    if wanted.mlflow is not None:
        from capture_cli.sinks.mlflow import MlflowSink

        mlflow = MlflowSink(wanted.mlflow or None, run_name=wanted.run_name)
        sinks.append(mlflow)
    return mlflow, sinks
