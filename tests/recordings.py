"""Read back what a recorder wrote, and make batches for one.

(batch,) = records(path, "batch")           # decoded, checked and verified as `capture verify` does it
status = verified(path)                     # ... of a file that is sealed: how it ended
recorder.record(**batch_of(64, 10))
with recording(path) as recorder:
    give(recorder, scale=1000)              # a batch of 4 samples with a large loss
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capture_cli import Recorder
from capture_cli.answers.verification import verify
from capture_cli.runs import open_run


def records(path: Path, *kinds: str) -> list[Any]:
    """Return the records of these kinds, by default of all; every line so far must verify."""
    with open_run(path) as reading:
        found = [line.record() for line in reading.lines()]
        assert reading.ending.state in ("sealed", "unsealed"), reading.ending.sentence
    return [one for one in found if not kinds or one.kind in kinds]


def verified(path: Path) -> str | None:
    """Return the status of a sealed run, all of whose lines must verify."""
    with open_run(path) as reading:
        error = verify(reading).error
        assert error is None, error
        return reading.ending.status


def passes(path: Path) -> list[tuple[str, int, int]]:
    """Return (phase, epoch, samples) of the epoch records, in order."""
    return [(one.phase, one.epoch, one.n) for one in records(path, "epoch")]


def batch_of(n: int, classes: int, *, seed: int = 0, first: int = 0, epoch: int = 0, phase: str = "train") -> dict[str, Any]:
    """Return arguments of `record` for n samples with ids from `first`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "epoch": epoch,
        "phase": phase,
        "inputs": torch.rand(n, 3, 4, 4, generator=generator),
        "logits": torch.randn(n, classes, generator=generator),
        "labels": torch.randint(classes, (n,), generator=generator),
        "ids": list(range(first, first + n)),
    }


def give(
    recorder: Recorder, *, scale: float = 1.0, phase: str = "train", epoch: int = 0, n: int = 4, nan: bool = False
) -> None:
    """Record one batch of `n` samples and 3 classes; the loss grows with `scale`."""
    generator = torch.Generator().manual_seed(recorder.step)
    inputs = torch.rand(n, 1, 2, 2, generator=generator)
    logits = (torch.rand(n, 3, generator=generator) * scale).requires_grad_()
    if nan:
        logits = logits * float("nan")
    labels = torch.arange(n) % 3
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    ids, files = np.arange(n), [f"cat_{i}.png" for i in range(n)]
    recorder.record(
        phase=phase,
        epoch=epoch,
        inputs=inputs,
        logits=logits,
        labels=labels,
        ids=ids,
        files=files,
        losses=losses,
        loss=losses.mean(),
    )


def lines(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the records of these kinds, by default the batches."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [one for one in found if one["kind"] in (kinds or ("batch",))]


def recording(path: Path, **options: Any) -> Recorder:
    """Open a recorder that accepts the same samples again and again."""
    return Recorder(path, repeats=True, nonfinite="record", **options)
