"""Commands that only read or explain are light: they never import torch, and help is on the screen at once.

torch is put out of reach in a way that cannot be overlooked: a package of that name that fails when it is imported lies first
on the path. `capture train` must then fail, which proves that the trap works.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_what_typer_writes(command: str, width: int) -> None:
    """Neither the commands nor the parts of Rich that are left out change a letter of it."""
    code = f"""
import sys
from capture_cli import cli
cli._import_help = lambda: None
cli.named_commands = cli.all_commands
sys.exit(cli.run({[*command.split(), "--help"]}))
"""
    env = {**os.environ, "COLUMNS": str(width)}
    plain = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    ours = subprocess.run([*CAPTURE, *command.split(), "--help"], env=env, capture_output=True, text=True, timeout=60)
    assert ours.stdout == plain.stdout
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


def seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - start


def processor_seconds(command: Sequence[str]) -> float:
    """Processor time of a child and of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_is_quick(args: list[str]) -> None:
    """Help takes at most 2 times as long as importing Typer and Rich (`make bench` measures it: 1.5 is wanted).

    Processor time of several turns: a busy machine makes only the clock run on.
    """
    bare = [sys.executable, "-c", "import typer, rich.console, rich.table"]
    turns = [(processor_seconds(bare), processor_seconds([*CAPTURE, *args])) for _ in range(7)]
    base, took = (sum(column) for column in zip(*turns, strict=True))
    assert took <= 2 * base, f"{took:.3f} s against {base:.3f} s"


@pytest.mark.usefixtures("images")
def test_a_command_with_torch_ends_at_once(tmp_path: Path) -> None:
    """The whole of a short training takes at most a second more than a process that imports torch: the best of three."""
    bare = [sys.executable, "-c", "import torch"]
    train = [*CAPTURE, "train", os.fspath(tmp_path / "images"), "-m", "linear", "-e", "1", "-q", "--device", "cpu", "-o"]
    turns = [(seconds(bare), seconds([*train, os.fspath(tmp_path / f"run-{turn}")])) for turn in range(3)]
    base, took = (min(column) for column in zip(*turns, strict=True))
    assert took <= base + 1, f"{took:.3f} s against {base:.3f} s"
