"""A training that stands still in the middle until the test has done what it wants to do to it.

    model = held_model(tmp_path)                        # for `capture train -m MODEL`
    with subprocess.Popen([..., "-m", model], cwd=tmp_path, env=held_at(100)) as process:
        held(tmp_path, process)                         # at its 100th forward pass
        process.send_signal(signal.SIGINT)
        let_go(tmp_path)

However fast or slow the machine is, what was recorded by then is the same.
"""

import os
import subprocess
import time
from pathlib import Path

MODEL = """
import os, time
from pathlib import Path
import torch

class Net(torch.nn.Linear):
    passes = 0

    def forward(self, x):
        Net.passes += 1
        if Net.passes == int(os.environ.get("HELD_AT", "0")):
            Path("held").touch()
            while Path("held").exists():
                time.sleep(0.002)
        return super().forward(x.flatten(1))

def make(classes, channels, height, width):
    return Net(channels * height * width, classes)
"""


def held_model(folder: Path) -> str:
    """Write the file of the model into the folder in which the training will run; return what `-m` takes."""
    (folder / "net.py").write_text(MODEL)
    return "net.py:make"


def held_at(forward_pass: int) -> dict[str, str]:
    """Return the environment of a training that stands still at its so-manyth forward pass."""
    return {**os.environ, "HELD_AT": str(forward_pass)}


def held(folder: Path, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Wait until the training stands still."""
    while not (folder / "held").exists():
        assert process.poll() is None, "the training has ended"
        time.sleep(0.005)


def let_go(folder: Path) -> None:
    """Let the training continue."""
    (folder / "held").unlink()
