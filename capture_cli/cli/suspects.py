"""`capture suspects RUN`: the samples whose label is probably wrong."""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import RUN_HELP, Quiet, find_run, open_run
from capture_cli.cli.terminal import terminal_width

if TYPE_CHECKING:
    from capture_cli.answers.suspects import Suspect


def suspects(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help=f"{RUN_HELP} Several are ranked together.", show_default=False)
    ],
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Samples to show, or groups of duplicates.",
            show_default="20; all of them with --review or --duplicates",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every sample, ranked, or every group of duplicates.")] = False,
    review: Annotated[
        bool, typer.Option("--review", help="Show only samples whose mean prediction contradicts the label, flagged or not.")
    ] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Show pictures that are in the run more than once.")] = False,
    label: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="Show samples labelled CLASS only.", show_default=False)
    ] = None,
    fix: Annotated[
        str | None, typer.Option(metavar="SCRIPT", help="Write a new shell script that would rename the flagged files.")
    ] = None,
    labels_out: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="Write a new table of all labels and splits, flagged ones corrected, for --labels."),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the images are now, for pictures and --fix.", show_default="as recorded"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    quiet: Quiet = False,
) -> int:
    """Rank the samples whose label is probably wrong.

    The ranking needs no extra training: it comes from the predictions that the run
    made while it trained (validation samples: while it evaluated). `p_wrong` is the
    probability that the label is wrong, `suggested` the likeliest other class.
    `flagged` marks as many samples as labels are probably wrong. `--review` lists
    every contradiction by score: it finds more wrong labels, and more hard images.

    Nothing is changed: `--fix` writes a script of quoted renames to read first, and
    `--labels-out` a table for `capture train --labels`. Neither replaces a file.

    Several runs of the same files are ranked by the mean of their scores; the
    labels must be the same in all. Runs of fewer than 3 epochs are ranked by the
    mean margin alone.
    """
    import json
    import sys
    from contextlib import ExitStack

    from capture_cli.answers.listed import ListedImages
    from capture_cli.answers.suspects import find_suspects
    from capture_cli.errors import UsageError, did_you_mean
    from capture_cli.views.corrections import fix_script, label_table
    from capture_cli.views.pictures import pictures_of
    from capture_cli.views.terminal import suspects as view

    if every and top is not None:
        raise UsageError("--all and --top both say how many samples are shown", "give one of them")
    if quiet and not (fix or labels_out):
        raise UsageError("--quiet leaves nothing to print", "drop it, or add --fix or --labels-out")
    _check_options(runs, as_json=as_json, as_csv=as_csv, duplicates=duplicates, review=review, new=(fix, labels_out))
    with ExitStack() as stack:
        opened = [stack.enter_context(open_run(find_run(one, trainings=True))) for one in runs]
        for run in opened:
            if "predict" in run.info.images:
                hint = "name a training, or run `capture evaluate` on images with labels"
                raise UsageError(f"{run.name} has predictions of images without labels", hint)
        listed = ListedImages()
        found = find_suspects(*opened, beside=[] if labels_out is None else [listed])
        first = opened[0]
        if label is not None and label not in first.info.classes:
            classes = first.info.classes
            shown = f"the classes are {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}"
            raise UsageError(f"no class '{label}' in {first.name}", did_you_mean(label, classes, shown))
        if quiet:
            pass  # the files that are written say all
        elif duplicates:
            width = terminal_width()
            view.show_duplicates(found.duplicates, as_json=as_json, as_csv=as_csv, label=label, top=top, width=width)
        else:
            rows = [one for one in (found.review if review else found.suspects) if label in (None, one.label)]
            rows = rows[: None if every or (review and top is None) else top or 20]
            if as_json:
                for one in rows:
                    typer.echo(json.dumps(one.to_json()))
            elif as_csv:
                view.write_csv(rows, sys.stdout)
            else:
                width = terminal_width()
                pictures, notes = pictures_of(first, [(one.file, one.digest) for one in rows] if width else [], folder)
                view.show_suspects(found, rows, review=review, width=width, pictures=pictures, notes=notes)
        chosen = [one for one in found.flagged if label in (None, one.label)]
        if fix is not None:
            where = folder or first.info.folder or "."
            names = [one.file for one in found.suspects]
            rule, is_file = first.info.label_rule, partial(_is_file, where)
            script = fix_script(chosen, names, folder=where, source=runs[0], rule=rule, is_file=is_file)
            said = f"{_number(script.renames, 'rename')} to review; nothing was moved"
            if script.comments:
                said += f"; {script.comments:,} flagged samples cannot be renamed, the script says why"
            if script.renames and labels_out is None:
                said += "; moved files may change sides of a random split, which --labels-out keeps"
            _write(fix, script.text, "" if quiet else said + _warnings(chosen))
        if labels_out is not None:
            table = label_table(found.suspects, listed)
            said = f"{len(listed.labels) or len(found.suspects):,} labels, {len(found.flagged):,} changed"
            _write(labels_out, table, "" if quiet else said + _warnings(found.flagged))
    if found.state.error:
        raise found.state.error
    return 0


def _is_file(folder: str, name: str) -> bool:
    """Return True if a regular file has that name below the folder."""
    from capture_cli.errors import CaptureError
    from capture_cli.sources import MAX_FILE_BYTES
    from capture_cli.sources.access import open_file, opened

    with suppress(CaptureError), opened(folder) as descriptor:
        os.close(open_file(descriptor, name, max_bytes=MAX_FILE_BYTES))
        return True
    return False


def _warnings(changed: "Sequence[Suspect]") -> str:
    """Warnings where labels change: what is left looks right to networks, and validation labels become what the model said."""
    count = sum(one.phase != "train" for one in changed)
    labels = "is a validation label" if count == 1 else "are validation labels"
    said = f"; {count:,} {labels}, so a higher accuracy there proves nothing" if count else ""
    return said + "; of those still wrong a next run flags few: see --review" * bool(changed)


_OTHER_FORMATS = (".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx", ".gz", ".zst", ".xz", ".bz2", ".zip")
"""Endings that the name of a table of labels cannot have: --labels would read some of them as what they say."""


def _check_options(
    runs: list[str], *, as_json: bool, as_csv: bool, duplicates: bool, review: bool, new: tuple[str | None, str | None]
) -> None:
    """Raise UsageError before anything is read."""
    from capture_cli.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv both choose the output format", "give one of them")
    if duplicates and review:
        raise UsageError("--duplicates and --review are two different lists", "give one of them")
    if runs.count("-") > 1:
        raise UsageError("stdin can be only one of the runs", "give the others as run folders or files")
    for name, option in zip(new, ("--fix", "--labels-out"), strict=True):
        if name is not None and (Path(name).exists() or Path(name).is_symlink()):
            raise UsageError(f"'{name}' exists", f"name a new file with {option}")
    if new[1] is not None and (Path(new[1]).suffix or Path(new[1]).name).lower() in _OTHER_FORMATS:
        raise UsageError(f"--labels-out writes CSV, not what the name '{new[1]}' says", "name it .csv")
    if new[0] is not None and new[0] == new[1]:
        raise UsageError(f"'{new[0]}' cannot be both the script and the table", "give --fix and --labels-out two names")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def _write(name: str, data: bytes, said: str) -> None:
    from capture_cli.errors import CaptureError
    from capture_cli.views.terminal.text import safe

    try:
        with Path(name).open("xb") as file:
            file.write(data)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaptureError(f"'{name}' cannot be written: {getattr(error, 'strerror', None) or error}") from error
    if said:
        typer.echo(safe(f"{name}: {said}"), err=True)
