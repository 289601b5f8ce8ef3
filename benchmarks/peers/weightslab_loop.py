"""The loop of plain_loop.py under WeightsLab, over tensors in memory, so that nothing is decoded.

    PYTHONPATH=benchmarks python benchmarks/peers/weightslab_loop.py FOLDER

WeightsLab records the id, the prediction and the loss of every sample, but neither probabilities nor inputs.
"""

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

logging.basicConfig(level=logging.ERROR)  # before it is imported: it logs to standard output

import torch  # noqa: E402
import weightslab  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

from peer_models import one_conv  # noqa: E402
from plain_loop import BATCH_SIZE, LR, SIZE, Folder, InMemory  # noqa: E402

EPOCHS = 1


class Ready(Dataset[tuple[torch.Tensor, int, int]]):
    """Input, id and label of each sample, as WeightsLab wants them."""

    def __init__(self, data: InMemory) -> None:
        self.inputs, self.labels = data.inputs, data.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return self.inputs[index], index, self.labels[index]


class Network(nn.Module):
    """The network, which says what shape it takes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.input_shape = (1, 3, SIZE, SIZE)
        self.layers = one_conv(classes=classes, channels=3, height=SIZE, width=SIZE)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes] of float32 [B, 3, SIZE, SIZE]."""
        logits: torch.Tensor = self.layers(inputs)
        return logits


def main() -> None:
    """Train, and print how long each epoch took."""
    torch.manual_seed(0)
    folder = Folder(Path(sys.argv[1]))
    watch = weightslab.watch_or_edit
    options = {"experiment_name": "beside", "device": "cpu", "root_log_dir": tempfile.mkdtemp(), "is_training": True}
    watch(options, flag="hyperparameters", poll_interval=1.0)
    model = watch(
        Network(len(folder.classes)),
        flag="model",
        device="cpu",
        compute_dependencies=False,
        forced_model_wrapping=True,
        skip_previous_auto_load=True,
    )
    optimizer = watch(torch.optim.Adam(model.parameters(), lr=LR), flag="optimizer")
    loader = watch(
        Ready(InMemory(folder)),
        flag="data",
        loader_name="train_loader",
        batch_size=BATCH_SIZE,
        shuffle=True,
        is_training=True,
        compute_hash=False,
        preload_labels=True,
        preload_metadata=False,
        enable_h5_persistence=True,
    )
    criterion = watch(nn.CrossEntropyLoss(reduction="none"), flag="loss", signal_name="train-loss", log=True)
    weightslab.start_training()
    steps = -(-len(folder) // BATCH_SIZE)
    for epoch in range(EPOCHS):
        start = time.perf_counter()
        for _ in range(steps):
            with weightslab.guard_training_context:
                inputs, ids, labels = next(loader)
                optimizer.zero_grad()
                logits = model(inputs)
                preds = logits.argmax(1, keepdim=True)
                criterion(logits.float(), labels.long(), batch_ids=ids, preds=preds).mean().backward()
                optimizer.step()
        print(json.dumps({"epoch": epoch, "seconds": time.perf_counter() - start, "steps": steps}), flush=True)
    os._exit(0)  # its threads would keep the process


if __name__ == "__main__":
    main()
