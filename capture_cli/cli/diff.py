"""`capture diff A B`: compare two runs."""

from typing import Annotated

import typer

from capture_cli.cli.arguments import A_RUN, RUN_HELP, open_run


def diff(
    a: Annotated[str, A_RUN(metavar="A", help=RUN_HELP)],
    b: Annotated[str, A_RUN(metavar="B", help="The other run; one of them may be -.")],
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Images to list for each direction of a flip, and classes.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also if the records are damaged.")] = False,
) -> int:
    """Compare two runs: where they diverge, and which predictions changed.

    The first line is the verdict. Then: the first record that differs, with its
    fields and images; the settings that differ (options, files, versions,
    device, threads); and the images that one run has right and the other wrong,
    with p(label) in both, in the last phase that both runs have (val, else test,
    else train). Images are matched by path.

    Works on runs that are still going or were cut off: A is a prefix of B if B
    continues where A ends.

    Exit codes: 0 if the runs are equal, 1 if they differ, 2 for wrong usage, 4 if
    the records of one do not verify. The records before the damage are compared.
    """
    import json

    from capture_cli.answers.diff import compare
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.errors import UsageError
    from capture_cli.views.terminal.diff import show_diff

    if a == b == "-":
        raise UsageError("stdin can be only one of the two runs", "give the other as a run folder or file")
    with open_run(a) as one, open_run(b) as other:
        found = compare(one, other, limit=limit)
    if as_json:
        typer.echo(json.dumps(found.to_json(a=a, b=b)))
    else:
        show_diff(found, a=a, b=b, limit=limit, width=terminal_width())
    if found.error:
        raise found.error
    return 0 if found.relation == "equal" else 1
