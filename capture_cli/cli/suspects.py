"""`capture suspects RUN`: the samples whose label is probably wrong."""

from typing import Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run


def suspects(
    run: RunArgument,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Samples to show.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="Show every sample, ranked.")] = False,
    label: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="Show samples labelled CLASS only.", show_default=False)
    ] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, for pictures.", show_default="as recorded")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> int:
    """Rank the samples whose label is probably wrong.

    The ranking needs no extra training: it comes from the predictions that the run
    made while it trained (validation samples: while it evaluated). `p_wrong` is the
    probability that the label is wrong, `suggested` the likeliest other class.
    `flagged` marks as many samples as labels are probably wrong.

    Runs of fewer than 3 epochs are ranked by the mean margin alone.
    """
    import json
    import sys

    from capture_cli.answers.suspects import find_suspects
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.errors import UsageError
    from capture_cli.views.pictures import pictures_of
    from capture_cli.views.terminal import suspects as view

    if as_json and as_csv:
        raise UsageError("--json and --csv both choose the output format", "give one of them")
    with open_run(run) as opened:
        found = find_suspects(opened)
        if label is not None and label not in opened.info.classes:
            raise UsageError(f"no class '{label}' in {opened.name}", f"the classes are {', '.join(opened.info.classes[:20])}")
        rows = [one for one in found.suspects if label in (None, one.label)]
        rows = rows if every else rows[:top]
        if as_json:
            for one in rows:
                typer.echo(json.dumps(one.to_json()))
        elif as_csv:
            view.write_csv(rows, sys.stdout)
        else:
            width = terminal_width()
            pictures, notes = pictures_of(opened, [(one.file, one.digest) for one in rows] if width else [], folder)
            view.show_suspects(found, rows, width=width, pictures=pictures, notes=notes)
    if found.state.error:
        raise found.state.error
    return 0
