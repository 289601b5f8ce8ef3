"""Standard streams that are closed or full: a message, the right exit code, and no byte in the wrong place."""

import shlex
import subprocess
from pathlib import Path

import pytest

from conftest import CAPTURE
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
