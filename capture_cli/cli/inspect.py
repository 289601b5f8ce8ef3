"""`capture inspect RUN`: a run at a glance, or the history of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run
from capture_cli.cli.terminal import terminal_width

if TYPE_CHECKING:
    from capture_cli.answers.history import History
    from capture_cli.answers.summary import Summary
    from capture_cli.runs import Run
    from capture_cli.views.pictures import Picture


def inspect(
    run: RunArgument,
    sample: Annotated[
        str | None, typer.Option(metavar="FILE", help="Show every visit of one image: its recorded path, or the end of it.")
    ] = None,
    worst: Annotated[int, typer.Option(metavar="N", min=0, max=1000, help="Samples with the highest loss to show.")] = 8,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Classes to show, and half as many confusions.")] = 20,
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, for pictures.", show_default="as recorded")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> int:
    """Show what happened: epochs, classes, confusions, the worst samples.

    Works on a run that is still going or was cut off, and says so. If the records
    are damaged, it shows what comes before the damage and exits with 4.
    """
    import json
    from pathlib import Path

    from capture_cli.answers.summary import summarise
    from capture_cli.errors import UsageError

    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"no such folder: '{folder}'", "--folder says where the images of the run are now")
    with open_run(run) as opened:
        if sample is not None:
            from capture_cli.answers.history import sample_history

            history = sample_history(opened, sample)
            state = history.state
            if as_json:
                typer.echo(json.dumps({"run": run, **history.to_json()}))
            else:
                _show_history(history, opened, run, folder)
        else:
            summary = summarise(opened, worst=worst, confusions=max(1, limit // 2))
            state = summary.state
            if as_json:
                from capture_cli.views.terminal.inspect import commands

                typer.echo(json.dumps({"run": run, **summary.to_json(), "commands": commands(summary, run)}))
            else:
                _show_summary(summary, opened, run, folder, limit)
    if state.error:
        raise state.error
    return 0


def _show_history(history: History, opened: Run, run: str, folder: str | None) -> None:
    from capture_cli.views.terminal.inspect import show_history

    width, sample = terminal_width(), history.sample
    pictures, notes = _pictures(opened, [(sample.file, sample.digest)], folder) if width else ([None], [])
    show_history(history, run=run, width=width, picture=pictures[0], notes=notes)


def _show_summary(summary: Summary, opened: Run, run: str, folder: str | None, limit: int) -> None:
    from capture_cli.views.terminal.inspect import show_summary

    width, worst = terminal_width(), summary.phase.worst if summary.phase else ()
    pictures, notes = _pictures(opened, [(one.visit.file, one.digest) for one in worst], folder) if width else ([], [])
    show_summary(summary, run=run, limit=limit, width=width, pictures=pictures, notes=notes)


def _pictures(opened: Run, wanted: list[tuple[str, str | None]], folder: str | None) -> tuple[list[Picture | None], list[str]]:
    from capture_cli.views.pictures import pictures_of  # the decoders: only a terminal shows pictures

    return pictures_of(opened, wanted, folder)
