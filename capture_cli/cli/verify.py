"""`capture verify RUN...`: check that the records are what was written."""

from pathlib import Path
from typing import Annotated

import typer

from capture_cli.cli.arguments import RUN_HELP, find_run, open_run


def verify(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=RUN_HELP, show_default=False)],
    repair: Annotated[
        str | None,
        typer.Option(metavar="NEWFILE", help="Save the lines before the first one that does not verify in a new file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a run, also if it does not verify.")] = False,
) -> int:
    """Check the sequence, the chain, every record and the end line of runs.

    Exit code 4 if a check fails, with the line and the reason. A run without an
    end line, still going or cut off, is not sealed and fails too; the error says
    how many lines verify. Equal runs have equal chains. Of several runs, such as
    runs/*, each has a line, and the exit code is the highest of them.

    With --repair, the lines that verify are saved and the exit code is 0. The run
    itself is never changed.
    """
    from capture_cli.cli import fail
    from capture_cli.errors import CaptureError, UsageError

    if repair and len(runs) > 1:
        raise UsageError(f"--repair {repair} is for one run, and {len(runs):,} are given", "repair them one by one")
    if runs.count("-") > 1:
        raise UsageError("stdin can be only one of the runs", "give the others as run folders or files")
    code = 0
    for run in [find_run(one) for one in runs]:
        try:
            _verify(run, repair, as_json=as_json)
        except CaptureError as error:  # the others are verified all the same
            code = max(code, fail(error))
    return code


def _verify(run: str, repair: str | None, *, as_json: bool) -> None:
    """Verify one run and print the result. Raises RecordsError if it does not verify and is not repaired."""
    import json

    from capture_cli.answers import verification
    from capture_cli.errors import CaptureError
    from capture_cli.views.terminal.text import safe

    try:
        with open_run(run) as opened:
            found = verification.repair(opened, Path(repair)) if repair else verification.verify(opened)
            name = opened.name
    except CaptureError as unreadable:
        if as_json:
            typer.echo(json.dumps({"run": run, "verified": False, "line": None, "reason": unreadable.message}))
        raise
    error, ending = found.error, found.ending
    if as_json:
        typer.echo(json.dumps({"run": run, **found.to_json()}))
    elif error is None:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in ending.counts.items())
        typer.echo(safe(f"{name}: {ending.lines:,} lines verify ({counts}), {ending.sentence}, chain {ending.chain}"))
    if error and not (repair and Path(repair).exists()):
        raise error
    if error and repair:
        typer.echo(safe(f"{error.message}; saved the {ending.lines:,} lines before that in '{repair}'"), err=True)
    elif repair:
        typer.echo(safe(f"nothing to repair: '{repair}' was not written"), err=True)
