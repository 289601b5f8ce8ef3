"""Arguments that several commands share: RUN, and `--mlflow [URI]`, whose value may be omitted, which Typer does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture_cli.runs import Run

RUN_HELP = "Run folder, .jsonl file (also .gz or .zst), or - for stdin."
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False)]
MLFLOW = "--mlflow"
DEFAULT_STORE = "a URI such as http://host:5000 or sqlite:///mlflow.db; without one MLFLOW_TRACKING_URI, else the latter"


def with_values(args: Sequence[str]) -> list[str]:
    """The command line with a value for every `--mlflow`: what follows it where that is a URI, else none.

    So `capture train --mlflow FOLDER` has a folder, and `--mlflow=NAME` takes anything.
    """
    given: list[str] = []
    rest = list(args)
    while rest and rest[0] != "--":
        arg = rest.pop(0)
        if arg == MLFLOW:
            arg = f"{MLFLOW}={rest.pop(0) if rest and '://' in rest[0] else ''}"
        given.append(arg)
    return given + rest


def open_run(name: str) -> Run:
    """Open the run that a RUN argument names, as `runs.open_run` does. Raises UsageError for `-` where stdin is a terminal."""
    import sys

    from capture_cli import runs
    from capture_cli.errors import UsageError

    if name == "-" and sys.stdin.isatty():
        raise UsageError("stdin is a terminal, not records", "pipe a run into it, or name a run folder or file")
    return runs.open_run(name)
