"""One training step, three ways in turn in one process: nothing captured twice over, and everything captured.

    python benchmarks/step.py FOLDER [--model one_conv|cnn|mlp] [--batch 64] [--epochs 7] [--thousand] [--probs top:10]
    python benchmarks/step.py FOLDER --device cuda --amp --size 224 --model torchvision:resnet18 --batch 256

* ready      the loop that people write, over float tensors in memory: the limit for any loader
* bare       capture's own loop, with a writer that does nothing
* captured   capture's own loop as `capture train` runs it, into a run folder

All three train the same network on the same inputs, each with weights of its own, whole epochs in turn. The first epoch, in
which images are decoded, does not count. `--thousand` labels the images with the last three digits of their names: 1,000
classes.

Prints one JSON object per epoch, {"side": "ready", "seconds": 0.5, "cpu_seconds": 1.0, "steps": 157}, and at the end
{"bytes_per_visit": 185.1}, counting batch records only: `samples` records are written once per image.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from capture_cli import models
from capture_cli.config import TrainConfig
from capture_cli.pixels.admission import Loader
from capture_cli.pixels.store import MemoryStore
from capture_cli.plan import make_plan
from capture_cli.records import Epoch, Samples, Skip
from capture_cli.runfolder import open_output
from capture_cli.runtime import Runtime, keep_compiler_out, start, without_compiler
from capture_cli.training import Setup, train_step
from capture_cli.training.batches import Data, Minibatch
from capture_cli.training.job import BATCHING_SECONDS
from capture_cli.training.learning import Learning, make_optimizer
from capture_cli.writer import BatchWriter
from peer_models import one_conv

LR = 1e-3
THOUSAND = r"(?P<label>\d{3})\.png$"


class Nothing:
    """A writer that does nothing, to measure the others against."""

    first_nonfinite = None
    step = 0

    def record(self, *_: object) -> None:
        """Nothing."""
        self.step += 1

    def write(self, record: Samples | Skip) -> None:
        """Nothing."""

    def end_phase(self) -> Epoch | None:
        """Nothing."""
        return None


class Bench:
    """The images, the device, and the loops over them."""

    def __init__(self, options: argparse.Namespace) -> None:
        labels = THOUSAND if options.thousand else "auto"
        config = TrainConfig(batch_size=options.batch, img_size=str(options.size), channels=3, val_split=0.0, labels=labels)
        self.options = options
        self.runtime: Runtime = start(options.device, amp=options.amp)
        self.plan = make_plan(options.folder, config)
        self._store = MemoryStore(len(self.plan.scan.files), Loader(self.plan.geometry))

    def data(self, writer: Any) -> Data:
        """The batches, of which the writer is told what was read."""
        plan, device = self.plan, self.runtime.device
        return Data(plan.scan, self._store, plan.recipe, writer, seed=0, batch_size=self.options.batch, device=device)

    def model(self) -> nn.Module:
        """The network, with the same weights every time."""
        torch.manual_seed(0)
        shape = {"classes": len(self.plan.scan.classes), "channels": 3, "height": self.options.size, "width": self.options.size}
        name = self.options.model
        model = one_conv(**shape) if name == "one_conv" else models.build(name, **shape)
        return model.to(self.runtime.device)

    def ready(self, data: Data) -> Callable[[int], int]:
        """The loop over ready tensors: takes the number of an epoch, returns how many steps it had."""
        model = self.model()
        optimizer, criterion = torch.optim.Adam(model.parameters(), lr=LR), nn.CrossEntropyLoss()
        batches = list(data.batches("train", 1))
        inputs, labels = torch.cat([one.inputs for one in batches]), torch.cat([one.labels for one in batches])

        def epoch(_number: int) -> int:
            chosen = torch.randperm(len(inputs)).to(inputs.device).split(self.options.batch)  # type: ignore[no-untyped-call]
            for some in chosen:
                optimizer.zero_grad()
                with self.runtime.autocast():
                    loss = criterion(model(inputs[some]), labels[some])
                loss.backward()
                optimizer.step()
            return len(chosen)

        return epoch

    def ours(self, data: Data, writer: Any) -> Callable[[int], int]:
        """capture's loop with this writer."""
        step = self.step(data, writer)

        def epoch(number: int) -> int:
            steps = 0
            for batch in data.batches("train", number):
                step(number, batch)
                steps += 1
            writer.end_phase()
            return steps

        return epoch

    def step(self, data: Data, writer: Any) -> Callable[[int, Minibatch], None]:
        """What capture's loop does with a batch of an epoch."""
        model = self.model()
        optimizer = make_optimizer(model, opt="adam", lr=LR, weight_decay=0.0)
        setup = Setup(
            model=model,
            forward=model,
            data=data,
            runtime=self.runtime,
            writer=writer,
            advance=lambda _: None,
            phase_ended=lambda *_: None,
            stopping=lambda: False,
        )
        learning = Learning(
            optimizer=optimizer,
            update=without_compiler(optimizer),
            epochs=1000,
            lr=LR,
            sched="constant",
            seed=0,
        )
        return partial(train_step, setup, learning)

    def finish(self) -> None:
        """Wait until the device has done what it was told."""
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def recording(options: argparse.Namespace) -> Iterator[tuple[BatchWriter, Path]]:
    """Yield a writer into a run folder, as `capture train` has it, and its records; both are removed afterwards."""
    with tempfile.TemporaryDirectory() as place, open_output(f"{place}/run", name=None, model="", force=False) as output:
        yield BatchWriter(output, probs=options.probs, batching_seconds=BATCHING_SECONDS), Path(place, "run", "records.jsonl")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    made.add_argument("folder")
    made.add_argument("--model", default="one_conv")
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--size", type=int, default=32)
    made.add_argument("--epochs", type=int, default=7)
    made.add_argument("--thousand", action="store_true")
    made.add_argument("--probs")
    made.add_argument("--sides", default="captured,bare,ready", help="captured always is")
    made.add_argument("--device", default="cpu")
    made.add_argument("--amp", action="store_true")
    return made


def main() -> None:
    """Measure, epoch by epoch in turn."""
    options = parser().parse_args()
    keep_compiler_out()
    bench = Bench(options)
    with recording(options) as (writer, records):
        data = bench.data(writer)
        captured = bench.ours(data, writer)
        captured(1)
        sides: dict[str, Callable[[int], int]] = {"captured": captured}
        if "bare" in options.sides:
            sides["bare"] = bench.ours(data, Nothing())
        if "ready" in options.sides:
            sides["ready"] = bench.ready(data)
        for number in range(2, options.epochs + 1):
            for side, epoch in sides.items():
                bench.finish()
                began, began_cpu = time.perf_counter(), time.process_time()
                steps = epoch(number)
                bench.finish()
                took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
                print(json.dumps({"side": side, **took, "steps": steps}), flush=True)
        batches = [len(line) for line in records.open("rb") if b'"kind":"batch"' in line[:40]]
        print(json.dumps({"bytes_per_visit": sum(batches) / (len(bench.plan.scan.files) * options.epochs)}))


if __name__ == "__main__":
    main()
