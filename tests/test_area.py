"""capture_cli.views.terminal.area: lines redrawn in place, and nothing else touched."""

import errno
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from capture_cli.views.terminal.area import Area
from terminal import Screen


class Terminal(io.StringIO):
    """A terminal in memory and its screen."""

    def __init__(self, columns: int = 40, rows: int = 10) -> None:
        super().__init__()
        self.console = Console(file=self, force_terminal=True, width=columns, height=rows, color_system=None)
        self.area = Area(self.console)

    @property
    def screen(self) -> Screen:
        """The screen after all output."""
        screen = Screen(self.console.width)
        screen.feed(self.getvalue())
        return screen


def test_the_area_is_redrawn_in_place() -> None:
    """A shorter or longer body replaces the one before it."""
    terminal = Terminal()
    for body in ("one\ntwo\nthree", "1", "a\nb"):
        terminal.area.draw(Text(body))
    assert terminal.screen.lines == ["a", "b", ""]


def test_lines_above_the_area_stay() -> None:
    """In order, between earlier output and the area."""
    terminal = Terminal()
    terminal.area.draw(Text("body"), above=[Text("first"), Text("second")])
    terminal.area.draw(Text("body 2"), above=[Text("third")])
    assert terminal.screen.lines == ["first", "second", "third", "body 2", ""]


def test_unchanged_lines_are_not_written_again() -> None:
    """Pictures are long: unchanged ones are not sent again."""
    terminal = Terminal()
    terminal.area.draw(Text("1 %\npicture\nmore"))
    before = len(terminal.getvalue())
    terminal.area.draw(Text("2 %\npicture\nmore"))
    assert "2 %" in terminal.getvalue()[before:]
    assert "picture" not in terminal.getvalue()[before:]
    assert terminal.screen.lines == ["2 %", "picture", "more", ""]


@given(
    st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=3), st.lists(st.sampled_from(["", "x", "yy"]), max_size=6)))
)
def test_any_sequence_of_draws(draws: list[tuple[list[str], list[str]]]) -> None:
    """All lines printed above, in order, then the last body."""
    terminal, printed, body = Terminal(), [], []
    for above, body in draws:
        terminal.area.draw(Text("\n".join(body)) if body else None, above=[Text(line) for line in above])
        printed += above
    assert terminal.screen.lines == [*printed, *body, ""]


def test_without_a_body_the_area_is_removed() -> None:
    """The cursor is where the area began."""
    terminal = Terminal()
    terminal.area.draw(Text("a\nb\nc"), above=[Text("stays")])
    terminal.area.draw(None)
    assert terminal.screen.lines == ["stays", ""]
    assert terminal.screen.cursor == (1, 0)


def test_between_two_draws_the_cursor_waits_below() -> None:
    """At the start of an empty line: whatever ends the process, the shell continues there."""
    terminal = Terminal()
    terminal.area.draw(Text("a\nb"))
    assert terminal.screen.cursor == (2, 0)


def test_a_body_is_cut_to_the_terminal() -> None:
    """Neither wider nor higher, so that it can be replaced."""
    terminal = Terminal(columns=10, rows=4)
    terminal.area.draw(Text("\n".join("x" * 30 for _ in range(9)), no_wrap=True, overflow="crop"))
    assert terminal.screen.lines == ["x" * 9] * 3 + [""]


@pytest.mark.parametrize(("columns", "height"), [(40, 2), (16, 3), (10, 4), (60, 2)])
def test_a_resized_terminal_is_cleared_of_wrapped_lines(columns: int, height: int) -> None:
    """Lines of 30 and 5 cells take more rows once they are wrapped, and all are redrawn."""
    terminal = Terminal()
    terminal.area.draw(Text("x" * 30 + "\n" + "y" * 5))
    terminal.console.width = columns
    before = len(terminal.getvalue())
    terminal.area.draw(Text("z"))
    assert terminal.getvalue()[before:].startswith(f"\r\x1b[{height}A")


def test_a_closed_terminal_does_not_stop_the_training() -> None:
    """Writing fails once, and is not repeated."""

    class Gone(Terminal):
        tried = 0

        def write(self, text: str) -> int:
            if text:
                self.tried += 1
                raise OSError(errno.EIO, "the terminal was closed")
            return 0

    terminal = Gone()
    terminal.area.draw(Text("a"))
    terminal.area.draw(Text("b"))
    assert terminal.area.gone
    assert terminal.tried == 1
