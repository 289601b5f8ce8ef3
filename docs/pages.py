"""Code blocks of the Markdown pages: find them, run them, compare their output. Used by the tests and by record.py.

The words after the opening fence say what happens to a block:

    sh               run by bash, command by command; each must succeed
    python           run by Python; must succeed
    console          lines that start with `$ ` are run; the lines below each are its output, on both streams
    console learned  the same, but figures and names depend on training: only the form of the output is compared
    sh setup         needs a network or a whole checkout; only its make targets are checked
    anything else    shown, not run

The blocks of a page run in order, in a folder of its own that contains a copy of `sample_data/`, with the current
environment's `capture` and `python` first on the PATH and the checkout in `$CAPTURE`. Every part of a pipeline must succeed,
except that a part whose reader has gone, as before `| head`, may end with SIGPIPE.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 100


class Block(NamedTuple):
    """Fenced block of a page."""

    info: str
    """Words after the opening fence."""
    line: int
    """Line number of the block's first line of text, from 1."""
    text: str


class Exchange(NamedTuple):
    """Command of a console block, and its output."""

    command: str
    output: str


class BlockError(Exception):
    """A block failed to run; the message says which command and why."""


def pages() -> list[Path]:
    """Return every Markdown page whose blocks are run."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order. Raises ValueError for a fence that is never closed."""
    lines = iter(enumerate(page.splitlines(keepends=True), 1))
    for number, line in lines:
        if line.startswith("```"):
            text = []
            for _, inside in lines:
                if inside.rstrip() == "```":
                    break
                text.append(inside)
            else:
                raise ValueError(f"the block that starts in line {number} is never closed")
            yield Block(line[3:].strip(), number + 1, "".join(text))


def commands(script: str) -> Iterator[str]:
    """Yield the commands of a shell block. A command continues after `|`, `\\` and inside quotes; comments are skipped."""
    gathered = ""
    for line in script.splitlines():
        if not gathered and (not line.strip() or line.startswith("#")):
            continue
        gathered += line + "\n"
        if not _continues(gathered):
            yield gathered.rstrip("\n")
            gathered = ""
    if gathered:
        raise ValueError(f"unfinished command: {gathered}")


def _continues(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:  # an open quote, or a line that ends in a backslash
        return True
    return command.rstrip().endswith(("|", "\\", "&&"))


def exchanges(console: str) -> list[Exchange]:
    """Return the commands of a console block, each with the output below it."""
    found: list[Exchange] = []
    for line in console.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append(Exchange(line[2:].rstrip("\n"), ""))
        elif not found:
            raise ValueError("a console block must start with a command: `$ ...`")
        elif not found[-1].output and _continues(found[-1].command):
            found[-1] = Exchange(f"{found[-1].command}\n{line.rstrip()}", "")
        else:
            found[-1] = found[-1]._replace(output=found[-1].output + line)
    return found


def prepare(folder: Path) -> None:
    """Create `folder` for the blocks of one page: it contains the sample data and nothing else."""
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")


def run_shell(command: str, folder: Path) -> str:
    """Run one command and return its output on both streams. Raises BlockError if any part of it fails."""
    status = folder.with_name(f"{folder.name}.status")
    done = subprocess.run(
        ["bash", "-uc", f'{command}\nstatus=("${{PIPESTATUS[@]}}"); echo "${{status[@]}}" >"$STATUS"'],
        cwd=folder,
        env=_environment() | {"STATUS": str(status)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    output = done.stdout.decode("utf-8", "replace")
    ended = status.read_text().split() if status.exists() else [str(done.returncode)]
    status.unlink(missing_ok=True)
    broken_pipe = "141"
    if set(ended[:-1]) - {"0", broken_pipe} or ended[-1] != "0":
        raise BlockError(f"`{command}` ended with {' '.join(ended)}:\n{output}")
    return output


def run_python(code: str, folder: Path) -> str:
    """Run a Python block and return its output. Raises BlockError if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise BlockError(f"ended with {done.returncode}:\n{code}\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "MAKEFLAGS", "MAKELEVEL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{here.get('PATH', os.defpath)}"
    return here | {"CAPTURE": str(ROOT), "PATH": path, "COLUMNS": str(COLUMNS), "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}


_HEX = re.compile(r"\b[0-9a-f]{16,}\b")
_NUMBER = re.compile(r"[-+]?\d[\d.,:]*(e[-+]?\d+)?%?")
_DRAWN = re.compile("[\u2581-\u259f\u28c0-\u28ff\u2800-\u28bf]+")


def alike(shown: str, printed: str) -> bool:
    """Return True if two outputs have the same form: one in five distinct lines may differ with the training result."""
    before, now = form(shown), form(printed)
    return len(before & now) >= 0.8 * len(before | now)


def form(output: str) -> set[str]:
    """Return the distinct lines of an output without its figures, file and class names, curves and spacing."""
    names = {path.name.split("_")[0] for path in (ROOT / "sample_data").glob("*.png")}
    words = re.compile(rf"\b({'|'.join(names)})(_\d+\.png)?\b")
    lines = set()
    for line in output.splitlines():
        for pattern, mark in ((words, "NAME"), (_HEX, "HEX"), (_NUMBER, "0"), (_DRAWN, "CURVE")):
            line = pattern.sub(mark, line)
        lines.add(" ".join(line.split()))
    return lines - {""}
