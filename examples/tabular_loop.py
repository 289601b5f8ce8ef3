"""A plain PyTorch loop over a table of 100 rows and 10 columns, recorded with two added lines.

python examples/tabular_loop.py [RUN]       then: capture inspect RUN
"""

import sys

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder, identified

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/tabular"

torch.manual_seed(0)
inputs = torch.randn(100, 10)
labels = (inputs[:, 0] + inputs[:, 1] > 0).long()

dataset = identified(TensorDataset(inputs, labels))  # batches now end in their row numbers
dataloader = DataLoader(dataset, batch_size=16, shuffle=True)


class SimpleNet(nn.Module):
    """A linear classifier of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B, 2] for rows [B, 10]."""
        return self.fc(x)


model = SimpleNet()
optimizer = optim.Adam(model.parameters(), lr=0.02)
criterion = nn.CrossEntropyLoss()

with Recorder(RUN, classes=["no", "yes"], model=model, force=True) as recorder:
    for epoch in range(5):
        for batch_inputs, batch_labels, ids in dataloader:
            optimizer.zero_grad()
            outputs = model(batch_inputs)
            loss = criterion(outputs, batch_labels)
            recorder.record(
                epoch=epoch, phase="train", inputs=batch_inputs, logits=outputs, labels=batch_labels, ids=ids, loss=loss
            )
            loss.backward()
            optimizer.step()
