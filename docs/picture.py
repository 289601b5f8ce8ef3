"""Draw docs/train.svg and docs/inspect.svg: `capture train` and `capture inspect` as they look on a terminal.

    python docs/picture.py

The commands run on a pseudo-terminal with true colour. Training redraws its last lines in place; its picture is the last
of the fullest screens.
"""

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pages import prepare

ROWS, COLUMNS = 60, 100
DOCS = Path(__file__).parent
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own format without its web fonts, which a browser would download."""


def on_terminal(command: str, folder: Path) -> str:
    """Run a command on a pseudo-terminal and return everything it wrote. Raises RuntimeError if it fails."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(
            TERM="xterm-256color", COLORTERM="truecolor", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        )
        for name in ("NO_COLOR", "COLUMNS", "LINES", "CI"):
            os.environ.pop(name, None)
        words = shlex.split(command)
        os.execvp(words[0], words)  # noqa: S606 - a child of pty.fork, not of subprocess
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written = b"".join(_read(terminal))
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError(f"`{command}` failed:\n{written.decode('utf-8', 'replace')}")
    return written.decode("utf-8").replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux reports a closed terminal this way
            return
        if not data:
            return
        yield data


def screens(written: str) -> Iterator[list[str]]:
    """Yield the coloured lines of the screen after each redraw of its last lines, and at the end."""
    lines: list[str] = []
    for drawn in re.split(r"(?<=\x1b\[J)", written):
        up = re.match(r"\r(?:\x1b\[(\d+)A)?", drawn)
        if up:
            lines = lines[: len(lines) - int(up[1] or 0)]
        text = re.sub(r"\x1b\[[JK]|\r", "", drawn[up.end() :] if up else drawn)
        lines += text.split("\n")[:-1] if text.endswith("\n") else [text] if text else []
        yield lines


def svg(title: str, lines: list[str]) -> str:
    """Return the lines as a picture of a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("\n".join(lines)))
    return console.export_svg(title=title, code_format=FORMAT, unique_id="t")


def main() -> None:
    """Run both commands and write both pictures."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        command = "capture train sample_data --epochs 5 --name demo"
        shown = list(screens(on_terminal(command, Path(folder))))
        fullest = max(map(len, shown))
        (DOCS / "train.svg").write_text(svg(f"$ {command}", [lines for lines in shown if len(lines) == fullest][-1]), "utf-8")
        command = "capture inspect runs/demo"
        (DOCS / "inspect.svg").write_text(svg(f"$ {command}", list(screens(on_terminal(command, Path(folder))))[-1]), "utf-8")


if __name__ == "__main__":
    main()
