"""The last lines of a terminal, redrawn in place, with ordinary output above them.

    area = Area(console)
    area.draw(body)                     # one write to the terminal each time
    area.draw(body, above=[line])       # `line` stays for good, above the area
    area.draw(None)                     # removes the area

rich.live.Live would not do: it hides the cursor, which stays hidden when the process is killed; its thread competes with the
training for the interpreter; and it leaves remains when the terminal becomes narrower. Here the state of the terminal never
changes. Between two draws the cursor is at the start of the line below the area: whatever ends the process, the shell
continues there.
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
    """The area at the end of the terminal of `console`; nothing else may write there meanwhile."""

    def __init__(self, console: Console) -> None:
        self.gone = False
        """The terminal can no longer be written to."""
        self._console = console
        self._drawn: list[list[Segment]] = []
        """The lines of the area that are on the terminal."""
        self._columns = 0
        """Columns of the terminal when they were drawn."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows to draw on, now. The last column stays free: a full line wraps on some terminals."""
        size = self._console.size
        return max(1, size.width - 1), max(1, size.height - 1)

    def draw(self, body: RenderableType | None, *, above: Sequence[RenderableType] = ()) -> None:
        """Print the lines of `above` where the area began, then draw `body` below them, cut to the terminal."""
        if self.gone:
            return
        columns, rows = self.size
        printed = [line for one in above for line in self._lines(one, columns)]
        body_lines = self._lines(body, columns)[:rows] if body is not None else []
        height = _height(self._drawn, columns + 1)
        start = "\r" + (UP.format(height) if height else "")
        on_screen = self._drawn
        if columns != self._columns:
            start += ERASE_BELOW  # a terminal that grows joins the lines it had wrapped, unless they were erased
            on_screen = []
        try:  # Rich writes too, though nothing
            self._console.file.write(start + self._changes(printed + body_lines, on_screen) + ERASE_BELOW)
            self._console.file.flush()
        except (OSError, ValueError):  # the terminal is gone or closed, which is no reason to stop the training
            self.gone = True
        self._drawn, self._columns = body_lines, columns

    def _lines(self, one: RenderableType, columns: int) -> list[list[Segment]]:
        options = self._console.options.update(width=columns, height=None)
        lines = self._console.render_lines(one, options, pad=False)
        return [Segment.adjust_line_length(line, columns, pad=False) for line in lines]

    def _changes(self, lines: list[list[Segment]], on_screen: list[list[Segment]]) -> str:
        """Return what turns the lines on screen, from the cursor down, into `lines`; unchanged pictures cost nothing."""
        stays = [i < len(on_screen) and line == on_screen[i] for i, line in enumerate(lines)]
        with self._console.capture() as shown:
            changed = [line for line, same in zip(lines, stays, strict=True) if not same]
            self._console.print(SegmentLines(changed, new_lines=True), end="")
        rendered = iter(shown.get().split("\n"))
        return "".join("\n" if same else next(rendered) + ERASE_TO_END_OF_LINE + "\n" for same in stays)


def _height(lines: list[list[Segment]], columns: int) -> int:
    """Return the rows that `lines` take up on a terminal of `columns`, which wraps those that are too long."""
    return sum(max(1, -(-Segment.get_line_length(line) // columns)) for line in lines)
