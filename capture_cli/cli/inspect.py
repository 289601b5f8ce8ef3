"""`capture inspect RUN`: a run at a glance, or the history of one image."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture_cli.cli.arguments import Epoch, RunArgument, open_run
from capture_cli.cli.terminal import terminal_width

if TYPE_CHECKING:
    from capture_cli.answers.state import RunState
    from capture_cli.runs import Run
    from capture_cli.views.pictures import Picture


def inspect(
    run: RunArgument,
    sample: Annotated[
        str | None, typer.Option(metavar="FILE", help="Show every visit of one image: its recorded path, or the end of it.")
    ] = None,
    worst: Annotated[int, typer.Option(metavar="N", min=0, max=1000, help="Samples with the highest loss to show.")] = 8,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Classes to show, and half as many confusions.")] = 20,
    epoch: Epoch = "last",
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, for pictures.", show_default="as recorded")
    ] = None,
    dynamics: Annotated[
        bool,
        typer.Option("--dynamics", help="Show how classes and samples were learned: margins, forgetting, epochs."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> int:
    """Show what happened: epochs, classes, confusions, the worst samples.

    Begins with the lesson: a sentence for everything that stands out, each with the
    command that shows more. Labels that look wrong are among them for runs whose
    records are small; `capture suspects` finds them in any run.

    Classes, confusions, calibration and the worst samples are of the last epoch,
    or of the one that `--epoch` names. The calibration error (ECE) is over 15 bins
    of equal width; the table has those that hold samples.

    Works on a run that is still going or was cut off, and says so. If the records
    are damaged, it shows what comes before the damage and exits with 4. Of a
    folder of runs it lists the runs, as `capture runs` does.
    """
    from pathlib import Path

    from capture_cli.errors import UsageError, absent
    from capture_cli.runs.names import holds_run, run_folders

    if folder is not None and not Path(folder).is_dir():
        raise UsageError(absent(folder, "folder"), "--folder says where the images of the run are now")
    if dynamics and sample is not None:
        raise UsageError("--dynamics and --sample are two different views", "give one of them")
    if epoch != "last" and (dynamics or sample is not None):
        view = "--dynamics" if dynamics else "--sample"
        raise UsageError(f"--epoch and {view} do not go together", f"{view} shows every epoch; drop --epoch")
    if run != "-" and Path(run).is_dir() and not holds_run(Path(run)) and run_folders(Path(run)):
        if dynamics or sample is not None or epoch != "last":
            option = "--dynamics" if dynamics else "--epoch" if sample is None else "--sample"
            raise UsageError(
                f"'{run}' is a folder of runs, and {option} is for one run",
                f"name one of them, or drop {option} to list them",
            )
        from capture_cli.cli.runs import show_list

        show_list([run], form="json" if as_json else "")
        return 0
    with open_run(run) as opened:
        if dynamics:
            state = _show_dynamics(opened, run, worst=worst, limit=limit, as_json=as_json)
        elif sample is not None:
            state = _show_sample(opened, run, sample, folder=folder, as_json=as_json)
        else:
            state = _show_summary(opened, run, epoch=epoch, worst=worst, limit=limit, folder=folder, as_json=as_json)
    if state.error:
        raise state.error
    return 0


def _show_summary(
    opened: "Run", run: str, *, epoch: str, worst: int, limit: int, folder: str | None, as_json: bool
) -> "RunState":
    from capture_cli.answers.summary import summarise
    from capture_cli.views.terminal import inspect as view

    summary = summarise(opened, worst=worst, confusions=max(1, limit // 2), epoch=epoch)
    if as_json:
        further = {"lesson": view.lesson_json(summary, run), "commands": view.commands(summary, run)}
        _print_json(run, summary.to_json() | further)
        return summary.state
    width = terminal_width()
    wanted = [(one.visit.file, one.digest) for one in summary.phase.worst] if summary.phase else []
    pictures, notes = _pictures(opened, wanted, folder) if width else ([], [])
    view.show_summary(summary, run=run, limit=limit, width=width, pictures=pictures, notes=notes)
    return summary.state


def _show_sample(opened: "Run", run: str, sample: str, *, folder: str | None, as_json: bool) -> "RunState":
    from capture_cli.answers.history import sample_history
    from capture_cli.views.terminal.inspect import show_history

    history = sample_history(opened, sample)
    if as_json:
        _print_json(run, history.to_json())
        return history.state
    width = terminal_width()
    wanted = [(history.sample.file, history.sample.digest)]
    pictures, notes = _pictures(opened, wanted, folder) if width else ([None], [])
    show_history(history, run=run, width=width, picture=pictures[0], notes=notes)
    return history.state


def _show_dynamics(opened: "Run", run: str, *, worst: int, limit: int, as_json: bool) -> "RunState":
    from capture_cli.answers.learning import find_learning
    from capture_cli.answers.lesson import RUN
    from capture_cli.views.terminal.inspect import capture_command
    from capture_cli.views.terminal.learning import show_learning

    learning = find_learning(opened, most=worst)
    if as_json:
        _print_json(run, learning.to_json())
    else:
        command = capture_command(("rows", RUN, "--per", "sample"), run)
        show_learning(learning, command=command, limit=limit, width=terminal_width())
    return learning.state


def _pictures(
    opened: "Run", wanted: list[tuple[str, str | None]], folder: str | None
) -> tuple[list["Picture | None"], list[str]]:
    from capture_cli.views.pictures import pictures_of  # loads what decodes images

    return pictures_of(opened, wanted, folder)


def _print_json(run: str, answer: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps({"run": run, **answer}))
