"""Steps that draw from two loaders, or call the model twice: ids and inputs are right, or an error says why not."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from capture_cli import Recorder
from capture_cli.errors import UsageError
from capture_cli.preprocessing import digests
from recordings import records

LABELLED = TensorDataset(torch.randn(32, 4), torch.arange(32) % 3)
OTHER = TensorDataset(torch.randn(48, 4), (torch.arange(48) + 1) % 3)
TWO = "two watched loaders are drawn from in one step: a watched loss belongs to the batch that was drawn last"


class Loop:
    """A recorder that watches, and its loaders."""

    def __init__(self, path: Path, **options: Any) -> None:
        path.mkdir(exist_ok=True)
        self.path = path / "r.jsonl"
        self.recorder = Recorder(self.path, **options)
        self.model, self.criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
        self.recorder.watch(self.criterion, model=self.model)

    def loader(self, data: TensorDataset, phase: str = "train") -> Any:
        return self.recorder.loader(DataLoader(data, batch_size=8), phase=phase)

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.criterion(self.model(inputs), labels).backward()

    def batches(self) -> list[Any]:
        """Close the recorder; return what it wrote."""
        self.recorder.close()
        return records(self.path, "batch")


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A loop whose warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield Loop(tmp_path)


@pytest.mark.parametrize("copied", [False, True], ids=["same labels", "copied labels"])
def test_labels_of_an_earlier_batch_are_an_error_at_once(loop: Loop, copied: bool) -> None:
    """They would get the ids of the batch that was drawn last. On a device they are copies."""
    for (inputs, labels), _ in zip(loop.loader(LABELLED), loop.loader(OTHER), strict=False):
        with pytest.raises(UsageError, match="the labels are not of the batch that was drawn last") as caught:
            loop.loss(inputs, labels.clone() if copied else labels)
        break
    assert "wrap only the loader whose labels go into the loss, or call record yourself" in caught.value.hint
    assert loop.batches() == []


def test_of_three_loaders_each_is_looked_at(loop: Loop) -> None:
    """The first of three."""
    thirds = zip(loop.loader(LABELLED), loop.loader(OTHER), loop.loader(LABELLED), strict=False)
    _, (inputs, labels), _ = next(thirds)
    with pytest.raises(UsageError, match="drawn last"):
        loop.loss(inputs, labels)


def test_with_warn_the_training_goes_on(tmp_path: Path) -> None:
    """Nothing is recorded, and neither the first step nor the end of the pass raises."""
    loop = Loop(tmp_path, on_error="warn")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for (inputs, labels), _ in zip(loop.loader(LABELLED), loop.loader(OTHER), strict=False):
            loop.loss(inputs, labels)
        assert loop.batches() == []
    assert [text for one in found if "drawn last" in (text := str(one.message))]
    assert loop.recorder.missed == 4


def test_with_warn_a_pass_without_a_loss_does_not_end_the_training(tmp_path: Path) -> None:
    """A warning says at its end what would have been an error."""
    loop = Loop(tmp_path, on_error="warn")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in loop.loader(LABELLED):
            pass
        loop.recorder.close()
    assert "the loss of 4 train batches was never computed" in str(found[0].message)


def test_two_loaders_are_told_of_in_the_second_step(tmp_path: Path) -> None:
    """Once, where the records are right: the labels are of the batch that was drawn last."""
    loop, steps = Loop(tmp_path), []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _, (inputs, labels) in zip(loop.loader(OTHER, "unlabelled"), loop.loader(LABELLED), strict=False):
            loop.loss(inputs, labels)
            steps.append(len(found))
    (one,) = found
    assert str(one.message).startswith(TWO)
    assert steps == [0, 1, 1, 1]
    assert [[id_ for batch in loop.batches() for id_ in batch.ids]] == [list(range(32))]


def test_batches_that_a_loop_skips_are_no_second_loader(loop: Loop) -> None:
    """One at the end of a pass that is kept, and one after which the loop breaks; validation follows in both cases."""
    kept = iter(loop.loader(LABELLED))
    for _ in range(2):
        loop.loss(*next(kept))
        next(kept)
        for inputs, labels in loop.loader(OTHER, "val"):
            loop.loss(inputs, labels)
    for number, (inputs, labels) in enumerate(loop.loader(OTHER, "more")):
        if number == 1:
            break
        loop.loss(inputs, labels)
    for inputs, labels in loop.loader(LABELLED, "last"):
        loop.loss(inputs, 1 - labels.clamp(max=1))  # labels of no batch
    with pytest.warns(UserWarning, match="2 of 4 batches of train epoch 1 were not recorded"):
        assert next(kept, None) is None


def test_a_loader_may_be_wrapped_again(tmp_path: Path) -> None:
    """As `loader = recorder.loader(loader)` in a notebook cell that is run twice. Its ids stay."""
    loader: Any = DataLoader(LABELLED, batch_size=8)
    names = [f"n{number}" for number in range(32)]
    for number in range(2):
        loop = Loop(tmp_path / f"{number}")
        loader = loop.recorder.loader(loader, ids=None if number else names)
        for inputs, labels in loader:
            loop.loss(inputs, labels)
        assert [id_ for batch in loop.batches() for id_ in batch.ids] == names
    assert isinstance(loader.loader, DataLoader)


def test_batches_in_turns_are_no_pair(loop: Loop) -> None:
    """Each has its loss before the other one is drawn."""
    for first, second in zip(self_paced(loop, LABELLED), self_paced(loop, OTHER, "other"), strict=False):
        assert first != second
    assert len(loop.batches()) == 4 + 4


def self_paced(loop: Loop, data: TensorDataset, phase: str = "train") -> Iterator[int]:
    """Draw and record batch by batch; yield their addresses."""
    for inputs, labels in loop.loader(data, phase):
        loop.loss(inputs, labels)
        yield id(labels)


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_inputs_are_those_of_the_batch(loop: Loop, first: bool) -> None:
    """The model gets other inputs as well: of unlabelled images, say."""
    others = DataLoader(OTHER, batch_size=8)
    for (inputs, labels), (more, _) in zip(loop.loader(LABELLED), others, strict=False):
        if first:
            loop.model(more)
        logits = loop.model(inputs.clone())
        if not first:
            loop.model(more)
            loop.model(more)
        loop.criterion(logits, labels).backward()
    found = [digest for batch in loop.batches() for digest in batch.inputs.digests]
    assert found == digests(LABELLED.tensors[0].numpy())
