"""`capture verify RUN`: whether the records are what was written."""

from pathlib import Path
from typing import Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run


def verify(
    run: RunArgument,
    repair: Annotated[
        str | None,
        typer.Option(metavar="NEWFILE", help="Save the lines that verify, up to the first that does not, in a new file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a line, also where it fails.")] = False,
) -> int:
    """Check sequence, chain, every record and the end line of a run.

    Exit code 4 where one of them fails, naming the line and why. A run without an
    end line, still going or cut off, is not sealed: that fails too, and says how
    many lines verify. The chain that is shown is equal for equal runs.

    With --repair what verifies is saved, what is left out is said, and the code
    is 0; the run itself is never touched.
    """
    import json

    from capture_cli.answers import verification
    from capture_cli.views.terminal.text import safe

    with open_run(run) as reading:
        error = verification.repair(reading, Path(repair)) if repair else verification.verify(reading)
        ending = reading.ending
    if as_json:
        answer = {
            "run": run,
            "verified": error is None,
            "state": ending.state,
            "status": ending.status,
            "lines": ending.lines,
            "bytes": ending.bytes,
            "counts": ending.counts,
            "chain": ending.chain,
            "line": error.line if error and error.line else None,
            "reason": error.message if error else None,
        }
        typer.echo(json.dumps(answer))
    elif error is None:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in ending.counts.items())
        typer.echo(safe(f"{reading.name}: {ending.lines:,} lines verify ({counts}), {ending.sentence}, chain {ending.chain}"))
    if error and not (repair and Path(repair).exists()):
        raise error
    if error and repair:
        typer.echo(safe(f"{error.message}; '{repair}' has the {ending.lines:,} lines before that"), err=True)
    elif repair:
        typer.echo(safe(f"nothing to repair: '{repair}' was not written"), err=True)
    return 0
