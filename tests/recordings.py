"""Read back what a recorder wrote, and make batches for one.

(batch,) = records(path, "batch")           # decoded, checked and verified as `capture verify` does it
status = verified(path)                     # ... of a file that is sealed: how it ended
recorder.record(**batch_of(64, 10))
"""

from pathlib import Path
from typing import Any

import torch

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
