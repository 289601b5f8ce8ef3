"""`capture log RUN`: send an existing run to MLflow or TensorBoard, or what is missing there."""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import DEFAULT_STORE, RunArgument, warn
from capture_cli.errors import CaptureError, RecordsError, UsageError, absent, redacted

if TYPE_CHECKING:
    from capture_cli.sinks.mlflow_run import MlflowRun
    from capture_cli.sinks.sending import Destination


def log(
    run: RunArgument,
    mlflow: Annotated[
        str | None, typer.Option(metavar="[URI]", help=f"Send to MLflow: {DEFAULT_STORE}.", show_default=False)
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files for TensorBoard.")] = False,
    model: Annotated[bool, typer.Option("--model", help="Also send the trained model to MLflow, which loads torch.")] = False,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the images of the run are now.", show_default=False)
    ] = None,
) -> int:
    """Send a run to MLflow or TensorBoard.

    MLflow gets parameters, metrics, labels, worst samples and the records, and
    TensorBoard metrics and worst samples. The trainings of a run with folds are
    runs of their own there. Only what is missing is sent: repeat the command after
    a failure. Prints the run's id in MLflow.
    """
    if mlflow is None and (model or not tensorboard):
        raise UsageError("nothing says where to send the run", "add --mlflow [URI] or --tensorboard")
    if run == "-":
        raise UsageError("stdin cannot be sent: it is read more than once", "give a run folder or a file of records")
    if folder is not None and not folder.is_dir():
        raise UsageError(absent(folder, "folder"), "--folder says where the images of the run are now")
    from capture_cli.runs.names import fold_folders

    trainings = list(map(str, fold_folders(Path(run)))) or [run]
    if model:
        _demand_models(trainings)
    errors = [_log(one, mlflow, tensorboard=tensorboard, folder=folder, model=model) for one in trainings]
    if error := next(filter(None, errors), None):
        raise error
    return 0


def _demand_models(runs: list[str]) -> None:
    """Raise UsageError, before anything is sent, if one of the runs has no model."""
    from capture_cli.training.loading import model_file

    for run in map(Path, runs):
        if run.is_file():
            raise UsageError(f"'{run}' is a file of records, without a model", "give a run folder, or drop --model")
        try:
            model_file(run)
        except UsageError as error:
            raise UsageError(error.message, f"{error.hint}; without --model all else is sent") from error


def _log(run: str, mlflow: str | None, *, tensorboard: bool, folder: Path | None, model: bool) -> RecordsError | None:
    """Send one run, or one training of a run with folds; return what is wrong with records that were not sent."""
    error = None
    if tensorboard:
        from capture_cli.sinks.event_files import EventFiles

        error = _send(run, EventFiles(), "TensorBoard", folder)
    if mlflow is not None:
        from capture_cli.sinks.mlflow_run import MlflowRun

        to = MlflowRun(uri=mlflow or None)
        error = _send(run, to, redacted(to.uri), folder, mlflow=to, model=model)
        typer.echo(to.run_id)
    return error


def _send(
    run: str, to: "Destination", where: str, images: Path | None, *, mlflow: "MlflowRun | None" = None, model: bool = False
) -> RecordsError | None:
    """Send a run, with its `model` to `mlflow`, and tell what was sent; return what is wrong with records that were not.

    Raises RecordsError if there are none.
    """
    from capture_cli.runfolder import BEST, MODEL
    from capture_cli.runs import RECORDS, open_run
    from capture_cli.sinks.pictures import Spool
    from capture_cli.sinks.sending import Sending, alone, described

    with open_run(run) as reading, tempfile.TemporaryDirectory(prefix="capture-") as scratch:
        reading.info  # noqa: B018 - raises RecordsError before anything is sent
        folder = str(Path(run).absolute()) if Path(run).is_dir() else None
        records = Path(folder, RECORDS) if folder else Path(run).absolute()
        if folder and any(Path(folder).glob("records-rank*")):
            raise UsageError(f"'{run}' has records of several processes", f"send one of its files: {run}/{RECORDS}")
        if records.suffix in (".gz", ".zst") or not records.is_file():
            raise UsageError(
                f"the records of '{run}' are compressed", "decompress them first: what is sent are parts of the file"
            )
        _demand_ended(run, records)
        sending = Sending(reading, to, Spool(Path(scratch)))
        try:
            with alone(to.open(where=run, folder=folder, records=str(records))):
                without_pictures = sending.reproduce(images)
                error = sending.finish()
            lacks_model = mlflow is not None and not mlflow.has_model()
            if mlflow and model and lacks_model:
                _send_model(run, mlflow)
        except CaptureError:
            raise
        except Exception as failure:  # whatever a tracker's library raises
            hint = "what was sent is kept; the same command sends the rest"
            raise CaptureError(f"sending failed on the way: {described(failure)}", hint) from failure
    counts = ", ".join(f"{n:,} {what}" for what, n in to.sent.items() if n)
    rest = "all of it was there"
    if lacks_model and not model and any(Path(run, name).is_file() for name in (BEST, MODEL)):
        rest = "all but the model was there; --model sends it"
        counts += "; the model is not there, --model sends it" if counts else ""
    typer.echo(f"sent to {where}: {counts or f'nothing, {rest}'}", err=True)
    if without_pictures:
        typer.echo(f"some worst samples have no picture: {without_pictures}", err=True)
    return error


def _demand_ended(run: str, records: Path) -> None:
    """Raise UsageError if another process is writing the records: it sends them, or they are sent when it has ended."""
    descriptor = os.open(records, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"'{run}' is still being written", "send it once it has ended") from error
    finally:
        os.close(descriptor)


def _send_model(run: str, to: "MlflowRun") -> None:
    """Send the model of a run folder."""
    import numpy as np

    from capture_cli.cli.streams import other_code
    from capture_cli.sinks.mlflow_model import log_model
    from capture_cli.training.loading import read_trained

    with other_code():
        trained = read_trained(Path(run))
        warn(trained.warning)
        model, recipe = trained.build(), trained.recipe
        log_model(model, np.zeros((2, recipe.channels, recipe.height, recipe.width), np.float32), uri=to.uri, **to.identity)
    to.sent["model"] += 1
