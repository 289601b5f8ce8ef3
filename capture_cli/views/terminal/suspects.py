"""Suspects for a terminal, and as CSV.

show_suspects(found, found.suspects[:20], width=80, pictures=pictures)
write_csv(found.suspects, sys.stdout)
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from capture_cli.answers.suspects import COLUMNS, Suspect, Suspects
from capture_cli.views.terminal.scores import gallery
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.table import Table

    from capture_cli.views.pictures import Picture


def show_suspects(
    found: Suspects,
    rows: Sequence[Suspect],
    *,
    width: int | None = None,
    pictures: Sequence[Picture | None] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print how many labels are probably wrong, and `rows` as a table.

    `width` is that of the terminal, None for a pipe; `pictures` are of the rows, `notes` say why some are missing.
    """
    parts: list[Any] = [plain(_sentence(found), "bold")]
    parts += [plain(f"{phase.phase}: {note}", "dim") for phase in found.phases for note in phase.notes]
    captions = [(f"{rank} {one.label}", f"-> {one.suggested}") for rank, one in enumerate(rows, 1)]
    parts += ["", *gallery(zip(pictures, captions, strict=False), width), *(plain(note, "dim") for note in notes)]
    show([*parts, _table(rows) if rows else plain("no samples to show")], width=width)


def write_csv(rows: Sequence[Suspect], out: TextIO) -> None:
    """Write rows with a header, in the columns of the JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in rows:
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in one.to_json().values()])


def _table(rows: Sequence[Suspect]) -> Table:
    heads = ("file", "label", "suggested")
    table = new_table(("", "#"), *((head, "fold") for head in heads), ("p(wrong)", "#"), ("flag", ""), ("reason", "fold"))
    for rank, one in enumerate(rows, 1):
        p = "-" if one.p_wrong is None else f"{one.p_wrong:.3f}"
        names = (plain(text) for text in (one.file, one.label, one.suggested))
        table.add_row(f"{rank}", *names, p, "wrong" if one.flagged else "", plain(one.reason))
    return table


def _sentence(found: Suspects) -> str:
    samples = sum(phase.samples for phase in found.phases)
    if found.expected is None:
        return f"{samples:,} samples, those with the lowest mean margin first; too few epochs to tell how many labels are wrong"
    flagged = sum(one.flagged for one in found.suspects)
    about = f"about {found.expected:,.0f} of {samples:,} labels are probably wrong ({found.low:,.0f} to {found.high:,.0f})"
    return f"{about}; {flagged:,} flagged"
