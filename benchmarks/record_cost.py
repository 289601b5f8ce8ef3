"""The cost of `Recorder.record` in your own loop, beside the MLflow calls that such loops are advised to make.

    python benchmarks/record_cost.py [--repeats 5]

A batch of 64 with 10 classes and inputs of 3x32x32, on the CPU, with all facts of each sample recorded. Beside it the calls of
the usual recipe: `log_metric` of the loss, and `log_text` of two inputs, two rows of probabilities and two labels, into
MLflow's default store. Both take turns and only these calls are timed: once called over and over, and once in a real loop (a
small CNN, Adam), where the caches hold nothing of the recording code. Figures are medians over the batches.

With 50,000 classes, top-K of every batch, stands beside torch's cross-entropy of the same logits, and a skipped batch of
`every=10`, with 1,000 classes and a watched loss function, beside that function alone; each in turns in one process.

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


def many_classes() -> tuple[float, float]:
    """Seconds of a record of [64, 50000], and of the cross-entropy of these logits."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - its name in every PyTorch program

    from capture_cli import Recorder

    inputs, logits, labels = torch.randn(64, 3, 32, 32), torch.randn(64, 50_000), torch.randint(50_000, (64,))
    recorded, alone = [], []
    with Recorder("many.jsonl") as recorder:
        for step in range(40):
            start = time.perf_counter()
            F.cross_entropy(logits, labels)
            middle = time.perf_counter()
            recorder.record(epoch=step, phase="train", inputs=inputs, logits=logits, labels=labels, ids=range(64))
            recorded.append(time.perf_counter() - middle)
            alone.append(middle - start)
    return median(recorded[5:]), median(alone[5:])


def skipped() -> tuple[float, float]:
    """Seconds that a skipped batch adds to its loss, and of the loss alone, forward with gradients."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from capture_cli import Recorder

    watched, bare = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
    logits, labels = torch.randn(64, 1000, requires_grad=True), torch.randint(1000, (64,))
    both, alone = [], []
    with Recorder("skipped.jsonl", every=10) as recorder:
        recorder.watch(watched)
        loader = recorder.loader(DataLoader(TensorDataset(torch.randn(64 * 300, 8)), batch_size=64))
        for step, _ in enumerate(loader):
            start = time.perf_counter()
            bare(logits, labels)
            middle = time.perf_counter()
            watched(logits, labels)
            if step % 10:
                both.append(time.perf_counter() - middle)
                alone.append(middle - start)
    return median(both) - median(alone), median(alone)


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
    for what, name, wanted, most in (
        ("`record()` of 64 samples of 50,000 classes beside their cross-entropy", "many", "at most 1.3 times", 1.3),
        ("a batch that `every=10` skips, beside its loss (1,000 classes)", "skipped", "at most 1 time", 1.0),
    ):
        turns = [_apart(name) for _ in range(repeats)]
        one, other = (median(column) * 1e3 for column in zip(*turns, strict=True))
        ratio = median(mine / alone for mine, alone in turns)
        rows.append(Row(what, f"{one:.2f} ms", f"{other:.2f} ms", f"{ratio:.2f} times", wanted, ratio <= most))
    return [*rows, Row(f"memory from record 2,000 to {RECORDS:,}", f"{grown:+.1f} MB", "-", "-", "at most 2 MB", grown <= 2)]


def _apart(what: str, how: str = "alone") -> Any:
    """Measure in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(
            ran([sys.executable, str(HERE), "--measure", what, "--how", how, "--folder", folder]).stdout.splitlines()[-1]
        )


def main() -> None:
    """Print the table, or in a process of its own what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=["capture", "mlflow", "memory", "many", "skipped"], help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=["alone", "training"], help=argparse.SUPPRESS)
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
    elif options.measure in ("many", "skipped"):
        measured = many_classes() if options.measure == "many" else skipped()
    elif options.measure == "capture":
        measured = with_capture(BATCHES["capture"], train=train)
    else:
        measured = with_mlflow(BATCHES["mlflow"], train=train)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
