"""Tables without lines, printed so that a pipe gets whole lines of plain text and a terminal gets what fits.

    rows = new_table(("file", "fold"), ("loss", "#"))
    rows.add_row(plain(name), "0.31")
    show([plain("a title", "bold"), "", rows])

Whoever makes the cells sends names through views.text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_WIDE = 4096
"""Cells of a line that goes to no terminal: every path fits."""


def new_table(*columns: tuple[str, str], header: bool = True) -> Table:
    """A table without lines; each column with its heading and `#` (a number), `fold` (may be long) or a style."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)
    for name, kind in columns:
        if kind == "#":
            made.add_column(name, justify="right", no_wrap=True)
        else:
            made.add_column(
                name, overflow="fold", style="" if kind == "fold" else kind, min_width=6 if kind == "fold" else None
            )
    return made


def stdout_console() -> Console:
    """Of stdout: as wide as the terminal, or so wide that nothing folds."""
    from rich.console import Console

    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def show(parts: Sequence[RenderableType]) -> None:
    """Print on stdout, one below the other; text is shown as it is, and only the terminal breaks it."""
    out = stdout_console()
    with out.capture() as captured:
        for part in parts:
            if isinstance(part, str):  # such as a command: a break of ours would be copied with it
                out.print(plain(part), soft_wrap=True)
            else:
                out.print(part)
    # Written here, not by Rich: where the reader has gone, Rich ends the process with exit code 1.
    sys.stdout.write("".join(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines()))
