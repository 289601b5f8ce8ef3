"""`capture runs`: the runs there are, side by side; and the end of those that nobody needs any more."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capture_cli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from capture_cli.runs.listing import ListedRun
    from capture_cli.runs.names import Place

SORTS = "age, name, accuracy, loss, bytes, ..., or an option such as lr; the newest and the best come first."
_FALLING = ("accuracy", "bytes", "epoch", "last_epoch")
"""Columns whose largest value comes first."""
_OF_PHASE = ("accuracy", "loss")
"""Columns that depend on the phase: runs with validation come first, then those with a test, then others."""


def runs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DIR|RUN...]", help="Folders of runs, or runs; runs/ by default.", show_default=False),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help=f"Order: {SORTS}")] = "age",
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="Turn the order round.")] = False,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="Keep only runs that fulfil this SQL condition: \"accuracy > 0.9 and opt = 'sgd'\"."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Show only the first N.", show_default="all")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Show only these columns, in this order: name,accuracy,lr.")
    ] = None,
    rm: Annotated[
        bool,
        typer.Option(
            "--rm", help="Remove the runs that are named, or with --where those in DIR that fulfil it, with all files."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without a question.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table, with every column.")] = False,
) -> int:
    """List runs: model, best accuracy, the options that differ, size, state; or remove some.

    The best accuracy is that of the best epoch in the phase val, else test, else
    train. Options that are equal in all runs are not shown, and the model and state
    only above the table. A run that has no end and that no process writes is `cut
    off`: `capture train --resume RUN` continues it.

    By accuracy or loss, runs with validation come before the others.

    Columns for --sort, --where and --columns: name, path, age (seconds), model, phase,
    epoch, accuracy, loss (of the best epoch), last_epoch, bytes, state, and every option.
    """
    if yes and not rm:
        raise UsageError("--yes is only valid with --rm", "drop it, or add --rm")
    if rm:
        if not names:
            raise UsageError("--rm names no run", "capture runs --rm NAME...")
        if as_json or as_csv or limit or columns:
            raise UsageError(
                "--rm removes the runs that are named", "drop --json, --csv, --columns and --limit; --where chooses among them"
            )
        return _remove(names, where, ask=not yes)
    if as_json and as_csv:
        raise UsageError("--json and --csv both choose the output format", "give one of them")
    if as_json and columns:
        raise UsageError("--columns is of the table and of --csv, and --json has all", "give one of them")
    form = "json" if as_json else "csv" if as_csv else ""
    show_list(names or [], sort=sort, reverse=reverse, where=where, columns=columns, limit=limit, form=form)
    return 0


def show_list(
    names: list[str],
    *,
    sort: str = "age",
    reverse: bool = False,
    where: str | None = None,
    columns: str | None = None,
    limit: int | None = None,
    form: str = "",
) -> None:
    """Print the runs in the folders `names`, by default runs/, or these runs: as a table, or in the `form` json or csv."""
    import sys
    import time

    from capture_cli.cli.terminal import terminal_width
    from capture_cli.runs.listing import differing, listed
    from capture_cli.runs.names import RUNS, more_runs
    from capture_cli.views.terminal import runs as view
    from capture_cli.views.terminal.text import safe

    places, more_in = _places(names)
    now = time.time()
    found = [listed(place) for place in places]
    if not found and form != "json":
        searched = " or ".join(names) or str(RUNS)
        typer.echo(
            safe(f"there are no runs in {searched}; {more_runs(more_in) or '`capture train FOLDER` makes one'}"), err=True
        )
        if not form:
            return
    folders = [place.folder for place in places if place.folder.is_dir()]
    numbers = {folder: number for number, folder in enumerate(folders, 1)} if _all_of(names, RUNS) else {}
    chosen = found
    if where is not None:
        from capture_cli.tables.runs import where as fulfilling

        chosen = fulfilling(found, where, now=now)
    chosen = _sorted(chosen, sort, reverse, now)
    asked = None if columns is None else _known_columns(columns, found, now)
    shown, more = chosen[:limit], chosen[len(chosen) if limit is None else limit :]
    options = differing(shown)
    if form == "json":
        typer.echo(view.to_json(shown, options=options))
        return
    if form:
        view.write_csv(shown, sys.stdout, columns=asked or _columns(found, now), now=now)
        return
    view.show_runs(
        shown,
        where=", ".join(names) or str(RUNS),
        places=[numbers.get(run.folder, 0) for run in shown],
        options=options,
        columns=asked,
        folders=more_in,
        more=more,
        now=now,
        width=terminal_width(),
    )


def _places(names: list[str]) -> tuple[list["Place"], list[Path]]:
    """Find the runs that are named, and those in folders that are named; also return folders in these that hold more."""
    from capture_cli.runs.names import RUNS, folders_of_runs, place_of, run_files, run_folders

    found: dict[Path, Place] = {}
    more = list[Path]()
    for path in map(_named, names) if names else [RUNS]:
        own = place_of(path)
        for place in [own] if own else [*run_folders(path), *run_files(path)]:
            found[place.folder] = place
        more += [] if own else folders_of_runs(path)
    return sorted(found.values(), key=lambda place: -place.written), more


def _named(name: str) -> Path:
    """Return the path of a run or a folder of runs."""
    from capture_cli.cli.arguments import tell_hidden
    from capture_cli.runs.names import find_run

    path = find_run(name)
    if path == Path(name):
        tell_hidden(name)
    return path


def _all_of(names: list[str], folder: Path) -> bool:
    """Tell if these names stand for all runs in `folder`, so that `@N` counts them."""
    return not names or [Path(name) for name in names] == [folder]


def _columns(runs: list["ListedRun"], now: float) -> list[str]:
    """Return the columns that every run has, then the options of these."""
    from capture_cli.runs.listing import COLUMNS

    return list(dict.fromkeys([*COLUMNS, *(name for run in runs for name in run.row(now))]))


def _known_columns(text: str, runs: list["ListedRun"], now: float, option: str = "--columns") -> list[str]:
    """Return the names in `text`. Raises UsageError, listing all columns, for one that no run has."""
    names, known = [name.strip() for name in text.split(",")], _columns(runs, now)
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name} is not valid", did_you_mean(name, known, f"choose {', '.join(known)}"))
    return names


def _sorted(runs: list["ListedRun"], sort: str, reverse: bool, now: float) -> list["ListedRun"]:
    """Sort by a column; runs without a value come last. Raises UsageError for a column that no run has."""
    from capture_cli.answers.phases import preferred

    if runs:
        _known_columns(sort, runs, now, "--sort")
    rows = [run.row(now) for run in runs]
    phases = preferred({run.best.phase for run in runs if run.best})
    values: list[tuple[Any, ListedRun]] = [(row.get(sort), run) for row, run in zip(rows, runs, strict=True)]
    there = [one for one in values if one[0] is not None]
    numbers = all(isinstance(value, int | float) for value, _ in there)
    there.sort(key=lambda one: one[0] if numbers else str(one[0]), reverse=(sort in _FALLING) != reverse)
    if sort in _OF_PHASE:  # a figure of training images is no rival of one of held-out images
        there.sort(key=lambda one: phases.index(one[1].best.phase) if one[1].best else len(phases))
    return [run for _, run in there] + [run for value, run in values if value is None]


def _fulfilling(names: list[str], where: str) -> list[Path]:
    """Return those of the runs, or of the runs in folders that are named, that fulfil an SQL condition."""
    import time

    from capture_cli.runs.listing import listed
    from capture_cli.tables.runs import where as fulfilling

    return [run.folder for run in fulfilling([listed(one) for one in _places(names)[0]], where, now=time.time())]


def _remove(names: list[str], where: str | None, *, ask: bool) -> int:
    """Remove the run folders `names` after a question, or those in them that fulfil `where`.

    Raises UsageError, before anything is removed, if one cannot be.
    """
    import sys

    from capture_cli.answers.shares import percent
    from capture_cli.runfolder import check_removable, remove_run
    from capture_cli.runs.listing import listed
    from capture_cli.runs.names import place_of
    from capture_cli.views.terminal.cache import size
    from capture_cli.views.terminal.text import safe

    folders = list(dict.fromkeys(_named(name) for name in names)) if where is None else _fulfilling(names, where)
    if not folders:
        typer.echo(f"no run fulfils --where '{where}'; nothing was removed", err=True)
        return 0
    for folder in folders:
        if folder.is_file():
            raise UsageError(f"'{folder}' is a file, and --rm removes run folders", "remove it as any file")
        check_removable(folder)
    found = [listed(place) for folder in folders if (place := place_of(folder))]
    total = size(sum(run.size for run in found))
    for run in found:
        best = f", best accuracy {percent(run.best.accuracy)}" if run.best and run.best.accuracy is not None else ""
        typer.echo(safe(f"{run.folder}: {run.state}{best}, {size(run.size)}"), err=True)
    if ask:
        if not sys.stdin.isatty():
            raise UsageError("--rm asks first, and stdin is not a terminal", "add --yes to remove without a question")
        what = "this run" if len(found) == 1 else f"these {len(found)} runs"
        if not typer.confirm(f"Remove {what} ({total})?", err=True):
            typer.echo("nothing was removed", err=True)
            return 1
    for folder in folders:
        remove_run(folder)
    typer.echo(f"removed {len(folders)} run{'' if len(folders) == 1 else 's'}, {total}", err=True)
    return 0
