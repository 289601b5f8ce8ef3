"""plain_loop.py with what one is advised to log to MLflow for each batch: the loss, and two of its samples as texts.

    PYTHONPATH=benchmarks python benchmarks/peers/mlflow_loop.py FOLDER

Inputs, probabilities and labels of the first two samples of 64; the store is an SQLite file, which is MLflow's default.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import torch
from torch import nn
from torch.utils.data import DataLoader

from peer_models import one_conv
from plain_loop import BATCH_SIZE, LR, SIZE, Folder

EPOCHS = 1


def train(folder: Path) -> None:
    """Train, and print how long each epoch took."""
    torch.manual_seed(0)
    data = Folder(folder)
    model = one_conv(classes=len(data.classes), channels=3, height=SIZE, width=SIZE)
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=LR), nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        start, steps = time.perf_counter(), 0
        for inputs, labels in DataLoader(data, BATCH_SIZE, shuffle=True):
            optimizer.zero_grad()
            logits = model(inputs)
            loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            name = f"epoch_{epoch}_batch_{steps}"
            mlflow.log_metric(f"{name}_loss", loss.item())
            probs = torch.softmax(logits, dim=1).detach()
            for what, values in (("inputs", inputs), ("predicted_probs", probs), ("true_labels", labels)):
                mlflow.log_text(str(values[:2].numpy()), f"{name}_{what}.txt")
            steps += 1
        print(json.dumps({"epoch": epoch, "seconds": time.perf_counter() - start, "steps": steps}), flush=True)


def main() -> None:
    """Train with a store of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as store:
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
        experiment = mlflow.create_experiment("beside capture", artifact_location=Path(store, "artifacts").as_uri())
        with mlflow.start_run(experiment_id=experiment):
            train(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
