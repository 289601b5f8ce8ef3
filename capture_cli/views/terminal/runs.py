"""`capture runs`: runs side by side, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture_cli.runs.listing import ListedRun
from capture_cli.runs.names import origin_of
from capture_cli.views.terminal.cache import size
from capture_cli.views.terminal.tables import number, show, unbroken_table
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_OPTIONS = 6
"""Options with a column of their own, at most."""
_HEADS = [
    ("", "dim"),
    ("run", ""),
    ("written", ""),
    ("model", ""),
    ("best accuracy", ""),
    ("epoch", "#"),
    ("size", "#"),
    ("state", ""),
]
"""Columns without those of the options, which come before the last two."""
_LEAST = ("size", "model", "written", "epoch", "state", "best accuracy")
"""Headings of columns that are dropped where there is no room, the first one first."""


def show_runs(
    runs: Sequence[ListedRun],
    *,
    where: str,
    places: Sequence[int],
    options: Sequence[str],
    folders: Sequence[Path] = (),
    more: Sequence[ListedRun] = (),
    now: float,
    width: int | None = None,
) -> None:
    """Print the runs, in this order, on stdout.

    `places` are their numbers for `@N` (0: none), `options` the names of those that differ, `folders` hold further runs, and
    those of `more` are only counted. `width` is that of the terminal in cells, None for a pipe.
    """
    rows = [_row(run, place, now) for run, place in zip(runs, places, strict=True)]
    values = {name: [_text(run.options.get(name)) for run in runs] for name in options[:_MAX_OPTIONS]}
    shown = _fitting(values, rows, width)
    heads = [*_HEADS[:-2], *((name, "") for name in shown), *_HEADS[-2:]]
    cells = [[*row[:-2], *(values[name][at] for name in shown), *row[-2:]] for at, row in enumerate(rows)]
    table = unbroken_table(heads, cells, width=width, least=_LEAST, more=len(more), noun="runs")
    every = [*runs, *more]
    count = f"{len(every):,} run{'' if len(every) == 1 else 's'}"
    parts: list[RenderableType] = [plain(f"{where}: {count}, {size(sum(run.size for run in every))}", "bold"), "", *table]
    if len(options) > len(shown):
        parts.append(plain(f"also different (--json): {', '.join(name for name in options if name not in shown)}", "dim"))
    if any(run.epochs_omitted for run in runs):
        parts.append(plain(f"*: of the last epochs in {size(8 << 20)} of records; `capture inspect RUN` reads all", "dim"))
    parts += [plain(f"more runs in {folder}: capture runs {folder}", "dim") for folder in folders]
    show(parts, width=width)


def _fitting(values: Mapping[str, Sequence[str]], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The first of the options whose columns fit beside the others."""
    if width is None:
        return list(values)
    left = width + 2
    for at, (head, _) in enumerate(_HEADS):
        left -= 2 + max(map(len, (head, *(row[at] for row in rows))))
    shown = []
    for name, texts in values.items():
        left -= 2 + max(map(len, (name, *texts)))
        if left < 0:
            break
        shown.append(name)
    return shown


def _row(run: ListedRun, place: int, now: float) -> list[str]:
    best = run.best
    found = epoch = ""
    if best and (best.accuracy is not None or isfinite(best.loss)):
        value = f"{best.accuracy:.3f}" if best.accuracy is not None else f"loss {number(best.loss)}"
        found, epoch = f"{value}{'*' if run.epochs_omitted else ''} {best.phase}", f"{best.epoch}"
    name = f"@{place}" if place else ""
    origin = origin_of(run.info.model) if run.info else ""
    model = f"{run.model} of {origin}" if origin else run.model
    return [name, run.name, age(now - run.written), model, found, epoch, size(run.size), _state(run)]


def _state(run: ListedRun) -> str:
    if run.state == "completed":
        return f"{run.state}, {run.options.get('folds')} folds" if run.folds else run.state
    planned = f" of {run.planned_epochs}" if run.planned_epochs else ""
    if run.folds and not run.problem:
        return f"{run.state}, {run.folds}"
    progress = f", epoch {run.last_epoch or 0}{planned}" if planned or run.last_epoch else ""
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
