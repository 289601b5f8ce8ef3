"""`capture mcp RUN...`: runs for a coding assistant, over the Model Context Protocol."""

from typing import Annotated

import typer

from capture_cli.cli.arguments import RUN_HELP, find_run, open_run


def mcp(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=RUN_HELP)],
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, for pictures.", show_default="as recorded")
    ] = None,
) -> None:
    """Serve runs to a coding assistant, read-only, over the Model Context Protocol.

    Speaks the protocol on stdin and stdout until stdin is closed. The tools are
    inspect, rows, suspects, diff and sample (with the picture). An assistant reaches
    the runs that are named here, by these names, and nothing else; answers are cut at
    a fixed length. Needs the extra mcp: pip install 'capture-cli[mcp]'. For example:

    claude mcp add capture -- capture mcp runs/one runs/other
    """
    from pathlib import Path

    from capture_cli.assistant import serve
    from capture_cli.errors import UsageError

    if "-" in runs:
        raise UsageError("stdin carries the protocol", "name run folders or files")
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"no such folder: '{folder}'", "--folder says where the images of the runs are now")
    if len(set(runs)) < len(runs):
        raise UsageError("the same run twice", "name each run once")
    found = {name: find_run(name) for name in runs}
    for path in found.values():
        with open_run(path) as run:
            run.info  # noqa: B018 - a file that is no run is told now
    serve(found, folder=folder)
