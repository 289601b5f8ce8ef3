"""Lightning: the steps return logits and labels, and a callback records them.

python examples/lightning_loop.py [RUN]       then: capture inspect RUN          (needs: pip install 'capture-cli[lightning]')
"""

import sys

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from capture_cli import LightningCapture, Recorder

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/lightning"


class Net(pl.LightningModule):
    """Classify points [B, 2] by their quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))

    def step(self, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the records need; the callback knows the ids."""
        points, labels = batch
        logits = self.layers(points)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits, "labels": labels}

    def training_step(self, batch: list[torch.Tensor], _batch_idx: int) -> dict[str, torch.Tensor]:
        return self.step(batch)

    def validation_step(self, batch: list[torch.Tensor], _batch_idx: int) -> dict[str, torch.Tensor]:
        return self.step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


pl.seed_everything(0, verbose=False)
points = torch.randn(300, 2)
quarters = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
train, val = random_split(TensorDataset(points, quarters), [240, 60])

with Recorder(RUN, classes=["south-west", "north-west", "south-east", "north-east"], force=True) as recorder:
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[LightningCapture(recorder)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=60))
