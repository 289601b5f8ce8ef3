"""A small LightningModule and its data, for tests of the callback.

trainer_with(recorder).fit(Module(), loader_of(DATA, shuffle=True))
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    TensorDataset,
)

from capture_cli import LightningCapture, Recorder

pl = pytest.importorskip("lightning.pytorch")

POINTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(POINTS, 2 * (POINTS[:, 0] > 0).long() + (POINTS[:, 1] > 0).long())


class Module(pl.LightningModule):
    """A linear model; `change` alters the return value of a step."""

    def __init__(self, change: Callable[[dict[str, Any]], Any] = lambda returned: returned) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)
        self.change = change
        self.losses: list[float] = []

    def step(self, batch: Any) -> Any:
        inputs, labels, *_ = batch
        logits = self.layer(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        self.losses.append(loss.item())
        return self.change({"loss": loss, "logits": logits, "labels": labels})

    def training_step(self, batch: Any, _: int) -> Any:
        return self.step(batch)

    def validation_step(self, batch: Any, _: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG002
        return self.step(batch)

    def test_step(self, batch: Any, _: int) -> Any:  # noqa: PT019 - Lightning's name, no test
        return self.step(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def trainer_with(recorder: Recorder, root: Any = pl, **options: Any) -> Any:
    """A quiet trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return root.Trainer(callbacks=[LightningCapture(recorder)], **quiet, **{"max_epochs": 2, **options})


def loader_of(data: Dataset[Any], *, shuffle: bool = False, batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle, **options)
