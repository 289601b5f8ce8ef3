"""Commands that only read or explain are light: they never import torch, and help is on the screen at once.

torch is put out of reach in a way that cannot be overlooked: a package of that name that fails when it is imported lies first
on the path. `capture train` must then fail, which proves that the trap works.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from capture_cli.cli import COMMANDS, one_command
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
    """Help loads Typer, and none of the libraries that the work needs, nor Rich."""
    heavy = {"torch", "torchvision", "numpy", "duckdb", "PIL", "pandas", "xxhash", "safetensors", "multiprocessing", "rich"}
    assert loaded(args) & heavy == set()
    assert "typer" in loaded(args)


@pytest.mark.parametrize("command", ["inspect", "verify", "rows", "suspects"])
def test_data_for_programs_needs_neither_rich_nor_pydantic(command: str, run: Path) -> None:
    """Arguments that are texts are passed on as they are, and nothing is drawn."""
    assert loaded([command, str(run), "--format=jsonl" if command == "rows" else "--json"]) & {"pydantic", "rich"} == set()


def test_import_capture_cli_loads_nothing() -> None:
    """`import capture_cli` in somebody's program costs nothing before something is used."""
    code = "import sys; before = set(sys.modules); import capture_cli; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"torch", "numpy", "typer", "rich", "orjson"}


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option_in_the_section_of_its_panel(command: str, width: int) -> None:
    """Each once, with its text, in lines that fit."""
    env = {**os.environ, "COLUMNS": str(width)}
    done = subprocess.run([*CAPTURE, command, "--help"], env=env, capture_output=True, text=True, timeout=60)
    assert max(map(len, done.stdout.splitlines())) <= width
    sections = {name: " ".join(text.split()) for name, text in re.findall(r"^(\w+):\n((?:  .*\n)+)", done.stdout, re.MULTILINE)}
    for parameter in get_command(one_command(command)).params:
        wanted = {"argument": "Arguments"}.get(parameter.param_type_name, getattr(parameter, "rich_help_panel", None))
        assert " ".join((getattr(parameter, "help", None) or "").split()) in sections[wanted or "Options"]
        if parameter.param_type_name == "option":
            assert re.search(rf"(^|[ ,]){parameter.opts[0]}( |,|$)", sections[wanted or "Options"])


def test_help_lists_every_command_with_its_whole_summary() -> None:
    """The same for `capture` alone, which is wrong usage."""
    listed, alone = (subprocess.run([*CAPTURE, *args], capture_output=True, text=True) for args in (["--help"], []))
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, "", listed.stdout)
    for name, summary in COMMANDS.items():
        assert f" {name} {summary}" in " ".join(listed.stdout.split())


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


def soon(cheap: Sequence[str], dear: Sequence[str], holds: Callable[[Cost, Cost], bool], *, turns: int) -> None:
    """Compare the least costs of several turns, since a busy machine can only make them dearer; once is enough if it holds."""
    found: list[tuple[Cost, Cost]] = []
    for _ in range(turns):
        found.append((cost(cheap), cost(dear)))
        base, took = (Cost(*map(min, zip(*column, strict=True))) for column in zip(*found, strict=True))
        if holds(base, took):
            return
    pytest.fail(f"{took} against {base}")


@pytest.mark.alone
@pytest.mark.parametrize("args", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_is_quick(args: list[str]) -> None:
    """Help takes at most 2 times as long as importing Typer."""
    bare = [sys.executable, "-c", "import typer"]
    soon(bare, [*CAPTURE, *args], lambda base, took: took.cpu <= 2 * base.cpu, turns=5)


@pytest.mark.alone
@pytest.mark.usefixtures("images")
def test_a_command_with_torch_ends_at_once(tmp_path: Path) -> None:
    """The whole of a short training takes at most a second more than a process that imports torch."""
    bare = [sys.executable, "-c", "import torch"]
    train = [*CAPTURE, "train", os.fspath(tmp_path / "images"), "-m", "linear", "-e", "1", "-q", "--device", "cpu"]
    train += ["-o", os.fspath(tmp_path / "run.jsonl"), "--force"]
    soon(bare, train, lambda base, took: took.cpu + took.waiting <= base.cpu + base.waiting + 1, turns=3)
