"""capture_cli.checkpoint: atomic, exact, the one before kept, and every value checked even if the digest fits."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from capture_cli.checkpoint import Progress, load, read, save, to_bytes
from capture_cli.config import Every
from capture_cli.errors import CaptureError, UsageError
from capture_cli.training.learning import make_optimizer


def at(epoch: int = 1, *, phase: str = "train", batch: int = 0, loss: float = 0.0) -> Progress:
    """Make a progress such as a run has."""
    sums = {
        "phase": phase,
        "epoch": epoch,
        "batches": batch,
        "n": 0,
        "loss": loss,
        "correct": 0,
        "captured": 0,
        "classes": None,
    }
    losses = {"factor": 10.0, "n": 3, "mean": 0.5, "variance": 0.25}
    return Progress(
        epoch=epoch,
        phase=phase,
        batch=batch,
        journal={"seq": 3, "bytes": 100, "chain": "0f" * 16},
        writer={"step": 7, "sums": sums, "pack": 0, "flight": 0, "losses": losses},
    )


def trained(opt: str, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train a small model with batch normalisation for some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    optimizer = make_optimizer(model, opt=opt, lr=0.01, weight_decay=0.01)
    further(model, optimizer, steps)
    return model, optimizer


def further(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("opt", ["adamw", "adam", "sgd"])
def test_a_training_continues_bit_for_bit(tmp_path: Path, opt: str) -> None:
    """Weights, buffers and optimizer state are restored exactly: the next steps give the same bits."""
    model, optimizer = trained(opt)
    progress = at(2, phase="val", batch=7, loss=0.1 + 0.2)
    save(tmp_path, model, optimizer, progress)
    further(model, optimizer, 4)
    other, other_optimizer = trained(opt, steps=0)
    found = load(tmp_path)
    assert found is not None
    assert found.progress == progress
    found.restore(other, other_optimizer)
    further(other, other_optimizer, 4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "pickle"])
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path: Path, damage: str) -> None:
    """The digest detects a flipped bit anywhere; the older file is used and the damage reported."""
    model, optimizer = trained("adamw")
    for epoch in (1, 2):
        save(tmp_path, model, optimizer, at(epoch))
    path = tmp_path / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-5] ^= 4
    path.write_bytes({"bit": bytes(data), "cut": bytes(data[:-9]), "empty": b"", "pickle": b"\x80\x04N."}[damage])
    found = load(tmp_path)
    assert found is not None
    assert found.progress.epoch == 1
    assert "checkpoint.safetensors" in found.damaged


def test_damaged_checkpoints_are_an_error_and_no_checkpoint_is_none(tmp_path: Path) -> None:
    """Damage is never mistaken for a fresh start."""
    assert load(tmp_path) is None
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(CaptureError, match="intact"):
        load(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """The message says what may be the reason."""
    save(tmp_path, *trained("adamw"), at())
    found = load(tmp_path)
    assert found is not None
    model = nn.Linear(3, 3)
    with pytest.raises(CaptureError, match="another model"):
        found.restore(model, make_optimizer(model, opt="adamw", lr=0.1, weight_decay=0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", 0),
        ("epoch", -1),
        ("epoch", True),
        ("epoch", 10**400),
        ("phase", "test"),
        ("phase", ["train"]),
        ("batch", 1),
        ("batch", None),
        ("journal", []),
        ("journal.bytes", 1.0),
        ("journal.chain", "no hexadecimal digits, or too many"),
        ("writer.step", float("nan")),
        ("writer.sums.n", 2**53),
        ("writer.sums.loss", "0.5"),
        ("writer.losses.n", -1),
        ("writer.losses.variance", -0.25),
        ("writer.losses.another", 0.0),
    ],
)
def test_a_progress_that_no_run_can_have_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    """Even with a digest that fits; the message names the value, and the checkpoint before it is used."""
    model, optimizer = trained("adamw")
    for epoch in (1, 2):
        save(tmp_path, model, optimizer, at(epoch))
    path = tmp_path / "checkpoint.safetensors"
    progress, tensors = read(path)
    body = json.loads(json.dumps(vars(progress)))
    *outer, last = name.split(".")
    inside = body
    for one in outer:
        inside = inside[one]
    inside[last] = value
    path.write_bytes(to_bytes(json.dumps({"progress": body}), tensors))
    found = load(tmp_path)
    assert found is not None
    assert found.progress.epoch == 1
    assert "is not valid" in found.damaged
    assert outer[-1] in found.damaged if last == "another" else last in found.damaged


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.0.weight", torch.zeros(4, 8)),
        ("model.0.weight", torch.zeros(8, 4, dtype=torch.float64)),
        ("model.9.weight", torch.zeros(8, 4)),
        ("optimizer.0.exp_avg", torch.zeros(4, 8)),
        ("optimizer.0.step", torch.zeros(1)),
        ("optimizer.0.step", None),
        ("optimizer.x.step", torch.zeros(())),
        ("optimizer.99.step", torch.zeros(())),
        ("", torch.zeros(())),
    ],
)
def test_tensors_that_the_model_does_not_have_are_refused(tmp_path: Path, name: str, tensor: torch.Tensor | None) -> None:
    """No tensor of another shape, type or name gets into a model or its optimizer, and none may be missing."""
    save(tmp_path, *trained("adamw"), at())
    path = tmp_path / "checkpoint.safetensors"
    progress, tensors = read(path)
    tensors |= {name: tensor} if tensor is not None else {}
    if tensor is None:
        del tensors[name]
    path.write_bytes(to_bytes(json.dumps({"progress": vars(progress)}), tensors))
    found = load(tmp_path)
    assert found is not None
    with pytest.raises(CaptureError, match="another model"):
        found.restore(*trained("adamw"))


def test_a_checkpoint_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    """A FIFO does not block, and a link is not followed."""
    path = tmp_path / "checkpoint.safetensors"
    os.mkfifo(path)
    with pytest.raises(CaptureError, match="not a regular file"):
        load(tmp_path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(CaptureError, match="not a regular file"):
        load(tmp_path)


def test_intervals_are_steps_or_seconds() -> None:
    """A number of steps, or of seconds with an s."""
    assert [Every.parse("3").due(steps, 0.0) for steps in (2, 3)] == [False, True]
    assert [Every.parse("60s").due(10**6, seconds) for seconds in (59.0, 60.0)] == [False, True]
    for text in ("", "0", "-1", "1m", "s"):
        with pytest.raises(UsageError):
            Every.parse(text)
