"""Suspects for a terminal, and as CSV.

show_suspects(found, found.suspects[:20])
write_csv(found.suspects, sys.stdout)
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from capture_cli.answers.suspects import COLUMNS, Suspect, Suspects
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType


def show_suspects(found: Suspects, rows: Sequence[Suspect]) -> None:
    """Print what was found on stdout, and `rows` of it as a table."""
    parts: list[RenderableType] = [plain(_sentence(found), "bold")]
    parts += [plain(f"{phase.phase}: {note}", "dim") for phase in found.phases for note in phase.notes]
    heads = ("file", "label", "suggested")
    table = new_table(("", "#"), *((head, "fold") for head in heads), ("p(wrong)", "#"), ("flag", ""), ("reason", "fold"))
    for place, one in enumerate(rows, 1):
        p = "-" if one.p_wrong is None else f"{one.p_wrong:.3f}"
        names = (plain(text) for text in (one.file, one.label, one.suggested))
        table.add_row(f"{place}", *names, p, "wrong" if one.flagged else "", plain(one.reason))
    show([*parts, plain(""), table if rows else plain("no samples to show")])


def write_csv(rows: Sequence[Suspect], out: TextIO) -> None:
    """Write rows with a header, in the columns of the JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in rows:
        writer.writerow([value if not isinstance(value, bool) else str(value).lower() for value in one.to_json().values()])


def _sentence(found: Suspects) -> str:
    samples = sum(phase.samples for phase in found.phases)
    if found.expected is None:
        return f"{samples:,} samples, those with the lowest mean margin first; too few epochs to tell how many labels are wrong"
    flagged = sum(phase.flagged for phase in found.phases)
    about = f"about {found.expected:,.0f} of {samples:,} labels are probably wrong ({found.low:,.0f} to {found.high:,.0f})"
    return f"{about}; {flagged:,} flagged"
