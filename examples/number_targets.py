"""Numeric targets: multi-label classification (each output 0 or 1) and regression.

python examples/number_targets.py [RUN]       writes RUN/multilabel.jsonl and RUN/regression.jsonl
"""

import sys
from pathlib import Path

import torch
from torch import nn

from capture_cli import Recorder

RUN = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/numbers")
NAMES = [f"city-{number}" for number in range(64)]

RUN.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
weather = torch.randn(64, 5)  # five measurements in each of 64 cities
signs = (weather @ torch.randn(5, 3) > 0).float()  # warm, wet, windy
degrees = weather @ torch.randn(5, 1) + 0.1 * torch.randn(64, 1)

for task, targets, outputs, criterion in (
    ("multilabel", signs, ["warm", "wet", "windy"], nn.BCEWithLogitsLoss()),
    ("regression", degrees, ["degrees"], nn.MSELoss()),
):
    model = nn.Linear(5, targets.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with Recorder(RUN / f"{task}.jsonl", task=task, classes=outputs, model=model, force=True) as recorder:
        for epoch in range(10):
            for cities in torch.randperm(64).split(16):
                predictions = model(weather[cities])
                loss = criterion(predictions, targets[cities])
                recorder.record(
                    epoch=epoch,
                    phase="train",
                    inputs=weather[cities],
                    logits=predictions,
                    labels=targets[cities],
                    ids=[NAMES[city] for city in cities],
                    loss=loss,
                    lr=0.1,
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
