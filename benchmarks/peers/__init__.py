"""A step with everything captured, beside other tools: each peer is a script of its own, on the same work.

    python benchmarks/bench.py --only mlflow --only lightning --only weightslab
    PEERS_PYTHON=/path/to/python python benchmarks/bench.py --only weightslab

Model, optimizer, batch size, input size and images are those of plain_loop.py. The peers run in the interpreter that
PEERS_PYTHON names (default: this one), so that their dependencies do not meet capture's. It needs torch, torchvision, Pillow
and the peer itself. Each script prints the JSON object of plain_loop.py for each epoch.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from fashion import folder_of
from measuring import DATA, HERE, NotMeasuredError, Row, json_lines, per_step, ran, speed_row, trained

PYTHON = os.environ.get("PEERS_PYTHON", sys.executable)


def mlflow(repeats: int) -> Iterator[Row]:
    """Beside the plain loop with MLflow's calls for each batch, as they are advised."""
    return _beside("mlflow", "plain_loop.py --epochs=1 --mlflow", "the plain loop with MLflow for each batch", 6, repeats)


def lightning(repeats: int) -> Iterator[Row]:
    """Beside Lightning with its CSV logger."""
    return _beside("lightning", "peers/lightning_loop.py", "Lightning with a CSV logger", 4, repeats)


def weightslab(repeats: int) -> Iterator[Row]:
    """Beside WeightsLab, as it comes and without its live projection, which trains a network of its own beside the model."""
    repeats = min(repeats, 2)  # an epoch takes half a minute
    script, what = "peers/weightslab_loop.py", "WeightsLab over ready tensors"
    yield from _beside("weightslab", script, what, 25, repeats)
    yield from _beside("weightslab", script, f"{what}, its projection off", 25, repeats, "WEIGHTSLAB_PROJECTION=0")


def _beside(package: str, script: str, what: str, at_least: float, repeats: int, *environment: str) -> Iterator[Row]:
    """The peer's epochs beside the warm ones of as many trainings of 3 epochs; `script` is a file with its options."""
    folder = folder_of("fashion10k", DATA)
    peer, *options = script.split()
    command = ["env", f"PYTHONPATH={HERE}", *environment, PYTHON, str(HERE / peer), str(folder), *options]
    version = _version(package)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        ours += trained(folder, "--epochs=3").warm_steps
        theirs += per_step(json_lines(ran(command).stdout))
    yield speed_row(f"step, beside {what} ({version})", median(ours) * 1e3, median(theirs) * 1e3, "ms", at_least)


def _version(package: str) -> str:
    """Raises NotMeasuredError where the peers' interpreter does not have the package."""
    code = f"from importlib.metadata import version; import {package}; print('\\nversion', version('{package}'))"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise NotMeasuredError(f"{said}: name an interpreter that has {package} in PEERS_PYTHON")
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("version "))  # a banner may be about it
