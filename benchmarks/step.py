"""One training step, three ways in turn in one process: nothing captured twice over, and everything captured.

    python benchmarks/step.py FOLDER [--model one_conv|cnn|mlp] [--batch 64] [--epochs 7] [--thousand] [--probs top:10]

* ready      the loop that people write, over float tensors that are ready in memory: the limit for any loader
* bare       capture's own loop, with a recorder that does nothing
* captured   capture's own loop as `capture train` runs it, into a run folder

All three train the same network on the same inputs, with weights of their own, whole epochs in turn; the first, in which images
are decoded, is left out. `--thousand` labels the images with the last three digits of their names: 1,000 classes. Prints one JSON
object an epoch: {"side": "ready", "seconds": 0.5, "steps": 157}, and at the end {"bytes_per_visit": 175.1}.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from capture_cli import models
from capture_cli.batches import Data, Minibatch
from capture_cli.config import TrainConfig
from capture_cli.pixels import PixelStore
from capture_cli.plan import make_plan
from capture_cli.recorder import Recorder
from capture_cli.records import Epoch, Samples, Skip
from capture_cli.runfolder import open_output
from capture_cli.runtime import keep_compiler_out, start, without_compiler
from capture_cli.training import Learning, Setup, make_optimizer, train_step
from peer_models import one_conv

SIZE, LR = 32, 1e-3
THOUSAND = r"(?P<label>\d{3})$"


class Nothing:
    """A recorder that does nothing, which is what the others are measured against."""

    nonfinite = None
    step = 0

    def record(self, **_: Any) -> None:
        """Nothing."""
        self.step += 1

    def write(self, record: Skip) -> None:
        """Nothing."""

    def samples(self, whole: Samples) -> None:
        """Nothing."""

    def end_phase(self) -> Epoch | None:
        """Nothing."""
        return None


def model_of(name: str, classes: int) -> nn.Module:
    """The network, with the same weights every time."""
    torch.manual_seed(0)
    if name == "one_conv":
        return one_conv(classes=classes, channels=3, height=SIZE, width=SIZE)
    return models.build(name, classes=classes, channels=3, height=SIZE, width=SIZE)


def ready(data: Data, classes: int, options: argparse.Namespace) -> Callable[[int], int]:
    """The loop over ready tensors: returns the number of its steps."""
    model = model_of(options.model, classes)
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=LR), nn.CrossEntropyLoss()
    batches = list(data.batches("train", 1))
    inputs, labels = torch.cat([one.inputs for one in batches]), torch.cat([one.labels for one in batches])

    def epoch(_number: int) -> int:
        chosen = torch.randperm(len(inputs)).split(options.batch)
        for some in chosen:
            optimizer.zero_grad()
            criterion(model(inputs[some]), labels[some]).backward()
            optimizer.step()
        return len(chosen)

    return epoch


def ours(data: Data, classes: int, options: argparse.Namespace, recorder: Any) -> Callable[[int], int]:
    """capture's loop with this recorder."""
    model = model_of(options.model, classes)
    optimizer = make_optimizer(model, opt="adam", lr=LR, weight_decay=0.0)
    setup = Setup(
        model=model,
        forward=model,
        data=data,
        runtime=start("cpu", amp=False),
        recorder=recorder,
        advance=lambda _: None,
        timed=lambda *_: None,
        stopping=lambda: False,
    )
    learning = Learning(
        optimizer=optimizer,
        parameters=list(model.parameters()),
        update=without_compiler(optimizer),
        epochs=1000,
        lr=LR,
        sched="constant",
        seed=0,
    )

    def epoch(number: int) -> int:
        steps = 0
        for batch in _each(data.batches("train", number)):
            train_step(setup, learning, number, batch)
            steps += 1
        recorder.end_phase()
        return steps

    return epoch


def _each(batches: Iterator[Minibatch]) -> Iterator[Minibatch]:
    yield from batches


def main() -> None:
    """Measure, epoch by epoch in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--model", default="one_conv")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--thousand", action="store_true")
    parser.add_argument("--probs")
    options = parser.parse_args()
    labels = THOUSAND if options.thousand else "auto"
    config = TrainConfig(batch_size=options.batch, img_size=str(SIZE), channels=3, val_split=0.0, labels=labels)
    plan = make_plan(options.folder, config)
    classes = len(plan.scan.classes)
    keep_compiler_out()
    with tempfile.TemporaryDirectory() as place, open_output(f"{place}/run", name=None, model="", force=False) as output:
        store = PixelStore(len(plan.scan.files), plan.geometry)
        recorder = Recorder(output, probs=options.probs, nonfinite="record")

        def data(told: Any) -> Data:
            return Data(plan.scan, store, plan.recipe, told, seed=0, batch_size=options.batch, device=torch.device("cpu"))

        first = data(recorder)
        sides = {
            "captured": ours(first, classes, options, recorder),
            "bare": ours(first, classes, options, Nothing()),
            "ready": ready(first, classes, options),
        }
        sides["captured"](0)
        for number in range(1, options.epochs):
            for side, epoch in sides.items():
                began = time.perf_counter()
                steps = epoch(number)
                print(json.dumps({"side": side, "seconds": time.perf_counter() - began, "steps": steps}), flush=True)
        size = Path(place, "run", "records.jsonl").stat().st_size
        print(json.dumps({"bytes_per_visit": size / (len(plan.scan.files) * options.epochs)}))


if __name__ == "__main__":
    main()
