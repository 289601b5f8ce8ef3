"""`capture labels FOLDER`: what a folder would become, before anything is trained. No torch, and no image is opened."""

from typing import Annotated

import typer

from capture_cli.cli import arguments as shared
from capture_cli.config import TrainConfig
from capture_cli.errors import UsageError


def labels(
    folder: Annotated[
        str, typer.Argument(help="Folder of images whose names or sub-folders carry the labels.", show_default=False)
    ],
    labels: shared.Labels = TrainConfig.labels,
    unmatched: shared.Unmatched = TrainConfig.unmatched,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    keep_companions: shared.KeepCompanions = None,
    split_folders: shared.SplitFolders = None,
    merge_names: shared.MergeNames = None,
    val_split: shared.ValSplit = TrainConfig.val_split,
    files: Annotated[
        bool, typer.Option("--files", help="One line per file: its label and split, or why it is skipped.")
    ] = False,
    format: Annotated[str | None, typer.Option(metavar="jsonl|csv", help="Form of --files; csv can be edited.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> int:
    """Show what a folder would become: label rule, classes, images per split, skipped files.

    No image is opened and nothing is trained or written. `capture train` takes the same options and does what is shown.
    """
    options = locals()
    if format not in (None, "jsonl", "csv"):
        raise UsageError(f"--format {format} is not valid", "choose jsonl or csv")
    if format and not files:
        raise UsageError("--format is only valid with --files", "add --files, or drop --format")
    if files and as_json:
        raise UsageError("--files and --json both say what to print", "give one of them")
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.labels import Reading, scan
    from capture_cli.labels.rules import RULES
    from capture_cli.labels.splits import stratified_split
    from capture_cli.labels.warnings import warnings
    from capture_cli.sources.folder import FolderSource
    from capture_cli.views.terminal.labels import show_files, show_scan, to_json
    from capture_cli.views.terminal.text import safe

    with FolderSource(folder) as source:
        found = scan(source, split=stratified_split(val_split), reading=Reading.of(options), unlabelled_too=files)
    if found.labels:
        others = "|".join(name for name in RULES if name != found.rule.name)
        typer.echo(safe(f"Labels: {found.example}. Not right? Choose another rule with --labels {others}"), err=True)
    for text in warnings(found):
        typer.echo(safe(f"warning: {text}"), err=True)
    if files:
        show_files(found, form=format or "jsonl")
    elif as_json:
        typer.echo(to_json(found))
    else:
        show_scan(found, width=terminal_width())
    return 0
