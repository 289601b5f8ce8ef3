"""Arguments that several commands share."""

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from capture_cli import Recorder, open_run
from capture_cli.cli import run as command
from capture_cli.errors import UsageError
from conftest import CAPTURE


@pytest.mark.parametrize("args", ["inspect -", "rows -", "verify -", "replay -", "diff - ."])
def test_a_terminal_is_no_run(args: str) -> None:
    """`capture rows -` without a pipe does not wait for somebody to type records."""
    parent, child = pty.openpty()
    done = subprocess.run([*CAPTURE, *args.split()], stdin=child, capture_output=True, text=True, timeout=60, check=False)
    os.close(parent)
    os.close(child)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stdin is a terminal, not records; pipe a run into it" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["train", ""], "the argument after 'train'"),
        (["train", "images", "-o", ""], "the argument after '-o'"),
        (["train", "images", "--name="], "the value of --name"),
        (["train", "images", "--labels", " "], "the argument after '--labels'"),
        (["train", "images", "--mlflow="], "the value of --mlflow"),
        (["train", "--resume", ""], "the argument after '--resume'"),
        (["train", "--config", ""], "the argument after '--config'"),
        (["labels", ""], "the argument after 'labels'"),
        (["inspect", ""], "the argument after 'inspect'"),
        (["diff", "run", ""], "the argument after 'run'"),
        (["log", "run", "--mlflow", ""], "the argument after '--mlflow'"),
        (["rows", "run", "--where", ""], "the argument after '--where'"),
        (["replay", "run", "--folder="], "the value of --folder"),
        (["evaluate", "run", ""], "the argument after 'run'"),
        ([""], "an argument"),
    ],
    ids=" ".join,
)
def test_an_empty_value_is_wrong_usage(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], what: str
) -> None:
    """A shell variable that is not set does not mean the current folder, in whatever command."""
    monkeypatch.chdir(images)
    assert command(args) == 2
    said = f"capture: {what} is empty; give a value, or leave the option out; is a shell variable not set?\n"
    assert capsys.readouterr().err == said
    assert sorted(path.suffix for path in images.iterdir()) == [".png"] * 24


def test_an_empty_value_in_a_config_file_is_wrong_usage(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file and the option are named."""
    monkeypatch.chdir(images.parent)
    Path("c.toml").write_text('folder = ""\n')
    assert command(["train", "--config", "c.toml"]) == 2
    assert "--config 'c.toml': the value of 'folder' is empty" in capsys.readouterr().err


@pytest.mark.parametrize("use", [Recorder, open_run])
def test_an_empty_name_is_refused_in_python_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[str], object]
) -> None:
    """It is not the current folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is empty"):
        use("")
    assert not list(tmp_path.iterdir())


def test_more_names_than_a_command_takes_are_counted_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pattern that the shell expanded, a folder whose name has a space, a line break, with what to type instead."""
    monkeypatch.chdir(tmp_path)
    Path("my photos").mkdir()
    said = []
    for args in (
        ["labels", "my", "photos"],
        ["train", *(f"images/{i:04d} b.png" for i in range(2000)), "-n"],
        ["labels", "my", "x\ny", "z"],
        ["labels", "my photos", __file__],
        ["inspect", "-", "two", "three"],
        ["rows", "-", "two"],
        ["evaluate", "one.safetensors"],
        ["diff"],
    ):
        assert command(args) == 2
        said.append(capsys.readouterr().err)
    assert said == [
        "capture: one argument too many: 'photos'; quote a name with spaces: 'my photos'\n",
        "capture: 1,999 arguments too many: 'images/0001 b.png', 'images/0002 b.png' and 1,997 more; "
        "name the folder instead of its files, and quote a name with spaces\n",
        "capture: 2 arguments too many: 'x\\ny', 'z'; name the folder instead of its files, and quote a name with spaces\n",
        f"capture: one argument too many: '{__file__}'; name the folder instead of its files, and quote a name with spaces\n",
        "capture: 2 arguments too many: 'two', 'three'; usage: capture inspect RUN; quote a name with spaces\n",
        "capture: one argument too many: 'two'; usage: capture rows RUN; quote a name with spaces\n",
        "capture: missing argument: FOLDER; usage: capture evaluate RUN|MODEL FOLDER\n",
        "capture: missing argument: A B...; usage: capture diff A B...\n",
    ]


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "run", "--worst"],
        ["rows", "run", "--limit"],
        ["train", "images", "--batch-size"],
        ["train", "images", "--config"],
        ["suspects", "run", "--top"],
        ["inspect"],
    ],
    ids=" ".join,
)
def test_numbers_of_thousands_of_digits_are_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    """On the command line, in a config file, and as the place of a run; the message does not repeat them."""
    monkeypatch.chdir(tmp_path)
    digits = "9" * 5000
    (tmp_path / "c.toml").write_text(f"epochs = {digits}\n")
    value = {"--config": "c.toml", "inspect": f"@{digits}"}.get(args[-1], digits)
    assert command([*args, value]) == 2
    said = capsys.readouterr().err
    assert said.startswith("capture: ")
    assert len(said) < 300
