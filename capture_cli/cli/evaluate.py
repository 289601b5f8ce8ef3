"""`capture evaluate MODEL FOLDER`: run a trained model on another folder and record every batch."""

from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer

from capture_cli.cli import arguments as shared
from capture_cli.config import TrainConfig
from capture_cli.errors import UsageError


def evaluate(
    model: shared.ModelArgument,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder of labelled images, with classes that the model knows.")
    ],
    last: shared.Last = False,
    split: Annotated[
        str,
        shared.Data(metavar="auto|all|train|val|test", help="Images to use; auto: the test images, if folders tell splits."),
    ] = "auto",
    labels: Annotated[
        str | None,
        shared.Data(metavar="RULE|TABLE", help="As in `capture train`.", show_default="the rule or table of the model"),
    ] = None,
    unmatched: shared.Unmatched = TrainConfig.unmatched,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    keep_companions: shared.KeepCompanions = None,
    split_folders: shared.SplitFolders = None,
    merge_names: shared.MergeNames = None,
    strict: shared.Strict = TrainConfig.strict,
    max_pixels: shared.MaxPixels = TrainConfig.max_pixels,
    batch_size: shared.BatchSize = TrainConfig.batch_size,
    device: shared.Device = TrainConfig.device,
    amp: shared.Amp = TrainConfig.amp,
    ram: shared.Ram = None,
    threads: shared.Threads = None,
    workers: shared.Workers = None,
    no_cache: shared.NoCache = False,
    out: shared.Out = None,
    name: shared.Name = None,
    force: shared.Force = False,
    mlflow: shared.Mlflow = None,
    tensorboard: shared.Tensorboard = False,
    preview: shared.Preview = 4,
    quiet: shared.Quiet = False,
    as_json: Annotated[bool, shared.Output("--json", help="Print the result as one JSON object.")] = False,
) -> int:
    """Run a trained model on a labelled folder, record every batch, and print accuracy and loss.

    The model is that of the best epoch; --last takes that of the last. The phase
    is `test`. Records go to a run folder, as in `capture train`, and every reading
    command works on them. If the model, or a run whose weights it began with, was
    trained on some of the images, a warning says on how many. If the model came
    from FILE.py:FACTORY, that file's code is run.
    """
    shared.demand_run_first("evaluate", model, [folder])
    piped = out == "-"
    if as_json and piped:
        raise UsageError("--json and -o - both need standard output", "give one of them")
    if split not in ("auto", "all", "train", "val", "test"):
        raise UsageError(f"--split {split} is not valid", "choose auto, all, train, val or test")
    config = TrainConfig(
        batch_size=batch_size,
        device=device,
        amp=amp,
        unmatched=unmatched,
        include=include,
        exclude=exclude,
        keep_companions=keep_companions,
        split_folders=split_folders,
        merge_names=merge_names,
        strict=strict,
        max_pixels=max_pixels,
        epochs=1,
        val_split=0.0,
    )
    from capture_cli.answers.best import uneven_scores
    from capture_cli.cli.session import session
    from capture_cli.cli.sinks import SinkOptions, started
    from capture_cli.cli.streams import other_code
    from capture_cli.resources import Resources
    from capture_cli.runfolder import open_output
    from capture_cli.runtime import use_threads
    from capture_cli.training.evaluation import prepare_evaluation
    from capture_cli.training.job import run_evaluation
    from capture_cli.training.seen import trained_digests
    from capture_cli.views.terminal.text import safe

    use_threads(threads)
    resources = Resources.parse(ram=ram, workers=workers, cache=not no_cache)
    with other_code():
        ready, trained = prepare_evaluation(Path(model), Path(folder), config, last=last, labels=labels, part=split)
    seen = trained_digests(trained.path)
    if not quiet:
        typer.echo(safe(f"Model: {trained.path}"), err=True)
    wanted = SinkOptions(mlflow=mlflow, tensorboard=tensorboard, run_name=name)
    needs, stem = "--tensorboard" if tensorboard else "", f"evaluate-{ready.plan.config.model}"
    open_run = partial(open_output, out, name=name, model=stem, force=force, needs_folder=needs)
    with (
        started(wanted) as sinks,
        session(
            ready,
            open_run,
            piped=piped,
            preview=preview,
            quiet=quiet,
            sinks=sinks,
            warnings=[trained.warning] if trained.warning else [],
        ) as (around, stopping),
    ):
        totals, known = run_evaluation(ready, around, trained=trained, seen=seen, resources=resources)
    if stopping():
        return stopping.exit_code
    uneven = uneven_scores(totals)
    if as_json:
        scores = dict(zip(("balanced_accuracy", "macro_f1"), uneven or (), strict=False))
        values = {"n": totals.n, "accuracy": totals.accuracy, "loss": totals.loss, **scores, "trained_on": known}
        typer.echo(orjson.dumps(values))
    else:
        more = f"  balanced accuracy {uneven[0]:.3f}  macro F1 {uneven[1]:.3f}" if uneven else ""
        typer.echo(f"accuracy {totals.accuracy:.3f}{more}  loss {totals.loss:.3f} nats  images {totals.n}", err=piped)
    return 0
