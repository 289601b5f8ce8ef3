"""`capture rows RUN`: one flat row per sample and visit, for jq, DuckDB, pandas and spreadsheets."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run


def rows(
    run: RunArgument,
    per: Annotated[
        str,
        typer.Option(
            metavar="visit|sample|class|epoch", help="One row per visit, or what sums up a sample, a class or an epoch."
        ),
    ] = "visit",
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="Keep only rows that fulfil this SQL condition: \"not correct and phase = 'val'\"."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Write only these columns, in this order.", show_default="all")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="Stop after N rows.", show_default="all")] = None,
    style: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="jsonl|csv|parquet", help="Output format.", show_default="by the name of --out, else jsonl"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl: one JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The same as --format csv.")] = False,
    as_parquet: Annotated[bool, typer.Option("--parquet", help="The same as --format parquet.")] = False,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="Write to a new file.", show_default="stdout")
    ] = None,
) -> int:
    """Write one flat row per sample and visit to stdout.

    Columns of visits: phase, epoch, batch, step, id, file, label, pred, correct, p_label,
    p_pred, margin, loss_nats. Label and pred are class names, p_label and p_pred
    their probabilities; file is the id if samples have no files. Loss and margin
    are in nats; loss is another name for loss_nats. The margin is the logit of the label less the highest logit of
    another class (ln p_label - ln p_other, with p_other at least 1.4e-45):
    positive where the prediction is right, near 0 where it is a toss-up, null
    where it is not known.

    Sequences have a row for each position, with its place in the column position.
    Multi-label and regression runs have targets, outputs, correct and loss after
    file; segmentation runs the pixels counted and ignored, accuracy, mean_iou and
    loss; runs of losses alone loss and batch_loss. Numbers that a recorder was
    given by name are columns. Values passed to a recorder as `extra=` are in the JSON column extra.

    Runs with folds have the number of the training in the first column, fold.

    `--per sample` has one row per sample and phase, its training dynamics: visits,
    aum (mean margin, nats), confidence (mean p_label), variability (its standard
    deviation), correctness (share of visits that were right), forgetting (times it
    was right and then wrong), first_learned and learned (the first epoch that was
    right, and since which all were), mean_loss, el2n, entropy, mean_pred and
    p_mean_pred (the class with the highest mean probability); mean_probs, a list,
    only if it is named in --columns. `--per class` has one row per class, epoch and
    phase: n, correct, predicted, recall, precision, f1, loss_nats, p_label.
    `--per epoch` has one row per epoch and phase: the same over all classes,
    balanced_accuracy, macro_f1, p_pred, ece (over 15 bins), captured, not_captured.
    Of a phase that was captured in part, counts, accuracies, F1 and the loss of an
    epoch are over all its samples, or null where its totals do not tell them; in
    `train`, the rows of classes are of the captured samples. All else is, too.

    Rows come as soon as their batch has arrived, so a run in progress can be
    piped in. The condition sees one row at a time. A record that does not verify
    ends the rows with exit code 4.
    """
    from capture_cli.tables.grouped import grouped_rows, types_of
    from capture_cli.tables.rows import rows
    from capture_cli.views.terminal.text import safe

    style = _chosen_style(style, out, {"json": as_json, "csv": as_csv, "parquet": as_parquet})
    text_style = "jsonl" if style == "parquet" else style
    chosen = None if columns is None else [name.strip() for name in columns.split(",")]
    if per != "visit":
        types_of(per)
    with open_run(run) as records:
        types = None if per == "visit" else types_of(per, chosen, records.info)
        if types is None:
            blocks = rows(records, where=where, columns=chosen, limit=limit, style=text_style)
        else:
            blocks = grouped_rows(records, per=per, where=where, columns=chosen, limit=limit, style=text_style)
        with _opened(out, spooled=style == "parquet") as file:
            if style == "parquet":
                from capture_cli.tables.parquet import write_parquet

                write_parquet(blocks, file, columns=list(types) if types else chosen, types=types)
            else:
                for block in blocks:
                    file.write(block)
                    file.flush()
        if error := records.error():
            raise error
        if records.ending.state in ("torn", "unsealed") and limit is None:
            typer.echo(safe(f"{records.name}: {records.ending.sentence}"), err=True)
    return 0


_OF_NAME = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
"""The format that the name of a file stands for."""


def _chosen_style(style: str | None, out: str | None, flags: Mapping[str, bool]) -> str:
    """Return the format that the options ask for, else that of the name of the file. Raises UsageError for a contradiction."""
    from capture_cli.errors import UsageError

    given = [name for name, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} both choose the output format", "give one of them")
    asked = _OF_NAME[f".{given[0]}"] if given else style
    if style is not None and asked != style:
        raise UsageError(f"--format {style} and --{given[0]} both choose the output format", "give one of them")
    if asked not in (None, *_OF_NAME.values()):
        raise UsageError(f"no such format: '{asked}'", "choose jsonl, csv or parquet")
    suffix = (Path(out or "").suffix or Path(out or "").name).lower()  # a name may be an extension alone, such as .csv
    if suffix in (".gz", ".zst", ".xz", ".bz2"):
        raise UsageError(f"rows are not compressed, as the name '{out}' says", f"capture rows RUN | gzip > {out}")
    named = _OF_NAME.get(suffix)
    if asked and named and asked != named:
        raise UsageError(f"the format {asked} and the name '{out}' contradict each other", "give one of them, or another name")
    return asked or named or "jsonl"


@contextmanager
def _opened(out: str | None, *, spooled: bool) -> Iterator[IO[bytes]]:
    """The new file `out`, removed again if it cannot be written, or stdout. With `spooled` it can be sought in either way."""
    import shutil
    import sys
    import tempfile

    from capture_cli.errors import CaptureError, RecordsError, UsageError

    if out in (None, "-"):
        if not spooled:
            yield sys.stdout.buffer
            return
        if sys.stdout.isatty():
            raise UsageError("Parquet is binary and stdout is a terminal", "use --out FILE, or pipe it")
        with tempfile.TemporaryFile() as whole:
            try:
                yield whole
            finally:
                whole.seek(0)
                shutil.copyfileobj(whole, sys.stdout.buffer)
                sys.stdout.buffer.flush()
        return
    try:
        with Path(out).open("xb") as file:
            try:
                yield file
            except RecordsError:  # the rows before the damage stay
                raise
            except BaseException:
                Path(out).unlink()
                raise
    except FileExistsError as error:
        raise UsageError(f"'{out}' exists", "name a new file with --out") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaptureError(f"'{out}' cannot be written: {getattr(error, 'strerror', None) or error}") from error
