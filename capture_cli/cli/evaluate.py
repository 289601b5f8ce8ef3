"""`capture evaluate MODEL FOLDER`: what a trained model answers on another folder, captured like a training."""

from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer

from capture_cli.cli.arguments import DEFAULT_STORE
from capture_cli.config import TrainConfig
from capture_cli.errors import UsageError


def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, or the model.safetensors of one.")],
    folder: Annotated[str, typer.Argument(help="Folder of labelled images, of classes that the model knows.")],
    batch_size: Annotated[int, typer.Option("--batch-size", "-b")] = TrainConfig.batch_size,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; never falls back.")] = TrainConfig.device,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in bfloat16 where safe.")] = TrainConfig.amp,
    labels: Annotated[str, typer.Option(metavar="RULE", help="As in `capture train`.")] = TrainConfig.labels,
    unmatched: Annotated[str, typer.Option(help="error or skip, as in `capture train`.")] = TrainConfig.unmatched,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be used.")] = TrainConfig.strict,
    ram: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory for pixels, as in `capture train`.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Threads that decode, as in `capture train`.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither use nor fill the cache of decoded pixels.")] = False,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="PATH|-", help="Run folder, FILE.jsonl, or - for the records on stdout."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder below runs/.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the records of an earlier run.")] = False,
    mlflow: Annotated[
        str | None, typer.Option(metavar="[URI]", help=f"Send the evaluation to MLflow, too: {DEFAULT_STORE}.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, too.")] = False,
    preview: Annotated[int, typer.Option(metavar="N", min=0, help="Images of the last batch shown meanwhile.")] = 4,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> int:
    """Run a trained model over a folder, capture every batch (phase `test`), and print accuracy and loss.

    The records go where those of `capture train` would; `capture inspect` and `capture rows` read them all the same.
    A model of the form FILE.py:FACTORY is code, which runs.
    """
    if as_json and out == "-":
        raise UsageError("--json and -o - both want standard output", "give one of them")
    config = TrainConfig(
        batch_size=batch_size,
        device=device,
        amp=amp,
        labels=labels,
        unmatched=unmatched,
        strict=strict,
        epochs=1,
        val_split=0.0,
    )
    from capture_cli.cli.session import session
    from capture_cli.cli.sinks import Wanted, make_sinks
    from capture_cli.resources import Resources
    from capture_cli.runfolder import open_output
    from capture_cli.training.evaluation import prepare_evaluation
    from capture_cli.training.job import run_evaluation

    resources = Resources.parse(ram=ram, workers=workers, cache=not no_cache)
    ready, weights = prepare_evaluation(Path(model), Path(folder), config)
    sinks = make_sinks(Wanted(mlflow=mlflow, tensorboard=tensorboard, run_name=name))
    needs, called = "--tensorboard" if tensorboard else "", f"evaluate-{ready.plan.config.model}"
    open_it = partial(open_output, out, name=name, model=called, force=force, needs_folder=needs)
    with session(ready, open_it, piped=out == "-", preview=preview, quiet=quiet, sinks=sinks) as (around, stopping):
        sums = run_evaluation(ready, around, weights=weights, resources=resources)
    if stopping():
        return stopping.exit_code
    if as_json:
        typer.echo(orjson.dumps({"n": sums.n, "accuracy": sums.accuracy, "loss": sums.loss}))
    else:
        typer.echo(f"accuracy {sums.accuracy:.4f}  loss {sums.loss:.4f} nats  images {sums.n}", err=out == "-")
    return 0
