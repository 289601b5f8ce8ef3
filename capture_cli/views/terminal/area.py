"""The last lines of a terminal, redrawn in place, with ordinary output going on above them.

    area = Area(console)
    area.draw(body)                     # as often as one likes; each time one write to the terminal
    area.draw(body, above=[line])       # `line` stays for good, above the area
    area.draw(None)                     # the area is gone, the cursor where it began

Why not rich.live.Live: it hides the cursor, which stays hidden when the process is killed; its thread competes with the
training for the interpreter; and a terminal made narrower keeps its remains. Here nothing of the terminal's state is ever
changed: between two draws the cursor stands at the beginning of the line below the area, so whatever ends the process, the
shell goes on there.
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
        self._drawn: list[list[Segment]] = []
        """The lines of the area, as they stand on the terminal."""
        self._columns = 0
        """There were when they were drawn."""

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
        body_lines = self._lines(body, columns)[:rows] if body is not None else []
        height = _height(self._drawn, columns + 1)
        start = "\r" + (UP.format(height) if height else "")
        standing = self._drawn
        if columns != self._columns:
            start += ERASE_BELOW  # a terminal that has wrapped lines joins them again when it grows, unless they were erased
            standing = []
        self._write(start + self._changes(printed + body_lines, standing) + ERASE_BELOW)
        self._drawn, self._columns = body_lines, columns

    def _lines(self, one: RenderableType, columns: int) -> list[list[Segment]]:
        options = self._console.options.update(width=columns, height=None)
        lines = self._console.render_lines(one, options, pad=False)
        return [Segment.adjust_line_length(line, columns, pad=False) for line in lines]

    def _changes(self, lines: list[list[Segment]], standing: list[list[Segment]]) -> str:
        """What turns the lines that are standing, from the cursor down, into `lines`: pictures that stay cost nothing."""
        stays = [i < len(standing) and line == standing[i] for i, line in enumerate(lines)]
        with self._console.capture() as shown:
            changed = [line for line, same in zip(lines, stays, strict=True) if not same]
            self._console.print(SegmentLines(changed, new_lines=True), end="")
        rendered = iter(shown.get().split("\n"))
        return "".join("\n" if same else next(rendered) + ERASE_TO_END_OF_LINE + "\n" for same in stays)

    def _write(self, text: str) -> None:
        try:
            self._console.file.write(text)
            self._console.file.flush()
        except OSError:  # nobody is looking any more, which is no reason to stop the work
            self.gone = True


def _height(lines: list[list[Segment]], columns: int) -> int:
    """Rows that `lines` take up once a terminal of `columns` has wrapped those that are too long for it."""
    return sum(max(1, -(-Segment.get_line_length(line) // columns)) for line in lines)
