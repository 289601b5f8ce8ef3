"""The last lines of a terminal, redrawn in place, with ordinary output going on above them.

    area = Area(console)
    area.draw(body)                     # as often as one likes; each time one write to the terminal
    area.draw(body, above=[line])       # `line` stays for good, above the area
    area.draw(None)                     # the area is gone, the cursor where it began

Why not rich.live.Live: it hides the cursor, which stays hidden when the process is killed; its thread competes with the
training for the interpreter; a terminal made narrower keeps its remains; at a broken pipe it redirects stdout and exits.
Here nothing of the terminal's state is ever changed: between two draws the cursor stands at the beginning of the line below
the area, so whatever ends the process, the shell goes on there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.segment import Segment, SegmentLines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

UP = "\x1b[{}A"
ERASE_TO_END_OF_LINE = "\x1b[K"
ERASE_BELOW = "\x1b[J"


class Area:
    """The lines at the end of what `console` writes to; nothing else writes there meanwhile."""

    def __init__(self, console: Console) -> None:
        self.gone = False
        """The terminal can no longer be written to."""
        self._console = console
        self._widths: list[int] = []
        """Cells of each line that was drawn last."""
        self._columns = 0
        """There were when it was drawn."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows there are to draw on, now. The last column stays free: a full line would wrap on some terminals."""
        size = self._console.size
        return max(1, size.width - 1), max(1, size.height - 1)

    def draw(self, body: RenderableType | None, *, above: Sequence[RenderableType] = ()) -> None:
        """Replace the area by `body`, cut to the terminal, after printing each of `above` where the area began."""
        if self.gone:
            return
        columns, rows = self.size
        printed = [line for one in above for line in self._lines(one, columns)]
        drawn = self._lines(body, columns)[:rows] if body is not None else []
        with self._console.capture() as shown:
            self._console.print(SegmentLines(printed + drawn, new_lines=True), end="")
        height = _height(self._widths, columns + 1)
        start = "\r" + (UP.format(height) if height else "")
        if columns != self._columns:
            start += ERASE_BELOW  # a terminal that has wrapped lines joins them again when it grows, unless they were erased
        self._write(start + shown.get().replace("\n", ERASE_TO_END_OF_LINE + "\n") + ERASE_BELOW)
        self._widths = [Segment.get_line_length(line) for line in drawn]
        self._columns = columns

    def _lines(self, one: RenderableType, columns: int) -> list[list[Segment]]:
        options = self._console.options.update(width=columns, height=None)
        lines = self._console.render_lines(one, options, pad=False)
        return [Segment.adjust_line_length(line, columns, pad=False) for line in lines]

    def _write(self, text: str) -> None:
        # Not through the console: at a broken pipe Rich points stdout, which carries records, at /dev/null and exits.
        try:
            self._console.file.write(text)
            self._console.file.flush()
        except OSError:  # nobody is looking any more, which is no reason to stop the work
            self.gone = True


def _height(widths: Sequence[int], columns: int) -> int:
    """Rows that lines of these widths take up once a terminal of `columns` has wrapped those that are too long for it."""
    return sum(max(1, -(-width // columns)) for width in widths)
