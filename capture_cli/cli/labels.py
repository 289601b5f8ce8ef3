"""`capture labels FOLDER`: what a folder would become, before anything is trained. No torch, and no image is opened."""

from typing import Annotated

import typer

from capture_cli.config import TrainConfig


def labels(
    folder: Annotated[
        str, typer.Argument(help="Folder of images whose names or sub-folders carry the labels.", show_default=False)
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
        float, typer.Option(metavar="SHARE", help="Share of the images held out for validation.")
    ] = TrainConfig.val_split,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> int:
    """Show what a folder would become: label rule, classes, images per split, skipped files.

    No image is opened and nothing is trained or written. `capture train` takes the same options and does what is shown.
    """
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.labels import scan
    from capture_cli.labels.rules import RULES
    from capture_cli.labels.splits import hashed_split
    from capture_cli.labels.warnings import warnings
    from capture_cli.sources.folder import FolderSource
    from capture_cli.views.terminal.labels import show_scan, to_json
    from capture_cli.views.terminal.text import safe

    with FolderSource(folder) as source:
        found = scan(source, labels=labels, unmatched=unmatched, split=hashed_split(val_split))
    others = "|".join(name for name in RULES if name != found.rule.name)
    typer.echo(safe(f"Labels: {found.example}. Not right? Choose another rule with --labels {others}"), err=True)
    for text in warnings(found):
        typer.echo(safe(f"warning: {text}"), err=True)
    if as_json:
        typer.echo(to_json(found))
    else:
        show_scan(found, width=terminal_width())
    return 0
