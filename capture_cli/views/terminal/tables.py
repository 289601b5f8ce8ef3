"""Tables without lines. A terminal gets what fits; a pipe gets every row as one whole line of plain text.

rows = table_of([("file", "name"), ("loss", "#")], [[name, "0.31"]])
show([plain("a title", "bold"), "", rows], width=80)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from capture_cli.views.terminal.text import plain, safe, shorten

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_PIPE_WIDTH = 4096
"""Cells of a line that does not go to a terminal: every path fits."""
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_LEAST_CELLS = 10
"""A text that is shortened keeps so many cells."""


def new_table(*columns: tuple[str, str], header: bool = True) -> Table:
    """A table without lines. Each column has a heading and `#` (a number), `fold` or `name` (may be long) or a style.

    Names in cells must have gone through views.terminal.text.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)
    for name, kind in columns:
        if kind == "#":
            table.add_column(name, justify="right", no_wrap=True)
        else:
            is_long = kind in ("fold", "name")
            table.add_column(name, overflow="fold", style="" if is_long else kind, min_width=6 if is_long else None)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTable:
    """A table for Rich that fits into the width there is when it is printed. See `table_of`."""

    heads: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]
    caption: str
    header: bool
    least: Sequence[Sequence[str]]
    elsewhere: str

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the table, and a line that names the columns for which there is no room."""
        from rich.text import Text

        left, most = self._columns(options.max_width)
        heads = [self.heads[at] for at in left]
        table = new_table(*heads, header=self.header)
        long = [at for at in left if self.heads[at][1] == "name"] if isfinite(most) else []
        for column, at in zip(table.columns, left, strict=True):
            column.max_width = int(most) if at in long else None
        for row in self.rows:
            short = dict(zip(long, _shortened([row[at] for at in long], int(most)), strict=True)) if long else {}
            table.add_row(*(Text(short[at]) if at in short else plain(row[at]) for at in left))
        if self.caption:
            table.caption, table.caption_justify = self.caption, "left"
        yield table
        if dropped := [name for at, (name, _) in enumerate(self.heads) if at not in left]:
            yield plain(f"no room for {', '.join(dropped)}{self.elsewhere}", "dim")

    def _columns(self, width: int) -> tuple[Sequence[int], float]:
        """Return the places of the columns that are shown, and the most cells that a name may have; inf: names stay whole."""
        left, wide = list(range(len(self.heads))), widths(self.heads, self.rows)
        for names in ((), *self.least):
            left = [at for at in left if self.heads[at][0] not in names]
            named = sorted(wide[at] for at in left if self.heads[at][1] == "name")
            most = _most_cells(named, width + 2 - sum(wide[at] for at in left) + sum(named))
            if most == inf or (most is not None and not any(self.heads[at][1] == "fold" for at in left)):
                return left, most
        return left, inf


def table_of(
    heads: Sequence[tuple[str, str]],
    rows: Iterable[Iterable[str]],
    *,
    more: int = 0,
    noun: str = "",
    header: bool = True,
    least: Sequence[Sequence[str]] = (),
    elsewhere: str = "",
) -> FittedTable:
    """A table of text, made safe here. A line below it says that `more` things, called `noun`, are not shown.

    In a narrow terminal texts of the kind `name` are shortened in the middle so that each row is one line, if that leaves
    _LEAST_CELLS of each; else, or where one of the kind `fold` is left, the columns with the headings in `least` are dropped,
    the first group first. A line names them, and says `elsewhere` where they are.
    """
    caption = f"and {more:,} more {noun}" if more > 0 else ""
    texts = [list(row) for row in rows]
    return FittedTable(heads=heads, rows=texts, caption=caption, header=header, least=least, elsewhere=elsewhere)


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


def _most_cells(names: Sequence[int], room: int) -> float | None:
    """The most cells that a name may have, of columns so wide, in ascending order; inf if all fit, None if they never do."""
    if sum(names) <= room:
        return inf
    for at, cells in enumerate(names):  # the shorter columns stay whole
        share = room // (len(names) - at)
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
    table = new_table(*(heads[at] for at in left))
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(*(plain(row[at]) for at in left))
    if more > 0:
        table.caption, table.caption_justify = f"and {more:,} more {noun}", "left"
    return [table, *([plain(f"no room for {', '.join(dropped)}", "dim")] if dropped else [])]


def number(value: float) -> str:
    """Format a loss or a probability with three decimals, in at most six characters; tiny and huge ones as a magnitude."""
    if not isfinite(value):
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
