"""`capture log RUN --mlflow URI`: send a run that is there to MLflow, or what is missing of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import DEFAULT_STORE
from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from capture_cli.sinks.tracker import Tracker


def log(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder or .jsonl file.", show_default=False)],
    mlflow: Annotated[str | None, typer.Option(metavar="[URI]", help=f"Where to: {DEFAULT_STORE}.", show_default=False)] = None,
    model: Annotated[bool, typer.Option("--model", help="Send the trained model as well, which loads torch.")] = False,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the images of the run are now.", show_default=False)
    ] = None,
) -> int:
    """Send a run to MLflow: parameters, metrics, labels, worst samples, records.

    A run that was sent before is completed, never doubled, so a sending that
    failed can be done again; so can one of a training whose server went away.
    Prints the id of the run in MLflow.
    """
    if mlflow is None:
        raise UsageError("where to?", "capture log RUN --mlflow [URI]")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"no such folder: '{folder}'", "--folder says where the images of the run are now")
    from capture_cli.sinks.process import quieten
    from capture_cli.sinks.sending import send
    from capture_cli.sinks.uri import shown

    quieten()
    sent = send(run, uri=mlflow or None, images=folder)
    if model:
        _send_model(run, sent.tracker)
    counts = ", ".join(f"{n:,} {what}" for what, n in sent.tracker.sent.items())
    typer.echo(f"sent to {shown(sent.tracker.uri)}: {counts or 'nothing, all of it was there'}", err=True)
    if sent.without_pictures:
        typer.echo(f"some worst samples have no picture: {sent.without_pictures}", err=True)
    typer.echo(sent.tracker.run_id)
    if sent.error:
        raise sent.error
    return 0


def _send_model(run: str, tracker: "Tracker") -> None:
    """The model of a run folder, as `capture evaluate` takes it out of its file. One that is there is not sent again."""
    if tracker.has_model():
        return
    import numpy as np

    from capture_cli.preprocessing import Recipe
    from capture_cli.training.evaluation import trained

    model, header = trained(Path(run))
    recipe = Recipe.from_dict(dict(header.recipe))
    tracker.model(model, np.zeros((2, recipe.channels, recipe.height, recipe.width), np.float32))
    tracker.sent["model"] += 1
