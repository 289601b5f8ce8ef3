"""Limits on the cost of capture, as ratios and sizes that do not depend on the machine, with room for noise.

The figures themselves are in docs/benchmarks.md; these tests notice a change that makes a step or a record much more expensive.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLE_DATA = ROOT / "sample_data"
MOST = 1.15
"""A captured step, beside the same step with a recorder that does nothing."""
TRIES = 3
BYTES = 190
"""Of the batch records, for a visit to a sample of 10 classes."""


def quickest_epochs() -> dict[str, float]:
    """Return the CPU seconds of the quickest of 12 epochs of 10 steps on one thread, captured and not.

    Other processes hardly affect these.
    """
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "step.py"),
        str(SAMPLE_DATA),
        "--epochs=13",
        "--sides",
        "captured,bare",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    sides = {epoch["side"] for epoch in epochs}
    return {side: min(epoch["cpu_seconds"] for epoch in epochs if epoch["side"] == side) for side in sides}


@pytest.mark.alone
def test_capturing_everything_costs_little_of_a_step() -> None:
    """A step of a small network with everything captured takes at most 15 % longer than without."""
    ratios = []
    for _ in range(TRIES):  # once is enough where it holds
        quickest = quickest_epochs()
        ratios.append(quickest["captured"] / quickest["bare"])
        if ratios[-1] <= MOST:
            return
    pytest.fail(f"captured over not captured: {ratios}, at most {MOST} is wanted")


def test_a_visit_takes_few_bytes(capture: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """A visit to a sample, with its ten probabilities and the digest of its input, takes at most 190 bytes of batch records."""
    done = capture("train", SAMPLE_DATA, "--epochs", 1, "--quiet", "-o", "run.jsonl")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run.jsonl").read_bytes().splitlines(keepends=True)
    batches = [line for line in lines if json.loads(line)["kind"] == "batch"]
    visits = sum(len(json.loads(line)["ids"]) for line in batches)
    assert visits == 600
    assert sum(map(len, batches)) / visits <= BYTES
