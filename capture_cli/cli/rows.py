"""`capture rows RUN`: one flat row per sample and visit, for jq, DuckDB, pandas and spreadsheets."""

from typing import Annotated

import typer


def rows(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, .jsonl file, or - for stdin.", show_default=False)],
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="Only rows for which this holds, as in \"not correct and phase = 'val'\"."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these columns, in this order.", show_default="all")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="Stop after so many rows.", show_default="all")] = None,
    style: Annotated[str, typer.Option("--format", metavar="jsonl|csv", help="What a row looks like.")] = "jsonl",
) -> int:
    """Write one flat row per sample and visit to stdout.

    Columns: phase, epoch, batch, step, id, file, label, pred, correct, p_label,
    p_pred, margin, loss_nats. Label and pred are class names, p_label and p_pred
    their probabilities. Loss and margin are in nats; the margin is the logit of
    the label less the highest logit of another class (ln p_label - ln p_other,
    with p_other at least 1.4e-45): positive where the prediction is right, near
    0 where it is a toss-up, null where it cannot be known.

    Rows come as soon as their batch has arrived, so a run that is still going
    can be piped in. A condition is asked of each row by itself. A record that
    does not verify ends the rows with exit code 4.
    """
    import sys

    from capture_cli.answers.rows import rows
    from capture_cli.reader import open_run
    from capture_cli.views.text import safe

    chosen = None if columns is None else [name.strip() for name in columns.split(",")]
    with open_run(run) as reading:
        for block in rows(reading, where=where, columns=chosen, limit=limit, style=style):
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
        error = reading.ending.error(reading.name)
        if error:
            raise error
        if reading.ending.state in ("torn", "unsealed") and limit is None:
            typer.echo(safe(f"{reading.name}: {reading.ending.sentence}"), err=True)
    return 0
