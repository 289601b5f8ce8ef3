"""The loop that people write by hand, the yardstick of `make bench`: PIL and transforms in a DataLoader, nothing captured.

    python benchmarks/plain_loop.py FOLDER [--in-memory] [--mlflow] [--epochs 3]

Model, optimizer, batch size and input size are those of `capture train`. `--in-memory` prepares all inputs as tensors first,
which leaves only the computation: a limit that no loop can beat. `--mlflow` logs what people log by hand: the loss of each
batch as a metric, and inputs, probabilities and labels of its first two samples as texts, into an SQLite store and a folder
that are removed afterwards. Prints one JSON object per epoch: {"epoch": 0, "seconds": 3.1, "steps": 157}.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from peer_models import one_conv

SIZE, BATCH_SIZE, LR = 32, 64, 1e-3

Sample = tuple[torch.Tensor, int]
Batch = tuple[torch.Tensor, torch.Tensor]


class Folder(Dataset[Sample]):
    """Images whose names begin with their class, as float32 [3, 32, 32] in -1..1, decoded anew at every visit."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.png"))
        names = [file.name.split("_")[0] for file in self.files]
        self.classes = sorted(set(names))
        self.labels = [self.classes.index(name) for name in names]
        self.prepare = transforms.Compose(
            [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return self.prepare(Image.open(self.files[index]).convert("RGB")), self.labels[index]


class InMemory:
    """The same batches, made ready before the clock starts."""

    def __init__(self, data: Folder) -> None:
        samples = [data[index] for index in range(len(data))]
        self.inputs = torch.stack([image for image, _ in samples])
        self.labels = torch.tensor([label for _, label in samples])

    def __iter__(self) -> Iterator[Batch]:
        for chosen in torch.randperm(len(self.inputs)).split(BATCH_SIZE):  # type: ignore[no-untyped-call]
            yield self.inputs[chosen], self.labels[chosen]


def log_by_hand(
    epoch: int, step: int, inputs: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor
) -> None:
    """What one finds in answers to the question how to capture inputs and outputs with MLflow."""
    import mlflow

    mlflow.log_metric("loss", loss.item(), step=epoch * 100_000 + step)
    probs = torch.softmax(logits.detach(), 1)
    for what, value in (("inputs", inputs), ("probs", probs), ("labels", labels)):
        mlflow.log_text(str(value[:2].numpy()), f"{epoch}_{step}_{what}.txt")


@contextlib.contextmanager
def mlflow_run() -> Iterator[None]:
    """A run of MLflow, active, in a store of its own."""
    import mlflow

    with tempfile.TemporaryDirectory() as store:
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
        experiment = mlflow.create_experiment("by hand", artifact_location=Path(store, "artifacts").as_uri())
        with mlflow.start_run(experiment_id=experiment):
            yield


def main() -> None:
    """Train, and print how long each epoch took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--mlflow", action="store_true")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = Folder(options.folder)
    batches: Iterable[Batch] = InMemory(data) if options.in_memory else DataLoader(data, BATCH_SIZE, shuffle=True)
    model = one_conv(classes=len(data.classes), channels=3, height=SIZE, width=SIZE)
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=LR), nn.CrossEntropyLoss()
    with mlflow_run() if options.mlflow else contextlib.nullcontext():
        for epoch in range(options.epochs):
            start, steps = time.perf_counter(), 0
            for inputs, labels in batches:
                optimizer.zero_grad()
                logits = model(inputs)
                loss = criterion(logits, labels)
                loss.backward()
                optimizer.step()
                if options.mlflow:
                    log_by_hand(epoch, steps, inputs, logits, labels, loss)
                steps += 1
            print(json.dumps({"epoch": epoch, "seconds": time.perf_counter() - start, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
