"""`--mlflow [URI]` and `--tensorboard`: what the commands that have them share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture_cli.plan import Plan
    from capture_cli.sinks.mlflow import MlflowSink
    from capture_cli.training.job import Ready
    from capture_cli.writer.sink import Sink


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command line asks for. None of it affects results."""

    mlflow: str | None = None
    """None: no; empty: where MLflow itself would log."""
    tensorboard: bool = False
    run_name: str | None = None


def make_ready(plan: "Plan", wanted: Wanted) -> "tuple[Ready, list[Sink]]":
    """A run that can begin, and the sinks that are wanted, made meanwhile. Raises UsageError for what cannot be had."""
    from capture_cli.training.job import prepare

    if wanted.mlflow is None and not wanted.tensorboard:
        return prepare(plan), []
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(_make_sinks, wanted)
        ready = prepare(plan)
        tracked, others = making.result()
    if tracked:
        tracked.model = ready.model
    return ready, [*([tracked] if tracked else []), *others]


def make_sinks(wanted: Wanted) -> "list[Sink]":
    """The sinks that are wanted, none of which is given a model. Raises UsageError for what cannot be had."""
    tracked, others = _make_sinks(wanted)
    return [*([tracked] if tracked else []), *others]


def _make_sinks(wanted: Wanted) -> "tuple[MlflowSink | None, list[Sink]]":
    tracked, others = None, list["Sink"]()
    if wanted.tensorboard:
        from capture_cli.sinks.tensorboard import TensorBoardSink

        others.append(TensorBoardSink())
    if wanted.mlflow is not None:
        from capture_cli.sinks.mlflow import MlflowSink

        tracked = MlflowSink(wanted.mlflow or None, run_name=wanted.run_name)
    return tracked, others
