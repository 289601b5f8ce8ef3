"""Batches of capture's own loop are measured and written together: no byte tells which of them were."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from capture_cli import recorder as module
from capture_cli.journal import Journal
from capture_cli.recorder import Recorder
from capture_cli.records import Batch, Record, decode
from capture_cli.runfolder import Output
from capture_cli.writer import staging

SIZES = [64, 64, 1, 2, 3, 7, 64, 31, 64, 64, 5]


def batches(classes: int) -> list[dict[str, Any]]:
    """One of each size, of logits small and huge, equal, infinite and NaN."""
    generator = torch.Generator().manual_seed(classes)
    given = []
    for number, size in enumerate(SIZES):
        logits = torch.randn(size, classes, generator=generator) * 10 ** (number - 4)
        logits[0] = 1.0
        if number == 6:
            logits[1, 0], logits[2, 1], logits[3] = torch.inf, -torch.inf, torch.nan
        labels = torch.randint(classes, (size,), generator=generator)
        inputs = torch.rand(size, 3, 4, 4, generator=generator)
        given.append(
            {"phase": "train", "epoch": 0, "ids": np.arange(size), "inputs": inputs, "logits": logits, "labels": labels}
        )
    return given


def record(recorder: Recorder, given: dict[str, Any]) -> None:
    """As the training loop does it, gradients and all."""
    logits = given["logits"].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, given["labels"])
    recorder.record(**given | {"logits": logits, "loss": loss})


def recorder_of_a_loop(path: Path, **options: Any) -> Recorder:
    """As `capture train` has it."""
    return Recorder(Output(Journal.create(path), None, str(path)), nonfinite="record", **options)


def lines(path: Path) -> list[bytes]:
    """What is in the file by now."""
    return path.read_bytes().splitlines(keepends=True)


def written(path: Path, classes: int, probs: str | None) -> bytes:
    """The records of these batches."""
    recorder = recorder_of_a_loop(path, probs=probs)
    for given in batches(classes):
        record(recorder, given)
    recorder.end("completed")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("classes", "probs"), [(2, None), (3, None), (10, None), (10, "top:3"), (16, None), (37, "all"), (130, None), (130, "all")]
)
def test_no_byte_depends_on_what_waits(
    classes: int, probs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, all that may wait, and those for which there is room."""
    monkeypatch.setattr(module, "SECONDS_TOGETHER", 0.0)
    alone = written(tmp_path / "alone", classes, probs)
    monkeypatch.setattr(module, "SECONDS_TOGETHER", 1e9)
    assert written(tmp_path / "together", classes, probs) == alone
    monkeypatch.setattr(staging, "MOST_NUMBERS", 100 * classes)
    assert written(tmp_path / "crowded", classes, probs) == alone


def test_records_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there is no more room, or one whose loss is no number comes: it and those before it are written at once."""
    monkeypatch.setattr(module, "SECONDS_TOGETHER", 1e9)
    path = tmp_path / "r.jsonl"
    recorder = recorder_of_a_loop(path)
    counts = []
    for given in batches(10):
        record(recorder, given)
        counts.append(len(lines(path)))
    assert counts == [0] * 6 + [7] + [7] * 4
    recorder.flush()
    assert len(lines(path)) == len(SIZES)


class InterruptedOnce:
    """A sink during which Ctrl-C is pressed, once."""

    every_input = False

    def __init__(self, at: int) -> None:
        self.left = at

    def begin(self, output: Output) -> None:
        """Nothing."""

    def write(self, record: Record, inputs: npt.NDArray[Any] | None) -> None:  # noqa: ARG002
        """Nothing, but once."""
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("at", range(1, 7))
def test_what_waits_behind_an_interruption_is_written_later(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines, each once, and the same sums."""
    monkeypatch.setattr(module, "SECONDS_TOGETHER", 1e9)
    found = []
    for name, sinks in (("whole", []), ("broken", [InterruptedOnce(at)])):
        path = tmp_path / name
        recorder = recorder_of_a_loop(path, sinks=sinks)
        for given in batches(10)[:6]:
            record(recorder, given)
        if sinks:
            with pytest.raises(KeyboardInterrupt):
                recorder.flush()
        record(recorder, batches(10)[7])
        recorder.end_phase()
        recorder.end("completed")
        found.append(path.read_bytes())
    assert found[0] == found[1]


def test_numbers_that_numpy_does_not_know(tmp_path: Path) -> None:
    """What a model answers in bfloat16 is recorded as float32."""
    recorder = recorder_of_a_loop(tmp_path / "r.jsonl")
    given = batches(10)[0]
    record(recorder, given | {"logits": given["logits"].bfloat16()})
    recorder.end("completed")
    _, batch = decode(lines(tmp_path / "r.jsonl")[0])
    assert isinstance(batch, Batch)
    expected = given["logits"].bfloat16().float().softmax(1).numpy()
    assert np.allclose(batch.probs, expected, atol=1e-6)
