"""Tables without lines. A terminal gets what fits; a pipe gets every row as one whole line of plain text.

rows = table_of([("file", "fold"), ("loss", "#")], [[name, "0.31"]])
show([plain("a title", "bold"), "", rows], width=80)
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from capture_cli.views.terminal.text import plain, safe, shorten

if TYPE_CHECKING:
    from rich.table import Table

_PIPE_WIDTH = 4096
"""Cells of a line that does not go to a terminal: every path fits."""
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_LEAST_CELLS = 12
"""A text that is shortened keeps so many cells."""


def new_table(*columns: tuple[str, str], header: bool = True) -> Table:
    """A table without lines. Each column has a heading and `#` (a number), `fold` (may be long) or a style.

    Names in cells must have gone through views.terminal.text.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)
    for name, kind in columns:
        if kind == "#":
            table.add_column(name, justify="right", no_wrap=True)
        else:
            fold = kind == "fold"
            table.add_column(name, overflow="fold", style="" if fold else kind, min_width=6 if fold else None)
    return table


def table_of(
    heads: Sequence[tuple[str, str]],
    rows: Iterable[Iterable[str]],
    *,
    more: int = 0,
    noun: str = "",
    header: bool = True,
    width: int | None = None,
) -> Table:
    """A table of text, made safe here. A line below it says that `more` things, called `noun`, are not shown.

    With `width`, long texts in columns of the kind `fold` are shortened in the middle so that each row is one line of so many
    cells, if that leaves _LEAST_CELLS of each.
    """
    from rich.text import Text

    table = new_table(*heads, header=header)
    texts = [list(row) for row in rows]
    most = None if width is None else _most_cells(heads, texts, width)
    for row in texts:
        if most is None:
            table.add_row(*map(plain, row))
        else:
            long = [at for at, (_, kind) in enumerate(heads) if kind == "fold"]
            short = dict(zip(long, _shortened([row[at] for at in long], most), strict=True))
            table.add_row(*(Text(short[at]) if at in short else plain(text) for at, text in enumerate(row)))
    if more > 0:
        table.caption = f"and {more:,} more {noun}"
        table.caption_justify = "left"
    return table


def _shortened(texts: Sequence[str], most: int) -> list[str]:
    """Texts in at most so many cells each. Two that would look alike, such as label and prediction, lose their common end."""
    short = [shorten(text, most) for text in texts]
    shown = list(short)
    for at, text in enumerate(texts):
        for other, one in zip(texts, short, strict=True):
            if one == short[at] and other != text:
                same = takewhile(lambda pair: pair[0] == pair[1], zip(text[::-1], other[::-1], strict=False))
                shown[at] = f"{shorten(text[: len(text) - len(list(same))], most - 1)}…"
    return shown


def _most_cells(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], width: int) -> int | None:
    """The most cells that a text may have in a column of the kind `fold`; None if rows fit as they are, or never do."""
    wide = widths(heads, rows)
    room = width + 2 - sum(cells for cells, (_, kind) in zip(wide, heads, strict=True) if kind != "fold")
    long = sorted(cells for cells, (_, kind) in zip(wide, heads, strict=True) if kind == "fold")
    if sum(long) <= room:
        return None
    for at, cells in enumerate(long):  # the shorter columns stay whole
        share = room // (len(long) - at)
        if cells > share:
            return share - 2 if share - 2 >= _LEAST_CELLS else None
        room -= cells
    return None


def widths(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> list[int]:
    """The cells of each column with the blanks behind it."""
    from rich.cells import cell_len

    return [2 + max(cell_len(safe(text)) for text in (head, *(row[at] for row in rows))) for at, (head, _) in enumerate(heads)]


def unbroken_table(
    heads: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    least: Sequence[str],
    more: int = 0,
    noun: str = "",
) -> list[Any]:
    """A table whose cells are never broken, for `show`: a name must be whole to be copied.

    Columns with the headings in `least` are dropped, the first one first, until the others fit, and those for which there is
    room after all come back, the last one first; if the others never fit, each row is a line, which the terminal breaks.
    """
    left = dict(enumerate(widths(heads, rows)))
    without: dict[int, int] = {}
    for name in least:
        if width is None or sum(left.values()) - 2 <= width:
            break
        without |= {at: left.pop(at) for at in list(left) if heads[at][0] == name}
    for at in reversed(list(without)):
        if width is not None and sum(left.values()) + without[at] - 2 <= width:
            left[at] = without.pop(at)
    left = dict(sorted(left.items()))
    dropped = [heads[at][0] for at in without]
    if width is not None and sum(left.values()) - 2 > width:
        lines = ["  ".join(safe(row[at]) for at in left).strip() for row in rows]
        return [*lines, *([f"and {more:,} more {noun}"] if more > 0 else [])]
    table = table_of([heads[at] for at in left], ([row[at] for at in left] for row in rows), more=more, noun=noun)
    for column in table.columns:
        column.no_wrap = True
    return [table, *([plain(f"no room for {', '.join(dropped)}", "dim")] if dropped else [])]


def number(value: float) -> str:
    """Format a loss or a probability with three decimals, in at most six characters; tiny and huge ones as a magnitude."""
    if not math.isfinite(value):
        return str(float(value))
    if 0 < abs(value) < 0.0005 or abs(value) >= 99.9995:
        return f"{value:.0f}" if 99 < abs(value) < 99_999.5 else f"{value:.0e}"
    return f"{value:.3f}"


def number_or_dash(value: float | None) -> str:
    """A loss or a probability, `-` for None."""
    return "-" if value is None else number(value)


def show(parts: Sequence[Any], *, width: int | None = None) -> None:
    """Print Rich renderables on stdout. `width` is that of the terminal in cells, None for a pipe.

    A plain string, such as a command, is printed as it is: only the terminal breaks it, so that it can be copied.
    """
    from rich.console import Console

    console = Console(
        file=sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=width is not None,
        width=width or _PIPE_WIDTH,
    )
    with console.capture() as captured:
        for part in parts:
            if isinstance(part, str):
                console.print(plain(part), soft_wrap=True)
            else:
                console.print(part)
    # Not written by Rich, which ends the process with exit code 1 if the reader has gone.
    sys.stdout.write("".join(f"{_without_blanks(line)}\n" for line in captured.get().splitlines()))


def _without_blanks(line: str) -> str:
    """Take the blanks off the end of a line, also those inside a style."""
    parts = _STYLE.split(line)  # text and styles in turn
    for at in range(len(parts) - 1, -1, -2):
        parts[at] = parts[at].rstrip(" ")
        if parts[at]:
            break
    return "".join(parts)
