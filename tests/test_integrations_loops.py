"""Loops of other libraries, recorded by watching: ignite, Fabric, accelerate and skorch as they are."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder
from capture_cli.preprocessing import digests
from recordings import records, verified

N = 36
INPUTS, LABELS = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3
DATA = TensorDataset(INPUTS, LABELS)


def loader_of(*, shuffle: bool = True) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Return a loader of batches of 8."""
    return DataLoader(DATA, batch_size=8, shuffle=shuffle)


def ignite_loop(path: Path) -> None:
    """Train with a supervised trainer, and evaluate after each epoch."""
    from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Loss

    model, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), criterion)
    evaluator = create_supervised_evaluator(model, metrics={"loss": Loss(criterion)})
    with Recorder(path) as recorder:
        recorder.watch(criterion, model=model)
        train, val = recorder.loader(loader_of()), recorder.loader(loader_of(shuffle=False), phase="val")

        @trainer.on(Events.EPOCH_COMPLETED)
        def evaluate(_: Engine) -> None:
            evaluator.run(val)

        trainer.run(train, max_epochs=2)


def fabric_loop(path: Path) -> None:
    """Train with Lightning Fabric, which wraps the model and the loader."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    module, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    train, val = fabric.setup_dataloaders(loader_of(), loader_of(shuffle=False))
    with Recorder(path, model=model) as recorder:
        recorder.watch(criterion, model=model)
        train, val = recorder.loader(train), recorder.loader(val, phase="val")
        for _ in range(2):
            for inputs, labels in train:
                optimizer.zero_grad()
                fabric.backward(criterion(model(inputs), labels))
                optimizer.step()
            with torch.no_grad():
                for inputs, labels in val:
                    criterion(model(inputs), labels)


def accelerate_loop(path: Path) -> None:
    """Train with accelerate, which replaces the loader."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    module, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
    model, optimizer, train, val = accelerator.prepare(
        module, torch.optim.SGD(module.parameters(), lr=0.1), loader_of(), loader_of(shuffle=False)
    )
    with Recorder(path) as recorder:
        recorder.watch(criterion, model=model)
        train, val = recorder.loader(train), recorder.loader(val, phase="val")
        for _ in range(2):
            for inputs, labels in train:
                optimizer.zero_grad()
                accelerator.backward(criterion(model(inputs), labels))
                optimizer.step()
            with torch.no_grad():
                for inputs, labels in val:
                    criterion(model(inputs), labels)


def skorch_loop(path: Path) -> None:
    """Fit a skorch net, which makes its loaders anew in each epoch and splits the data itself."""
    from skorch import NeuralNet

    with Recorder(path) as recorder:

        class Recorded(NeuralNet):  # type: ignore[misc] # of a package that has no types
            def get_iterator(self, dataset: object, training: bool = False) -> object:
                loader = super().get_iterator(dataset, training)
                return recorder.loader(loader, phase="train" if training else "val")

        net = Recorded(nn.Linear, module__in_features=4, module__out_features=3, criterion=nn.CrossEntropyLoss)
        net.set_params(max_epochs=2, batch_size=8, iterator_train__shuffle=True, verbose=0)
        net.initialize()
        recorder.watch(net.criterion_, model=net.module_)
        net.partial_fit(INPUTS.numpy(), LABELS.numpy())


@pytest.mark.parametrize("loop", [ignite_loop, fabric_loop, accelerate_loop, skorch_loop])
def test_ids_are_those_of_the_inputs(tmp_path: Path, loop: Callable[[Path], None]) -> None:
    """Two epochs of training and validation; each input is the one that its id stands for, by its digest."""
    path = tmp_path / "r.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loop(path)
    assert verified(path) == "completed"
    sums = records(path, "epoch")
    assert [(one.phase, one.epoch) for one in sums] == [("train", 1), ("val", 1), ("train", 2), ("val", 2)]
    assert {one.n for one in sums if one.phase == "train"} <= {N, N - N // 5, N - N // 5 - 1}
    expected = digests(INPUTS.numpy())
    for batch in records(path, "batch"):
        assert batch.inputs.digests == [expected[one] for one in batch.ids]
        assert batch.labels.tolist() == LABELS[batch.ids].tolist()
