"""`capture diff A B`: whether two runs are equal, and else where they part and what came of it."""

from typing import Annotated

import typer

from capture_cli.cli.arguments import RUN_HELP, open_run


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=RUN_HELP, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other run; one of them may be -.", show_default=False)],
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Images at most that turned wrong, that turned right, and classes.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables, also where it fails.")] = False,
) -> int:
    """Say whether two runs are equal, and else where they part.

    The first line is the verdict. Then: the first record that differs, its
    fields and the images in it; what the runs were told differently (options,
    files, versions, device, threads); and, of the last phase that both have
    (val, else train, else test), the images that one run has right and the
    other wrong, with p(label) in both. Images are matched by their path.

    Works on runs that are still going or were cut off: A is then a beginning of
    B, if B goes on where A ends. Exit code 0 where the runs are equal, 1 where
    they differ, 2 for wrong usage, 4 where the records of one do not verify;
    what stands before that is compared all the same.
    """
    import json

    from capture_cli.answers.diff import compare
    from capture_cli.errors import UsageError
    from capture_cli.views.terminal import diff as view

    if a == b == "-":
        raise UsageError("stdin can be only one of the two runs", "give the other as a run folder or file")
    with open_run(a) as one, open_run(b) as other:
        found = compare(one, other, limit=limit)
    if as_json:
        typer.echo(json.dumps(view.diff_json(found, a=a, b=b)))
    else:
        view.show_diff(found, a=a, b=b, limit=limit)
    if found.error:
        raise found.error
    return 0 if found.relation == "equal" else 1
