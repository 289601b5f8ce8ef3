"""`--mlflow [URI]` and `--tensorboard`: shared by the commands that have them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@contextlib.contextmanager
def prepared(plan: "Plan", wanted: SinkOptions) -> "Iterator[tuple[Ready, list[Sink]]]":
    """Prepare a run, and start its sinks meanwhile; see `started`. Raises UsageError for what is not valid or not there."""
    from concurrent.futures import ThreadPoolExecutor

    from capture_cli.cli.streams import other_code
    from capture_cli.training.preparing import prepare

    with contextlib.ExitStack() as stack:
        with other_code(), ThreadPoolExecutor(1) as pool:
            starting = pool.submit(stack.enter_context, started(wanted))
            ready = prepare(plan)
            sinks = starting.result()
        for sink in sinks:
            if hasattr(sink, "model"):  # it logs the model
                sink.model, sink.read_model = ready.model, partial(_trained, ready.model)  # type: ignore[attr-defined]
        yield ready, sinks


def _trained(model: Any, run: Path) -> Any:
    """Give `model` the weights of a run folder that later commands use: those of the best epoch."""
    from capture_cli.training.loading import read_trained

    read_trained(run).fill(model)
    return model


@contextlib.contextmanager
def started(wanted: SinkOptions) -> "Iterator[list[Sink]]":
    """Start the sinks, and close them afterwards: a run has closed them already, unless it could not begin.

    Raises UsageError if one cannot send.
    """
    sinks = list["Sink"]()
    try:
        if wanted.tensorboard:
            from capture_cli.sinks.tensorboard import TensorBoardSink

            sinks.append(TensorBoardSink())
        if wanted.mlflow is not None:
            from capture_cli.sinks.mlflow import MlflowSink

            sinks.append(MlflowSink(wanted.mlflow or None, run_name=wanted.run_name))
        yield sinks
    finally:
        for sink in sinks:
            sink.close()
