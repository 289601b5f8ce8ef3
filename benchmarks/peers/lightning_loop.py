"""The loop of plain_loop.py in Lightning, whose CSV logger records the loss of every step and nothing about samples.

PYTHONPATH=benchmarks python benchmarks/peers/lightning_loop.py FOLDER
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from peer_models import one_conv
from plain_loop import BATCH_SIZE, LR, SIZE, Batch, Folder

EPOCHS = 2


class Module(lightning.LightningModule):
    """The network, its loss and its optimizer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = one_conv(classes=classes, channels=3, height=SIZE, width=SIZE)
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        """The loss of a batch, logged."""
        inputs, labels = batch
        loss: torch.Tensor = self.criterion(self.network(inputs), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in plain_loop.py."""
        return torch.optim.Adam(self.parameters(), lr=LR)


class Clock(lightning.Callback):
    """Prints how long each epoch took."""

    def on_train_epoch_start(self, *_: object) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Read it."""
        took = {"seconds": time.perf_counter() - self.start, "steps": trainer.num_training_batches}
        print(json.dumps({"epoch": trainer.current_epoch, **took}), flush=True)


def main() -> None:
    """Train, logging at every step."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = Folder(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as logs:
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=CSVLogger(logs),
            log_every_n_steps=1,
            callbacks=[Clock()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(Module(len(data.classes)), DataLoader(data, BATCH_SIZE, shuffle=True))


if __name__ == "__main__":
    main()
