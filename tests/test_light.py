"""Commands that only read or explain are light: they never import torch, and help is on the screen at once.

torch is put out of reach in a way that cannot be overlooked: a package of that name that fails when it is imported lies first
on the path. `capture train` must then fail, which proves that the trap works.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from capture_cli.cli import COMMANDS
from conftest import CAPTURE
from runs import write_run

HEAVY = ("torch", "torchvision")
MARK = "imported, and nobody asked for it"


@pytest.fixture
def trapped(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch or torchvision fails."""
    for name in HEAVY:
        package = tmp_path / "trap" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise ImportError('{name} {MARK}')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "trap")}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small run to read."""
    return write_run(tmp_path / "run")


def ran(args: Sequence[str], env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CAPTURE, *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_torch(command: str, trapped: dict[str, str], tmp_path: Path) -> None:
    """`--help` of every command, those that train too, works where torch cannot be imported."""
    done = ran([*command.split(), "--help"], trapped, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: capture" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "run"],
        ["inspect", "run", "--json"],
        ["inspect", "run", "--sample", "cat_0003.png"],
        ["suspects", "run"],
        ["rows", "run"],
        ["rows", "run", "--where", "not correct", "--columns", "file,label,pred"],
        ["verify", "run"],
        ["diff", "run", "run"],
        ["log", "run", "--mlflow", "sqlite:///mlflow.db"],
        ["labels", "images"],
        ["labels", "images", "--json"],
        ["cache"],
        ["cache", "--json"],
        ["runs", "."],
        ["runs", "run", "--json", "--where", "epoch = 0"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("run", "images")
def test_reading_needs_no_torch(args: list[str], trapped: dict[str, str], tmp_path: Path) -> None:
    """Everything that looks at a run or a folder works where torch cannot be imported."""
    done = ran(args, trapped, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert MARK not in done.stdout + done.stderr


@pytest.mark.usefixtures("images")
def test_the_trap_works(trapped: dict[str, str], tmp_path: Path) -> None:
    """The tests above can fail: what does need torch falls into the trap."""
    done = ran(["train", "images", "-e", "1", "-o", "trained"], trapped, tmp_path)
    assert done.returncode == 1
    assert MARK in done.stderr


def loaded(args: Sequence[str]) -> set[str]:
    """The packages that `capture ARGS` has imported when it is done."""
    code = f"import sys; from capture_cli.cli import run; run({list(args)!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("args", [["--help"], ["inspect", "--help"], ["rows", "--help"], ["train", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    """Help loads Typer and what of Rich it needs, and none of the libraries that the work needs."""
    heavy = {"torch", "torchvision", "numpy", "duckdb", "PIL", "pandas", "xxhash", "safetensors", "multiprocessing"}
    heavy |= {"markdown_it", "pygments"}
    assert loaded(args) & heavy == set()
    assert "typer" in loaded(args)


def test_import_capture_cli_loads_nothing() -> None:
    """`import capture_cli` in somebody's program costs nothing before something is used."""
    code = "import sys; before = set(sys.modules); import capture_cli; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"torch", "numpy", "typer", "rich", "orjson"}


@pytest.fixture(scope="module")
def written_by_typer() -> dict[str, str]:
    """The help of every command as Typer writes it with all of Rich, by width and command."""
    code = """
import contextlib, io, json, os
from capture_cli import cli
cli._import_help = lambda: None
cli.named_commands = cli.all_commands
found = {}
for width in ("60", "100"):
    os.environ["COLUMNS"] = width
    for command in ("", *cli.COMMANDS):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert cli.run([*command.split(), "--help"]) == 0
        found[f"{width} {command}"] = out.getvalue()
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_what_typer_writes(command: str, width: int, written_by_typer: dict[str, str]) -> None:
    """Neither the commands nor the parts of Rich that are left out change a letter of it."""
    env = {**os.environ, "COLUMNS": str(width)}
    ours = subprocess.run([*CAPTURE, *command.split(), "--help"], env=env, capture_output=True, text=True, timeout=60)
    assert ours.stdout == written_by_typer[f"{width} {command}"]
    assert len(ours.stdout.splitlines()) > 10


def test_what_help_left_out_of_rich_can_be_imported_afterwards() -> None:
    """Somebody's program may call the command line and go on with Rich."""
    code = """
from capture_cli.cli import run
run(["--help"])
import rich.markdown, rich.traceback
rich.console.Console().print(rich.markdown.Markdown("*word*"))
assert rich.traceback.Traceback.extract
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1].strip()) == (0, "word"), done.stderr


@pytest.mark.parametrize(("words", "completed"), [("capture ins", "inspect"), ("capture train --chec", "--checkpoint-every")])
def test_completion_knows_commands_and_their_options(words: str, completed: str) -> None:
    """As the shell asks for it."""
    env = {**os.environ, "_CAPTURE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(CAPTURE, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, [completed])


@pytest.mark.usefixtures("images")
def test_a_command_behind_an_option_or_dashes_is_that_command(tmp_path: Path) -> None:
    """What is named is run, wherever it stands on the line."""
    done = subprocess.run([*CAPTURE, "--", "labels", "images"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "24 images" in done.stdout) == (0, True), done.stderr


class Cost(NamedTuple):
    """Seconds of a process: computing, and waiting for anything but a processor. Neighbours hardly change either."""

    cpu: float
    waiting: float


def cost(command: Sequence[str]) -> Cost:
    """Run a command to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    took = time.perf_counter() - began
    computed, queued, _ = map(int, Path(f"/proc/{process.pid}/schedstat").read_text().split())  # ns, of the first thread
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Cost(used.ru_utime + used.ru_stime, took - (computed + queued) / 1e9)


def least(*commands: Sequence[str], turns: int) -> list[Cost]:
    """The least of several turns each, since a busy machine can only make them dearer."""
    found = [[cost(command) for command in commands] for _ in range(turns)]
    return [Cost(*map(min, zip(*column, strict=True))) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_is_quick(args: list[str]) -> None:
    """Help takes at most 2 times as long as importing Typer and Rich (`make bench` measures it: 1.5 is wanted)."""
    bare = [sys.executable, "-c", "import typer, rich.console, rich.table"]
    base, took = least(bare, [*CAPTURE, *args], turns=5)
    assert took.cpu <= 2 * base.cpu, f"{took} against {base}"


@pytest.mark.usefixtures("images")
def test_a_command_with_torch_ends_at_once(tmp_path: Path) -> None:
    """The whole of a short training takes at most a second more than a process that imports torch."""
    bare = [sys.executable, "-c", "import torch"]
    train = [*CAPTURE, "train", os.fspath(tmp_path / "images"), "-m", "linear", "-e", "1", "-q", "--device", "cpu"]
    base, took = least(bare, [*train, "-o", os.fspath(tmp_path / "run.jsonl"), "--force"], turns=3)
    assert took.cpu + took.waiting <= base.cpu + base.waiting + 1, f"{took} against {base}"
