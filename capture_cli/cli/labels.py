"""`capture labels FOLDER`: what a folder would become, before anything is trained. No torch; images are opened to --check."""

from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli import arguments as shared
from capture_cli.config import TrainConfig
from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from capture_cli.check import Checked
    from capture_cli.labels import Scan
    from capture_cli.resources import Resources

CHECK = "Decode every image and report copies, leaks, contradicting labels and what cannot be used."
_PIXELS = ("img_size", "channels", "resize", "background", "depth", "max_pixels")


def labels(
    ctx: typer.Context,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Folder of images whose names or subfolders carry the labels.", show_default=False
        ),
    ],
    labels: shared.Labels = TrainConfig.labels,
    unmatched: shared.Unmatched = TrainConfig.unmatched,
    include: shared.Include = None,
    exclude: shared.Exclude = None,
    keep_companions: shared.KeepCompanions = None,
    split_folders: shared.SplitFolders = None,
    merge_names: shared.MergeNames = None,
    val_split: shared.ValSplit = TrainConfig.val_split,
    val: shared.Val = None,
    group: shared.Group = None,
    files: Annotated[
        bool, typer.Option("--files", help="One line per file: its label and split, or why it is skipped.")
    ] = False,
    format: Annotated[str | None, typer.Option(metavar="jsonl|csv", help="Form of --files; csv can be edited.")] = None,
    check: Annotated[bool, typer.Option("--check", help=CHECK)] = False,
    img_size: shared.ImgSize = TrainConfig.img_size,
    channels: shared.Channels = TrainConfig.channels,
    resize: shared.Resize = TrainConfig.resize,
    background: shared.Background = TrainConfig.background,
    depth: shared.Depth = TrainConfig.depth,
    max_pixels: shared.MaxPixels = TrainConfig.max_pixels,
    ram: shared.Ram = None,
    workers: shared.Workers = None,
    no_cache: shared.NoCache = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> int:
    """Show what a folder would become: label rule, classes, images per split, skipped files.

    Nothing is trained or written. `capture train` takes the same options and does what is shown. With --check every
    image is decoded as a training would: which cannot be used, copies, leaks between the splits, one image under two labels.
    """
    options = locals()
    if format not in (None, "jsonl", "csv"):
        raise UsageError(f"--format {format} is not valid", "choose jsonl or csv")
    if format and not files:
        raise UsageError("--format is only valid with --files", "add --files, or drop --format")
    if files and as_json:
        raise UsageError("--files and --json both say what to print", "give one of them")
    if files and check:
        raise UsageError("--files and --check both say what to print", "give one of them")
    config = TrainConfig(**{name: options[name] for name in _PIXELS})
    if not check and (named := [name for name in _PIXELS if options[name] != getattr(TrainConfig, name)]):
        option = f"--{named[0].replace('_', '-')}"
        raise UsageError(f"{option} is only valid with --check", f"add --check, or drop {option}")
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.labels import ReadingOptions, scan
    from capture_cli.labels.rules import RULES
    from capture_cli.labels.splits import stratified_split
    from capture_cli.labels.warnings import warnings
    from capture_cli.resources import Resources
    from capture_cli.sources.folder import FolderSource
    from capture_cli.views.terminal.check import check_to_json, show_check
    from capture_cli.views.terminal.labels import show_files, show_scan, to_json
    from capture_cli.views.terminal.text import safe

    with FolderSource(folder, val) as source:
        found = scan(source, split=stratified_split(val_split), reading=ReadingOptions.of(options), unlabelled_too=files)
    shared.refuse_val_split(ctx, found)
    if found.labels and (files or as_json):  # the table says it itself
        others = "|".join(name for name in RULES if name != found.rule.name)
        typer.echo(safe(f"Labels: {found.example}. Not right? Choose another rule with --labels {others}"), err=True)
    told = warnings(found, holds_out=val_split > 0)
    for text in told:
        typer.echo(safe(f"warning: {text}"), err=True)
    if files:
        show_files(found, form=format or "jsonl")
        return 0
    checked = _checked(found, config, Resources.parse(ram=ram, workers=workers, cache=not no_cache)) if check else None
    if as_json:
        body = check_to_json(checked.findings, checked.names, checked.inputs) if checked else None
        typer.echo(to_json(found, told, check=body))
    else:
        show_scan(found, width=terminal_width())
        if checked:
            show_check(checked.findings, checked.names, checked.inputs, width=terminal_width())
    if checked and checked.refusal:
        raise checked.refusal
    return 0


def _checked(found: "Scan", config: TrainConfig, resources: "Resources") -> "Checked":
    """Decode the images; say on stderr what is wrong with them."""
    from capture_cli.check import check
    from capture_cli.pixels.verdicts import warnings
    from capture_cli.plan import wishes
    from capture_cli.views.terminal.text import safe

    def warn(text: str) -> None:
        typer.echo(safe(f"warning: {text}"), err=True)

    checked = check(found, wishes(config), resources, warn=warn)
    for text in warnings(checked.findings, checked.names):
        warn(text)
    return checked
