"""`capture labels FOLDER`: what a folder would become, before anything is trained. No torch, and no image is opened."""

from pathlib import Path
from typing import Annotated

import typer

from capture_cli.config import TrainConfig


def labels(
    folder: Annotated[
        Path, typer.Argument(help="Folder of images whose names or sub-folders carry the labels.", show_default=False)
    ],
    labels: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="auto, parent, field:N, prefix, suffix or a regular expression with a group `label`."
        ),
    ] = TrainConfig.labels,
    unmatched: Annotated[
        str, typer.Option(metavar="error|skip", help="What to do with files that the rule does not fit.")
    ] = TrainConfig.unmatched,
    val_split: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the images that are only evaluated.")
    ] = TrainConfig.val_split,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> int:
    """Show what a folder would become: the label rule, the classes and their images, and what is left out and why.

    Nothing is opened, trained or written. `capture train` takes the same options and does what is shown here.
    """
    from capture_cli.labels import scan, warnings
    from capture_cli.views.terminal.labels import show_scan, to_json
    from capture_cli.views.terminal.text import safe

    found = scan(folder, labels=labels, unmatched=unmatched, val_split=val_split)
    typer.echo(safe(found.rule_sentence), err=True)
    for text in warnings(found):
        typer.echo(safe(f"warning: {text}"), err=True)
    if as_json:
        typer.echo(to_json(found))
    else:
        show_scan(found)
    return 0
