"""Records of an imaginary training, with hostile names."""

import numpy as np

from capture_cli.records import Batch, Epoch, Inputs, RunInfo

CLASSES = ["boot", "coat"]
HOSTILE = "\x1b[2J\x1b[31m\x1b]52;c;aGk=\x07[bold]x[/bold][/]:smile:\u202e\n\udc80.png"
SHOWN = r"\x1b[2J\x1b[31m\x1b]52;c;aGk=\x07[bold]x[/bold][/]:smile:\u202e\n\udc80.png"


def batch(phase: str = "train", epoch: int = 1, *, file: str = "boot_0001.png", label: int = 0, pred: int = 0) -> Batch:
    """Make a batch of two samples: the given one, and one with a correct prediction."""
    probs = np.array([[0.031, 0.969] if label != pred else [0.98, 0.02], [0.4, 0.6]], np.float32)
    return Batch(
        phase=phase,
        epoch=epoch,
        batch=0,
        step=0,
        loss=0.5,
        lr=0.1,
        ids=[0, 1],
        files=[file, "coat_0002.png"],
        labels=np.array([label, 1]),
        preds=np.array([pred, 1]),
        losses=-np.log(probs[[0, 1], [label, 1]]),
        probs=probs,
        inputs=Inputs(shape=(1, 8, 8), dtype="float32", digests=[]),
    )


def sums(phase: str, epoch: int = 1, *, n: int = 100) -> Epoch:
    """Make the totals of a phase."""
    return Epoch(phase=phase, epoch=epoch, n=n, loss=0.5, accuracy=0.75, captured=n, not_captured=0)


INPUTS = np.zeros((2, 1, 8, 8), np.float32)
RUN = RunInfo(config={}, folder="f", classes=CLASSES, model={}, recipe={}, versions={}, device="cpu", threads=1)
