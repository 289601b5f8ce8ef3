"""`--mlflow [URI]` and `--tensorboard`: shared by the commands that have them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture_cli.plan import Plan
    from capture_cli.training.preparing import Ready
    from capture_cli.writer.sink import Sink


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """The sinks that a command line asks for. None of them affects results."""

    mlflow: str | None = None
    """None: no MLflow. Empty: where MLflow itself would log."""
    tensorboard: bool = False
    run_name: str | None = None


def make_ready(plan: "Plan", wanted: SinkOptions) -> "tuple[Ready, list[Sink]]":
    """Prepare a run, and start its sinks meanwhile. Raises UsageError for what is not valid or not there."""
    from concurrent.futures import ThreadPoolExecutor

    from capture_cli.cli.streams import other_code
    from capture_cli.training.preparing import prepare

    with other_code(), ThreadPoolExecutor(1) as pool:
        making = pool.submit(make_sinks, wanted)
        ready = prepare(plan)
        sinks = making.result()
    introduce(sinks, ready)
    return ready, sinks


def introduce(sinks: "list[Sink]", ready: "Ready") -> None:
    """Give the model to the sinks that log it."""
    for sink in sinks:
        if hasattr(sink, "model"):
            sink.model = ready.model


def make_sinks(wanted: SinkOptions) -> "list[Sink]":
    """Start the sinks. Raises UsageError if one cannot send."""
    sinks = list["Sink"]()
    if wanted.tensorboard:
        from capture_cli.sinks.tensorboard import TensorBoardSink

        sinks.append(TensorBoardSink())
    if wanted.mlflow is not None:
        from capture_cli.sinks.mlflow import MlflowSink

        sinks.append(MlflowSink(wanted.mlflow or None, run_name=wanted.run_name))
    return sinks
