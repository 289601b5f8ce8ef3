"""`capture verify RUN`: check that the records are what was written."""

from pathlib import Path
from typing import Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run


def verify(
    run: RunArgument,
    repair: Annotated[
        str | None,
        typer.Option(metavar="NEWFILE", help="Save the lines before the first one that does not verify in a new file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also if the run does not verify.")] = False,
) -> int:
    """Check the sequence, the chain, every record and the end line of a run.

    Exit code 4 if a check fails, with the line and the reason. A run without an
    end line, still going or cut off, is not sealed and fails too; the error says
    how many lines verify. Equal runs have equal chains.

    With --repair, the lines that verify are saved and the exit code is 0. The run
    itself is never changed.
    """
    import json

    from capture_cli.answers import verification
    from capture_cli.views.terminal.text import safe

    with open_run(run) as opened:
        found = verification.repair(opened, Path(repair)) if repair else verification.verify(opened)
        name = opened.name
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
    return 0
