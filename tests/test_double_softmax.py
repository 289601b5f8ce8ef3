"""A network that ends in softmax gives probabilities in place of logits: one warning says so. Logits give none."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder
from capture_cli.cli import run
from conftest import make_images
from recordings import records

N, CLASSES = 16, 5
SHAPES = {"classification": (N, CLASSES), "sequence": (N, CLASSES, 3), "segmentation": (N, CLASSES, 4, 4)}
"""Shapes with the classes in dimension 1."""


def said(
    path: Path, logits: Callable[[torch.Tensor], torch.Tensor], task: str = "classification", *, batches: int = 4, n: int = N
) -> list[str]:
    """Record batches whose logits are made of random numbers with the classes in dimension 1; return the warnings."""
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(record=True) as found, Recorder(path, task=task) as recorder:
        warnings.simplefilter("always")
        for number in range(batches):
            made = logits(torch.randn(SHAPES[task], generator=generator))[:n]
            made = made.transpose(1, 2) if task == "sequence" else made
            shape = (n, *SHAPES[task][2:])
            labels = torch.randint(CLASSES, shape, generator=generator)
            recorder.record(epoch=number, phase="train", inputs=made, logits=made, labels=labels, ids=range(n))
    return [str(one.message) for one in found]


@pytest.mark.parametrize("task", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_are_told_once(tmp_path: Path, task: str, dtype: torch.dtype) -> None:
    """Whatever the task and the precision. The warning says what to pass."""
    (text,) = said(tmp_path / "r.jsonl", lambda one: one.softmax(1).to(dtype), task)
    assert text.startswith("the logits of train are probabilities: ")
    assert "pass the values before softmax, or logits=probs.log()" in text
    assert len(records(tmp_path / "r.jsonl", "batch", "measures")) == 4


@pytest.mark.parametrize("task", SHAPES)
@pytest.mark.parametrize(
    "logits",
    [
        lambda one: one,
        lambda one: one.log_softmax(1),
        lambda one: one.softmax(1).log(),
        lambda one: one.sigmoid(),
        lambda one: one.relu(),
        torch.zeros_like,
        lambda one: torch.cat([one[:-1].softmax(1), one[-1:]]),
        lambda one: one - one.mean(1, keepdim=True) + 1 / CLASSES,
    ],
    ids=["logits", "log_softmax", "log", "sigmoid", "relu", "zeros", "all but one row", "sum 1"],
)
def test_logits_are_not_taken_for_them(tmp_path: Path, task: str, logits: Any) -> None:
    """Log-probabilities are logits, and single properties of probabilities are no proof."""
    assert said(tmp_path / "r.jsonl", logits, task) == []


def test_one_batch_is_enough_and_few_rows_are_not(tmp_path: Path) -> None:
    """Few rows may look like probabilities by chance, or be made for a test."""
    assert len(said(tmp_path / "one.jsonl", lambda one: one.softmax(1), batches=1)) == 1
    assert not said(tmp_path / "logits.jsonl", lambda one: one, batches=1)
    assert not said(tmp_path / "few.jsonl", lambda one: one.softmax(1), batches=15, n=1)
    assert len(said(tmp_path / "many.jsonl", lambda one: one.softmax(1), batches=16, n=1)) == 1


def test_a_warning_that_is_an_error_leaves_whole_records(tmp_path: Path) -> None:
    """With `python -W error`, at the end of a recording of one batch."""
    recorder, probs = Recorder(tmp_path / "r.jsonl"), torch.randn(N, CLASSES).softmax(1)
    recorder.record(epoch=1, phase="train", inputs=probs, logits=probs, labels=torch.zeros(N).long(), ids=range(N))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="are probabilities"):
            recorder.close()
    (end,) = records(tmp_path / "r.jsonl", "end")
    assert end.status == "completed"


@pytest.mark.parametrize("batch_size", [4, 64])
def test_training_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], batch_size: int
) -> None:
    """Of a network of one's own that ends in softmax, also where an epoch has one batch; evaluate warns too."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    for name, last in (("net.py", ", nn.Softmax(1)"), ("logits.py", "")):
        (tmp_path / name).write_text(
            "from torch import nn\n"
            "def make(classes, channels, height, width):\n"
            f"    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes){last})\n"
        )
    train = ["train", "images", "-e", "3", "-b", str(batch_size), "-q"]
    assert run([*train, "-m", "net.py:make", "-o", "run"]) == 0
    said = capfd.readouterr().err
    assert said.count("warning: the logits of train are probabilities: ") == said.count("are probabilities") == 1
    assert "remove the softmax at the end of the network" in said
    assert run(["evaluate", "run", "images", "-q", "-o", "ev"]) == 0
    assert capfd.readouterr().err.count("the logits of test are probabilities") == 1
    assert run([*train, "-m", "logits.py:make", "-o", "other"]) == 0
    assert "probabilities" not in capfd.readouterr().err


def test_the_log_of_probabilities_gives_them_back(tmp_path: Path) -> None:
    """As the warning promises."""
    probs = torch.randn(N, CLASSES).softmax(1)
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.record(epoch=1, phase="val", inputs=probs, logits=probs.log(), labels=torch.zeros(N).long(), ids=range(N))
    (batch,) = records(tmp_path / "r.jsonl", "batch")
    assert torch.allclose(torch.tensor(batch.probs), probs)


class Net(nn.Module):
    """Returns probabilities in evaluation alone, as some libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(inputs)
        return logits if self.training else logits.softmax(1)


def test_each_phase_is_looked_at(tmp_path: Path) -> None:
    """In watched loops too."""
    data = TensorDataset(torch.randn(96, 4), torch.arange(96) % 3)
    model, criterion = Net(), nn.CrossEntropyLoss()
    with warnings.catch_warnings(record=True) as found, Recorder(tmp_path / "r") as recorder:
        recorder.watch(criterion, model=model)
        for phase in ("train", "val"):
            model.train(phase == "train")
            for inputs, labels in recorder.loader(DataLoader(data, batch_size=16), phase=phase):
                criterion(model(inputs), labels)
    (one,) = found
    assert str(one.message).startswith("the logits of val are probabilities")


def test_a_phase_of_logits_is_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it costs nothing; its values are read once, with the second batch."""
    from capture_cli.writer import double_softmax

    looks = []
    look = double_softmax.SoftmaxCheck.look
    monkeypatch.setattr(double_softmax.SoftmaxCheck, "look", lambda *args: (looks.append(1), look(*args)))
    said(tmp_path / "r.jsonl", lambda one: one, batches=6)
    assert len(looks) == 2
