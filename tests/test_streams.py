"""Standard streams that are closed or full: a message, the right exit code, and no byte in the wrong place."""

import io
import json
import os
import pty
import shlex
import signal
import subprocess
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from capture_cli.answers.verification import verify
from capture_cli.runs import open_run
from capture_cli.views.terminal import live
from capture_cli.views.terminal.live import LiveView
from conftest import CAPTURE
from pretend import INPUTS, batch, sums
from runs import run_records, write_run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a run."""
    write_run(tmp_path / "run", run_records())
    return tmp_path


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run `capture COMMAND`, redirections and all, in a shell."""
    line = f"{shlex.join(CAPTURE)} {command}"
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", ["rows run", "inspect run", "verify run", "labels images", "diff run run", "rows run -o -"])
@pytest.mark.parametrize(("where", "why"), [(">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")])
def test_data_that_cannot_be_written_is_an_error(here: Path, images: Path, command: str, where: str, why: str) -> None:
    """Exit code 1 and one line: nobody receives the result."""
    assert images.is_dir()
    done = shell(here, f"{command} {where}")
    said = f"capture: standard output could not be written: {why}; the output is incomplete\n"
    assert (done.returncode, done.stdout, done.stderr.splitlines(keepends=True)[-1]) == (1, "", said)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["--help", "train --help", "--version"])
def test_help_that_cannot_be_written_is_an_error(here: Path, command: str) -> None:
    """As data is: one line and exit code 1, or 0 if the reader has gone."""
    for where, why in ((">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")):
        done = shell(here, f"{command} {where}")
        said = f"capture: standard output could not be written: {why}; the output is incomplete\n"
        assert (done.returncode, done.stderr) == (1, said)
    done = shell(here, f"{command} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_training_needs_no_streams(here: Path, images: Path) -> None:
    """Without any of them it runs to the end, and no file gets their descriptors."""
    done = shell(here, f"train {images.name} -m linear -e 1 --device cpu -o new <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert shell(here, "verify new").returncode == 0
    assert b"images a second" not in b"".join(file.read_bytes() for file in (here / "new").iterdir())


def test_an_error_is_never_among_the_data(here: Path) -> None:
    """With stderr closed, only the exit code tells."""
    done = shell(here, "rows nope 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_closed_stdin_has_no_records(here: Path) -> None:
    """It is not a terminal either."""
    done = shell(here, "inspect - <&-")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("capture: stdin: no records")


NOISY = """
import atexit, os, subprocess, sys, torch
print("imported")
os.write(1, b"written to descriptor 1\\n")
subprocess.run(["echo", "from another process"], check=True)
atexit.register(print, "at exit")
sys.__stdout__.write("to the first stdout\\n")

class Net(torch.nn.Module):
    def __init__(self, n, c):
        super().__init__()
        self.layer = torch.nn.Linear(n, c)

    def forward(self, x):
        print("forward")
        return self.layer(x.flatten(1))

def make(classes, channels, height, width):
    print("made")
    return Net(channels * height * width, classes)
"""


@pytest.fixture
def noisy(tmp_path: Path, images: Path) -> Path:
    """A folder with images and a model file that prints wherever it can."""
    assert images.is_dir()
    (tmp_path / "net.py").write_text(NOISY)
    return tmp_path


PRINTED = ["imported", "written to descriptor 1", "from another process", "to the first stdout", "made", "forward", "at exit"]


def test_records_on_stdout_are_alone_there(noisy: Path) -> None:
    """A model that prints does not corrupt `-o -`: everything it prints is on stderr."""
    done = shell(noisy, "train images -m net.py:make -e 1 -b 12 --device cpu -q -o -")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(len(lines)))
    for text in PRINTED:
        assert f"{text}\n" in done.stderr


def test_json_on_stdout_is_alone_there(noisy: Path) -> None:
    """So it is with `--json`, and with `--outputs`, which runs the model again."""
    assert shell(noisy, "train images -m net.py:make -e 1 -b 12 --device cpu -q -o run").returncode == 0
    for command in ("evaluate run images --json -q", "replay run --outputs --model net.py:make --json"):
        done = shell(noisy, command)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
        assert "forward\n" in done.stderr


def test_a_link_to_stdout_is_stdout(noisy: Path) -> None:
    """`-o /dev/stdout` gets the records too."""
    done = shell(noisy, "train images -m net.py:make -e 1 -b 12 --device cpu -q -o /dev/stdout | cat")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith('{"seq":') for line in done.stdout.splitlines())
    assert done.stdout.count("\n") > 3


def on_a_terminal_that_goes(folder: Path, args: str, *, after: int) -> int:
    """Run `capture ARGS` on a terminal that is closed after so many bytes; SIGHUP is ignored. Return the exit code."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*CAPTURE, *shlex.split(args)],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # before the terminal can go
    ) as process:
        os.close(theirs)
        seen = 0
        while seen < after:
            seen += len(os.read(ours, after - seen))
        os.close(ours)
        return process.wait()


@pytest.mark.parametrize("after", [0, 1, 700])
def test_a_training_goes_on_without_its_terminal(images: Path, after: int) -> None:
    """Whether the terminal goes at the first word or in the middle of a frame: nobody has to look."""
    args = "train images -m linear -e 30 --device cpu -o run"
    assert on_a_terminal_that_goes(images.parent, args, after=after) == 0
    with open_run(images.parent / "run") as run:
        assert verify(run).error is None
        assert run.ending.status == "completed"


def test_a_result_for_a_terminal_that_is_gone_ends_quietly(here: Path) -> None:
    """As with a pipe whose reader has gone."""
    assert on_a_terminal_that_goes(here, "inspect run", after=0) == 0


def test_messages_that_nobody_can_read_do_not_end_a_run(images: Path) -> None:
    """A full disk behind stderr is none of the training's business."""
    done = shell(images.parent, "train images -m linear -e 1 --device cpu -o run 2> /dev/full")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_picture_that_cannot_be_drawn_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The area goes, with one warning; the lines of the epochs still come."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    view = LiveView(console, classes=["a", "b"], epochs=1, total_images=8, phases=("train",), now=count().__next__)
    monkeypatch.setattr(live, "preview", lambda *_, **__: 1 / 0)
    view.write(batch(), INPUTS)
    with pytest.warns(UserWarning, match="no longer drawn: ZeroDivisionError"):
        view.advance(2)
    view.advance(2)  # a second warning would be an error here
    view.write(sums("train"), None)
    view.close()
    assert "0.750" in written.getvalue()
