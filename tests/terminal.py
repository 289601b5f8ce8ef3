"""A terminal for tests: it understands the few sequences that our views may send, and fails at any other.

screen = Screen(columns=80)
screen.feed(data)
screen.lines                # what can be read, from the first line ever written to the last
"""

import re

from rich.cells import cell_len

_TOKEN = re.compile(
    r"\x1b\[(?P<up>\d+)A|(?P<erase_line>\x1b\[K)|(?P<erase_below>\x1b\[J)|\x1b\[(?P<style>[\d;]*)m|(?P<char>.)", re.DOTALL
)


class Screen:
    """Any number of lines of cells; columns are checked, not wrapped."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.styles: set[str] = set()
        """Every style that was switched on, as the numbers between `ESC [` and `m`."""
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def lines(self) -> list[str]:
        """The text on the screen; the last line is that of the cursor, even if it is empty."""
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    @property
    def cursor(self) -> tuple[int, int]:
        """(line, column), counted from 0."""
        return self._row, self._column

    def feed(self, data: str) -> None:
        """Process the output of a program."""
        for token in _TOKEN.finditer(data):
            if token["up"]:
                self._row = max(0, self._row - int(token["up"]))
            elif token["erase_line"]:
                del self._rows[self._row][self._column :]
            elif token["erase_below"]:
                del self._rows[self._row][self._column :]
                del self._rows[self._row + 1 :]
            elif token["style"] is not None:
                self.styles.add(token["style"])
            else:
                self._put(token["char"])

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._row += 1
            self._column = 0
            if self._row == len(self._rows):
                self._rows.append([])
        else:
            assert char.isprintable(), f"{char!r} reached the terminal after {self.lines[-1]!r}"
            row = self._rows[self._row]
            row += [" "] * (self._column + 1 - len(row))
            row[self._column] = char
            width = cell_len(char)
            row[self._column + 1 : self._column + width] = [""] * (width - 1)
            self._column += width
            assert self._column < self.columns, f"a line as wide as the terminal: {''.join(row)!r}"
