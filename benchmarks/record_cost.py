"""The cost of `Recorder.record` in your own loop, beside the MLflow calls that such loops are advised to make.

    python benchmarks/record_cost.py [--repeats 5]

A batch of 64 with 10 classes and inputs of 3x32x32, on the CPU, with all facts of each sample recorded. Beside it the calls of
the usual recipe: `log_metric` of the loss, and `log_text` of two inputs, two rows of probabilities and two labels, into
MLflow's default store. Both take turns and only these calls are timed: once called over and over, and once in a real loop (a
small CNN, Adam), where the caches hold nothing of the recording code. Figures are medians over the batches.

With 50,000 classes, top-K of every batch, stands beside torch's cross-entropy of the same logits; in training, where these have
gradients, and in an evaluation, where they have none. A skipped batch of `every=10` stands beside
`F.cross_entropy(logits, labels, reduction="none")`, which is the least that its sums need. All take turns in one process.

Memory is that of one process over 10,000 records: what it holds at the end, less what it held after 2,000.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from measuring import NotMeasuredError, Row, machine, ran, table

HERE = Path(__file__).resolve()
BATCHES = {"capture": 300, "mlflow": 30}
"""How many each process trains on; the first five are not counted."""
RECORDS = 10_000
SKIPPED = "a batch of 64 that `every=10` skips beside its loss, {} classes"
Record = Callable[[int, Any, Any, Any, Any], object]


def loop(batches: int, record: Record, *, train: bool) -> list[float]:
    """The seconds of each call of `record(step, inputs, logits, labels, loss)`, over and over or with training between."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 15 * 15, 10))
    optimizer, criterion = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    inputs, labels = torch.randn(20, 64, 3, 32, 32), torch.randint(10, (20, 64))
    seconds = []
    logits, loss = model(inputs[0]), torch.tensor(2.3)
    for step in range(batches):
        batch, wanted = inputs[step % 20], labels[step % 20]
        if train:
            logits = model(batch)
            loss = criterion(logits, wanted)
        start = time.perf_counter()
        record(step, batch, logits, wanted, loss)
        seconds.append(time.perf_counter() - start)
        if not train:
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return seconds[5:]


def with_capture(batches: int, *, train: bool) -> list[float]:
    """Seconds of each `record`, everything captured."""
    from capture_cli import Recorder

    with Recorder("run.jsonl") as recorder:

        def record(step: int, inputs: Any, logits: Any, labels: Any, loss: Any) -> None:
            ids = range(step % 20 * 64, step % 20 * 64 + 64)
            recorder.record(
                epoch=step // 20, phase="train", inputs=inputs, logits=logits, labels=labels, ids=ids, loss=loss, lr=1e-3
            )

        return loop(batches, record, train=train)


def with_mlflow(batches: int, *, train: bool) -> list[float]:
    """Seconds of the calls of the recipe, for each batch."""
    import mlflow
    import torch

    with mlflow.start_run():

        def record(step: int, inputs: Any, logits: Any, labels: Any, loss: Any) -> None:
            probs = torch.softmax(logits, dim=1).detach().numpy()
            name = f"Epoch_{step // 20}_Batch_{step % 20}"
            mlflow.log_metric(f"{name}_loss", loss.item())
            mlflow.log_text(str(inputs[:2].detach().numpy()), f"{name}_inputs.txt")
            mlflow.log_text(str(probs[:2]), f"{name}_predicted_probs.txt")
            mlflow.log_text(str(labels[:2].detach().numpy()), f"{name}_true_labels.txt")

        return loop(batches, record, train=train)


def many_classes(*, train: bool) -> tuple[float, float]:
    """Seconds of a record of [64, 50000], and of the cross-entropy of these logits, with gradients or without."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

    from capture_cli import Recorder

    inputs, labels = torch.randn(64, 3, 32, 32), torch.randint(50_000, (64,))
    logits = torch.randn(64, 50_000, requires_grad=train)
    recorded, alone = [], []
    with Recorder("many.jsonl") as recorder:
        for step in range(40):
            start = time.perf_counter()
            loss = F.cross_entropy(logits, labels)
            middle = time.perf_counter()
            recorder.record(epoch=step, phase="train", inputs=inputs, logits=logits, labels=labels, ids=range(64), loss=loss)
            recorded.append(time.perf_counter() - middle)
            alone.append(middle - start)
    return median(recorded[5:]), median(alone[5:])


def skipped(classes: int, *, train: bool) -> tuple[float, float]:
    """Seconds of a skipped batch, and of the loss of each of its samples."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

    from capture_cli import Recorder

    inputs, labels = torch.randn(64, 3, 32, 32), torch.randint(classes, (64,))
    logits = torch.randn(64, classes, requires_grad=train)
    loss, plain = F.cross_entropy(logits, labels), logits.detach()
    recorded, alone = [], []
    with Recorder("skipped.jsonl", every=10) as recorder:
        for step in range(2_000):
            ids, phase = range(step * 64, step * 64 + 64), "train" if train else "val"
            start = time.perf_counter()
            F.cross_entropy(plain, labels, reduction="none")
            middle = time.perf_counter()
            recorder.record(epoch=1, phase=phase, inputs=inputs, logits=logits, labels=labels, ids=ids, loss=loss)
            if step % 10:
                recorded.append(time.perf_counter() - middle)
                alone.append(middle - start)
    return median(recorded), median(alone)


def memory() -> int:
    """Bytes more after 10,000 records than after 2,000."""
    import torch

    from capture_cli import Recorder

    inputs, logits, labels = torch.randn(64, 3, 32, 32), torch.randn(64, 10), torch.randint(10, (64,))
    held = 0
    with Recorder("run.jsonl") as recorder:
        for step in range(RECORDS):
            ids = range(step % 100 * 64, step % 100 * 64 + 64)
            recorder.record(epoch=step // 100, phase="train", inputs=inputs, logits=logits, labels=labels, ids=ids)
            if step == 2_000:
                held = _resident_bytes()
        return _resident_bytes() - held


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def record_cost(repeats: int) -> list[Row]:
    """The rows of the table. Raises NotMeasuredError where there is no MLflow."""
    if not find_spec("mlflow"):
        raise NotMeasuredError("mlflow is not installed beside capture")
    seconds: dict[str, list[float]] = {f"{who} {how}": [] for how in ("alone", "training") for who in BATCHES}
    for _ in range(repeats):
        for name, found in seconds.items():
            found += _apart(*name.split())
    ms = {name: median(found) * 1e3 for name, found in seconds.items()}
    grown = _apart("memory") / 1e6
    rows = []
    for how, where, wanted in (("alone", "over and over", "at most 0.25 ms, 30 times less"), ("training", "in a loop", "-")):
        one, other = ms[f"capture {how}"], ms[f"mlflow {how}"]
        rows.append(
            Row(
                f"`record()` of 64 samples, {where}, beside MLflow calls for two of them",
                f"{one:.2f} ms",
                f"{other:.1f} ms",
                f"{other / one:.0f} times less",
                wanted,
                wanted == "-" or (one <= 0.25 and other >= 30 * one),
            )
        )
    limits = {"many": ("`record()` of 64 samples of {} classes beside their cross-entropy", 1.3), "skipped": (SKIPPED, 1.0)}
    for name, classes in (("many", 50_000), ("skipped", 1000), ("skipped", 10)):
        for how, where in (("training", "training"), ("alone", "evaluation")):
            what, most = limits[name]
            turns = [_apart(name, how, classes) for _ in range(repeats)]
            one, other = (median(column) * 1e3 for column in zip(*turns, strict=True))
            ratio = median(mine / alone for mine, alone in turns)
            title = f"{what.format(f'{classes:,}')}, {where}"
            rows.append(
                Row(title, f"{one:.3f} ms", f"{other:.3f} ms", f"{ratio:.2f} times", f"at most {most:g}", ratio <= most)
            )
    return [*rows, Row(f"memory from record 2,000 to {RECORDS:,}", f"{grown:+.1f} MB", "-", "-", "at most 2 MB", grown <= 2)]


def _apart(what: str, how: str = "alone", classes: int = 10) -> Any:
    """Measure in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--measure", what, "--how", how, "--classes", str(classes), "--folder", folder]
        return json.loads(ran([sys.executable, str(HERE), *options]).stdout.splitlines()[-1])


def main() -> None:
    """Print the table, or in a process of its own what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=["capture", "mlflow", "memory", "many", "skipped"], help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=["alone", "training"], help=argparse.SUPPRESS)
    parser.add_argument("--classes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.measure:
        print(f"{machine()}\n\n{table(record_cost(options.repeats))}")
        return
    import os

    os.chdir(options.folder)
    train = options.how == "training"
    if options.measure == "memory":
        measured: Any = memory()
    elif options.measure == "many":
        measured = many_classes(train=train)
    elif options.measure == "skipped":
        measured = skipped(options.classes, train=train)
    elif options.measure == "capture":
        measured = with_capture(BATCHES["capture"], train=train)
    else:
        measured = with_mlflow(BATCHES["mlflow"], train=train)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
