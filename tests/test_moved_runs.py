"""Run folders that are renamed or removed while their run goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from capture_cli import Recorder, open_run
from capture_cli.cli import run as command
from capture_cli.errors import CaptureError
from capture_cli.runfolder import open_output
from recordings import batch_of, verified

MODEL = """
import torch
from pathlib import Path
from torch import nn
from moving import move

class Net(nn.Module):
    def __init__(self, n, classes):
        super().__init__()
        self.layer, self.calls = nn.Linear(n, classes), 0

    def forward(self, x):
        self.calls += 1
        move(self.calls)
        return self.layer(x.flatten(1))

def make(classes, channels, height, width):
    return Net(channels * height * width, classes)
"""
TRAIN = ("-m", "net.py:make", "-e", "3", "-b", "8", "--device", "cpu", "--inputs", "all", "--checkpoint-every", "2")
FILES = ("records.jsonl", "model.safetensors", "inputs/pack-00000.bin")


@pytest.fixture
def train(images: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Train in the folder of the test, and call a function with the number of each forward pass."""
    monkeypatch.chdir(images.parent)
    (images.parent / "net.py").write_text(
        MODEL.replace("from moving import move", "from sys import modules\nmove = modules['moving'].move")
    )

    def run(out: str, move: Callable[[int], object], *args: str) -> int:
        import sys
        from types import ModuleType

        moving = ModuleType("moving")
        moving.move = move  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "moving", moving)
        return command(["train", "images", "-q", "-o", out, *TRAIN, *args])

    return run


def renames(at: int, *, taken: bool) -> Callable[[int], None]:
    """Rename `run` to `moved` at this forward pass; somebody else's folder takes the name."""

    def move(call: int) -> None:
        if call == at:
            Path("run").rename("moved")
            if taken:
                Path("run").mkdir()
                Path("run/checkpoint.safetensors").write_text("precious")

    return move


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("at", [2, 5])
def test_a_renamed_run_continues_where_it_is(train: Callable[..., int], at: int, taken: bool) -> None:
    """Everything of it is in the renamed folder, byte for byte, and nothing anywhere else."""
    assert train("plain", lambda _: None) == 0
    assert train("run", renames(at, taken=taken)) == 0
    assert [name for name in FILES if Path("moved", name).read_bytes() != Path("plain", name).read_bytes()] == []
    assert Path("moved/checkpoint.safetensors").exists()
    assert [path.name for path in Path("run").glob("*")] == ["checkpoint.safetensors"] * taken
    assert not taken or Path("run/checkpoint.safetensors").read_text() == "precious"


def test_the_last_message_names_the_folder_as_it_is_now(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """So that what it says to type can be typed."""
    assert train("run", renames(2, taken=False), "-e", "1") == 0
    command(["train", "images", "-m", "linear", "-e", "1", "-o", "other"])
    assert "recorded in other; look at it with: capture inspect other" in capsys.readouterr().err
    with open_output("first", name=None, model="", force=False) as output:
        assert output.place == "first"
        Path("first").rename("second")
        assert output.place == "second"


def test_the_sinks_of_a_renamed_run_continue_there(train: Callable[..., int]) -> None:
    """TensorBoard's event files are in the renamed folder and have every step once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("run", renames(4, taken=True), "--tensorboard") == 0
    shown = EventAccumulator("moved/tensorboard", size_guidance={"scalars": 0}).Reload().Scalars("loss")
    with open_run("moved") as run:
        steps = [record.step for record in run.records() if record.kind == "batch" and record.phase == "train"]
    assert [one.step for one in shown] == steps


@pytest.mark.parametrize("name", ["", "records.jsonl"])
def test_a_removed_run_is_an_error_that_says_so(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Whether the whole folder goes or the records alone: nothing claims that records are kept."""

    def remove(call: int) -> None:
        if call == 3:
            path = Path("run", name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    assert train("run", remove) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "was removed" in line
    assert "kept" not in line


def test_a_recorder_whose_folder_is_renamed_or_removed(tmp_path: Path) -> None:
    """In somebody's own loop it is the same."""
    with Recorder(tmp_path / "a", inputs="all") as recorder:
        (tmp_path / "a").rename(tmp_path / "b")
        recorder.record(**batch_of(4, 3))
    assert verified(tmp_path / "b") == "completed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    recorder = Recorder(tmp_path / "c", inputs="all")
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(CaptureError, match="removed"):
        recorder.record(**batch_of(4, 3))
    with pytest.raises(CaptureError, match="removed"):
        recorder.close()
