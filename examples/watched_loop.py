"""A loop that stays unchanged: the recorder watches its loader and its loss function.

python examples/watched_loop.py [RUN]       then: capture inspect RUN
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/watched"


def train(model: nn.Module, loader: DataLoader, criterion: nn.Module, epochs: int) -> None:
    """Train with somebody else's loop, which does not know the recorder."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


torch.manual_seed(0)
points = torch.randn(300, 2)
quarters = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))
cross_entropy = nn.CrossEntropyLoss()

with Recorder(RUN, classes=["south-west", "north-west", "south-east", "north-east"], model=net, force=True) as recorder:
    batches = DataLoader(TensorDataset(points, quarters), batch_size=50, shuffle=True)
    recorder.watch(cross_entropy, model=net)
    train(net, recorder.loader(batches), cross_entropy, epochs=4)
