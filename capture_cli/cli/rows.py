"""`capture rows RUN`: one flat row per sample and visit, for jq, DuckDB, pandas and spreadsheets."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run


def rows(
    run: RunArgument,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="Keep only rows that fulfil this SQL condition: \"not correct and phase = 'val'\"."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Write only these columns, in this order.", show_default="all")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="Stop after N rows.", show_default="all")] = None,
    style: Annotated[str, typer.Option("--format", metavar="jsonl|csv|parquet", help="Output format.")] = "jsonl",
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="Write to a new file.", show_default="stdout")
    ] = None,
) -> int:
    """Write one flat row per sample and visit to stdout.

    Columns: phase, epoch, batch, step, id, file, label, pred, correct, p_label,
    p_pred, margin, loss_nats. Label and pred are class names, p_label and p_pred
    their probabilities; file is the id if samples have no files. Loss and margin
    are in nats. The margin is the logit of the label less the highest logit of
    another class (ln p_label - ln p_other, with p_other at least 1.4e-45):
    positive where the prediction is right, near 0 where it is a toss-up, null
    where it is not known.

    Sequences have a row for each position, with its place in the column position.
    Multi-label and regression runs have targets, outputs, correct and loss after
    file. Values passed to a recorder as `extra=` are in the JSON column extra.

    Rows come as soon as their batch has arrived, so a run in progress can be
    piped in. The condition sees one row at a time. A record that does not verify
    ends the rows with exit code 4.
    """
    from capture_cli.tables.rows import rows
    from capture_cli.views.terminal.text import safe

    chosen = None if columns is None else [name.strip() for name in columns.split(",")]
    with open_run(run) as records:
        blocks = rows(records, where=where, columns=chosen, limit=limit, style="jsonl" if style == "parquet" else style)
        with _opened(out, spooled=style == "parquet") as file:
            if style == "parquet":
                from capture_cli.tables.parquet import write_parquet

                write_parquet(blocks, file, columns=chosen)
            else:
                for block in blocks:
                    file.write(block)
                    file.flush()
        if error := records.error():
            raise error
        if records.ending.state in ("torn", "unsealed") and limit is None:
            typer.echo(safe(f"{records.name}: {records.ending.sentence}"), err=True)
    return 0


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
