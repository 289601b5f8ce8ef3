"""`capture runs`: runs side by side, as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from capture_cli.runs.listing import ListedRun
from capture_cli.runs.names import more_runs, origin_of
from capture_cli.views.csv_lines import CsvLines
from capture_cli.views.terminal.cache import size
from capture_cli.views.terminal.tables import number, show, unbroken_table
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_OPTIONS = 6
"""Options with a column of their own, at most."""
_KINDS = {"": "dim", "epoch": "#", "size": "#"}
"""The styles of columns."""
_FIRST = ("", "run", "best accuracy", "epoch", "model")
_LAST = ("written", "size", "state")
"""The headings before and after the options that differ."""
_LEAST = ("size", "written")
"""Headings of columns that are dropped where there is no room, the first one first; then options, the last one first, ..."""
_MORE = ("model", "epoch", "state", "best accuracy")
"""... and these."""


def show_runs(
    runs: Sequence[ListedRun],
    *,
    where: str,
    places: Sequence[int],
    options: Sequence[str],
    columns: Sequence[str] | None = None,
    folders: Sequence[Path] = (),
    more: Sequence[ListedRun] = (),
    now: float,
    width: int | None = None,
) -> None:
    """Print the runs, in this order, on stdout.

    `places` are their numbers for `@N` (0: none), `options` the names of those that differ, `columns` those of
    `ListedRun.row` to show instead, `folders` hold further runs, and those of `more` are only counted. `width` is that of the
    terminal in cells, None for a pipe.
    """
    every = [*runs, *more]
    title = f"{where}: {len(every):,} run{'' if len(every) == 1 else 's'}, {size(sum(run.size for run in every))}"
    if columns is not None:
        rows = [{name: _value(name, value) for name, value in run.row(now).items()} for run in runs]
        heads, least = list(columns), tuple[str, ...]()
    else:
        rows = [_row(run, place, now) for run, place in zip(runs, places, strict=True)]
        of_all = {"model": {_model(run) for run in every}, "state": {_state(run) for run in every}}
        same = {name: next(iter(values)) for name, values in of_all.items() if len(every) > 1 and len(values) == 1}
        title = f"{title}; all {', '.join(filter(None, same.values()))}" if any(same.values()) else title
        shown = options[:_MAX_OPTIONS]
        heads = [head for head in (*_FIRST, *shown, *_LAST) if head not in same]
        least = (*_LEAST, *reversed(shown), *_MORE)
    cells = [[row.get(head, "") for head in heads] for row in rows]
    kinds = [(head, _KINDS.get(head, "")) for head in heads]
    table = unbroken_table(kinds, cells, width=width, least=least, more=len(more), noun="runs")
    parts: list[RenderableType] = [plain(title, "bold"), "", *table]
    if columns is None and len(options) > _MAX_OPTIONS:
        parts.append(plain(f"also different (--columns): {', '.join(options[_MAX_OPTIONS:])}", "dim"))
    if any(run.epochs_omitted for run in runs):
        parts.append(plain(f"*: of the last epochs in {size(8 << 20)} of records; `capture inspect RUN` reads all", "dim"))
    parts += [plain(more_runs([folder]), "dim") for folder in folders]
    show(parts, width=width)


def _value(column: str, value: Any) -> str:
    """The value of a column that was asked for."""
    if value is None:
        return ""
    if column == "age":
        return age(value)
    if column == "bytes":
        return size(value)
    return number(value) if column in ("accuracy", "loss") else _text(value)


def _row(run: ListedRun, place: int, now: float) -> dict[str, str]:
    best = run.best
    found = epoch = ""
    if best and (best.accuracy is not None or isfinite(best.loss)):
        value = f"{best.accuracy:.3f}" if best.accuracy is not None else f"loss {number(best.loss)}"
        found, epoch = f"{value}{'*' if run.epochs_omitted else ''} {best.phase}", f"{best.epoch}"
    name = f"@{place}" if place else ""
    own = {"": name, "run": run.name, "best accuracy": found, "epoch": epoch, "written": age(now - run.written)}
    own |= {"model": _model(run), "size": size(run.size), "state": _state(run)}
    return {**{name: _text(value) for name, value in run.options.items()}, **own}


def _model(run: ListedRun) -> str:
    """The model, and of an evaluation or a prediction the run that it is of."""
    origin = origin_of(run.info.model) if run.info else ""
    return f"{run.model} of {origin}" if origin else run.model


def _state(run: ListedRun) -> str:
    if run.state == "completed":
        return f"{run.state}, {run.options.get('folds')} folds" if run.folds else run.state
    planned = f" of {run.planned_epochs}" if run.planned_epochs else ""
    if run.folds and not run.problem:
        return f"{run.state}, {run.folds}"
    progress = f", epoch {run.last_epoch or 0}{planned}" if planned or run.last_epoch is not None else ""
    return f"{run.state}: {run.problem}" if run.problem else f"{run.state}{progress}"


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def age(seconds: float) -> str:
    """Write the time since something in one unit: `5 min ago`."""
    for unit, length, until in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 24)):
        if seconds < length * until:
            return f"{max(0, int(seconds / length))} {unit} ago"
    days = int(seconds / 86400)
    return f"{days} day{'' if days == 1 else 's'} ago"


def to_json(runs: Sequence[ListedRun], *, options: Sequence[str]) -> str:
    """Encode the same as one JSON object."""
    return json.dumps({"runs": [run.to_json() for run in runs], "differing_options": list(options)})


def write_csv(runs: Sequence[ListedRun], out: TextIO, *, columns: Sequence[str], now: float) -> None:
    """Write these columns of `ListedRun.row` with a header. What is not known is empty; a list or an object is JSON."""
    writer = csv.writer(CsvLines(out))
    writer.writerow(columns)
    for row in (run.row(now) for run in runs):
        writer.writerow([_text(row.get(name)) for name in columns])
