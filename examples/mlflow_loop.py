"""An image loop whose run also goes to MLflow; needs the extra `mlflow`.

python examples/mlflow_loop.py [RUN]        then: mlflow ui
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional

from capture_cli import MlflowSink, Recorder

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/mlflow"
FOLDER = Path(__file__).parent.parent / "sample_data"


def main() -> None:
    """Train for five epochs on 480 small images in memory, validate on 120."""
    torch.manual_seed(0)
    files = sorted(FOLDER.glob("*.png"))
    names = [file.name for file in files]
    classes = sorted({name.split("_")[0] for name in names})
    images = torch.stack([functional.to_tensor(Image.open(file)) for file in files])  # [600, 1, 28, 28] in 0..1
    labels = torch.tensor([classes.index(name.split("_")[0]) for name in names])
    order = torch.randperm(len(files))
    parts = {"train": order[120:], "val": order[:120]}

    model = nn.Sequential(nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 12 * 12, len(classes)))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    sink = MlflowSink(model=model)  # MLFLOW_TRACKING_URI, else sqlite:///mlflow.db
    with Recorder(RUN, classes=classes, config={"lr": 2e-3}, model=model, sinks=[sink], force=True) as recorder:
        for epoch in range(5):
            for phase, part in parts.items():
                model.train(phase == "train")
                for ids in (part[torch.randperm(len(part))] if phase == "train" else part).split(40):
                    batch = {"epoch": epoch, "phase": phase, "inputs": images[ids], "labels": labels[ids]}
                    with torch.set_grad_enabled(phase == "train"):
                        logits = model(batch["inputs"])
                        loss = nn.functional.cross_entropy(logits, batch["labels"])
                    chosen = [names[i] for i in ids.tolist()]
                    recorder.record(**batch, logits=logits, ids=chosen, files=chosen, loss=loss, lr=2e-3)
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
    print(f"run {sink.run_id} in MLflow, {RUN} on disk")


if __name__ == "__main__":
    main()
