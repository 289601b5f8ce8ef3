"""capture_cli.views.terminal.live in real processes: on terminals, in files, quiet, killed, with hostile file names."""

import os
import pty
import signal
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from pretend import SHOWN
from terminal import Screen

SCRIPT = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from pretend import CLASSES, HOSTILE, INPUTS, RUN, batch, sums
from capture_cli.records import Skip
from contextlib import closing
from capture_cli.views.terminal.live import make_view

def view(animate=sys.stderr.isatty(), **options):
    return make_view(sys.stderr, animate=animate, classes=CLASSES, epochs=1, total_images=200, **options)

def train(view):
    view.note("hello " + HOSTILE)
    view.write(RUN, None)
    view.write(Skip(file=HOSTILE, reason="truncated"), None)
    for phase in ("train", "val"):
        view.write(batch(phase, file=HOSTILE, pred=1), INPUTS)
        view.advance(100)
        view.write(sums(phase), None)
    view.warn("look")
"""


def script(body: str) -> list[str]:
    """Return the command line of SCRIPT followed by `body`."""
    return [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent)) + textwrap.dedent(body)]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment without variables for colours and sizes, plus `changes`."""
    ours = {"NO_COLOR", "FORCE_COLOR", "COLORTERM", "TERM", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **changes}


def on_a_terminal(body: str, *, columns: int = 100, rows: int = 30, **changes: str) -> tuple[str, int]:
    """Run `body` with a real terminal as its stderr; return its output there, and its exit code."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    with subprocess.Popen(script(body), stdin=theirs, stderr=theirs, env=environment(**changes)) as process:
        os.close(theirs)
        written = b""
        while data := _read(ours):
            written += data
    os.close(ours)
    return written.decode().replace("\r\n", "\n"), process.returncode


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that nobody holds the other end any more
        return b""


def in_a_file(body: str, **changes: str) -> str:
    """Run `body` with a pipe as its stderr; return its output there."""
    done = subprocess.run(script(body), capture_output=True, env=environment(**changes), check=False)
    return done.stderr.decode()


PLAIN = rf"""hello {SHOWN}
epoch 1/1 train loss 0.500 acc 0.750 N images/s
epoch 1/1 val loss 0.500 acc 0.750 N images/s
warning: look
skipped 1 file (1 truncated): {SHOWN}
"""


def without_speed(text: str) -> str:
    """Replace the number before `images/s` by N."""
    words = text.split(" ")
    return " ".join("N" if after.startswith("images/s") else word for word, after in zip(words, [*words[1:], ""], strict=True))


@pytest.mark.parametrize("colour", ["no", "3"])
def test_a_file_gets_one_line_per_phase(colour: str) -> None:
    """Nothing moves and nothing is coloured in a file, whatever FORCE_COLOR says."""
    changes = {"FORCE_COLOR": colour} if colour != "no" else {}
    assert without_speed(in_a_file("with closing(view()) as v: train(v)", **changes)) == PLAIN


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ("with closing(view()) as v: train(v)", {"TERM": "dumb"}),
        ("with closing(view(animate=False)) as v: train(v)", {}),
        ("with closing(view()) as v: train(v)", {"PYTHONIOENCODING": "ascii"}),
    ],
)
def test_a_terminal_that_cannot_be_drawn_on_gets_plain_lines(body: str, changes: dict[str, str]) -> None:
    """A dumb one, one that shows other output too, one with ASCII only."""
    written, _ = on_a_terminal(body, **changes)
    assert without_speed(written) == PLAIN


def test_quiet_lets_warnings_through() -> None:
    """Only warnings, on a terminal and in a file."""
    assert in_a_file("with closing(view(quiet=True)) as v: train(v)") == "warning: look\n"
    assert on_a_terminal("with closing(view(quiet=True)) as v: train(v)") == ("warning: look\n", 0)


@pytest.mark.parametrize("columns", [20, 40, 100])
def test_on_a_real_terminal(columns: int) -> None:
    """Hostile names are escaped, the area is removed at the end, notes stay, and nothing was wrapped."""
    written, code = on_a_terminal("with closing(view()) as v: train(v)", columns=columns)
    screen = Screen(columns)
    screen.feed(written)
    assert code == 0
    assert "".join(screen.lines).replace(" ", "").startswith(f"hello{SHOWN}")
    assert "\x1b[2J" not in written
    assert "\x1b]" not in written
    assert "label" in written
    assert "label" not in screen.text
    assert screen.lines[-1] == ""
    assert "skipped 1 file" in " ".join(screen.lines)


@pytest.mark.parametrize(
    ("changes", "colours", "picture"),
    [
        ({"COLORTERM": "truecolor"}, True, "▀"),
        ({}, True, "▀"),
        ({"NO_COLOR": "1"}, False, "wrong"),
        ({"TERM": "xterm"}, True, "wrong"),
    ],
)
def test_colours_follow_the_terminal(changes: dict[str, str], colours: bool, picture: str) -> None:
    """True colour, 256, none, 16: with too few of them, pictures are drawn in shades and the signs stay."""
    body = "v = view(); INPUTS[:] = 1; v.write(batch(pred=1), INPUTS); v.advance(2)"
    written, _ = on_a_terminal(body, **changes)
    screen = Screen(100)
    screen.feed(written)
    assert "pred  coat ✗" in screen.text
    coloured = {number for style in screen.styles for number in style.split(";") if number and 30 <= int(number) < 108}
    assert bool(coloured) == colours
    assert ("▀▀▀▀▀▀▀▀" if picture == "▀" else "████████") in screen.text


def test_an_error_is_printed_below() -> None:
    """If the body of `with` raises, the area is removed first."""
    written, code = on_a_terminal("with closing(view()) as v:\n    train(v)\n    raise SystemExit('it failed')")
    screen = Screen(100)
    screen.feed(written)
    assert code == 1
    assert screen.lines[-2:] == ["it failed", ""]
    assert screen.lines[-4:-2] == ["skipped 1 file (1 truncated):", SHOWN]


def test_a_killed_process_leaves_the_terminal_as_it_was() -> None:
    """No state was changed (Screen allows none), and the cursor is at the start of an empty line."""
    written, code = on_a_terminal("v = view(); train(v); os.kill(os.getpid(), 9)")
    screen = Screen(100)
    screen.feed(written)
    assert code == -signal.SIGKILL
    assert screen.cursor == (len(screen.lines) - 1, 0)
    assert screen.lines[-1] == ""


def test_a_reader_that_leaves_does_not_stop_the_training() -> None:
    """`capture train ... 2>&1 | head -1` trains to the end."""
    body = "v = view()\nfor _ in range(3): v.note('x' * 100_000)\nos.write(1, b'done')"
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(script(body), stdout=subprocess.PIPE, stderr=theirs, env=environment(), check=False)
    os.close(theirs)
    assert done.stdout == b"done"


def test_no_torch_is_needed() -> None:
    """The view is given arrays only."""
    assert in_a_file("print('torch' in sys.modules, file=sys.stderr)") == "False\n"
