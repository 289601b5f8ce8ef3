"""Loops that are recorded unchanged."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from capture_cli import Recorder, identified
from capture_cli.errors import UsageError
from index_rows import CLASSES, N, Rows
from recordings import batch_of, records, verified


class Accepting(nn.Module):
    """A loss function that takes anything."""

    def forward(self, one: Any, other: Any) -> None:
        """Returns nothing."""


class Net(nn.Module):
    """A linear model of 2 numbers."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.layer = nn.Linear(2, classes)

    def forward(self, inputs: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.layer(inputs * scale)


def loader_of(form: str = "tuple", *, n: int = N, **options: Any) -> DataLoader[Any]:
    return DataLoader(Subset(identified(Rows(form)), range(n)), batch_size=8, shuffle=True, **options)


class TestWatch:
    """Loops that are recorded unchanged."""

    @pytest.mark.parametrize("workers", [0, 2])
    def test_it_records_what_record_would(self, tmp_path: Path, workers: int) -> None:
        """Two epochs of training and validation give the same lines as calling record by hand."""
        for name, watched in (("watched", True), ("by-hand", False)):
            torch.manual_seed(0)
            model, criterion = Net(), nn.CrossEntropyLoss()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            train, val = loader_of(num_workers=workers), loader_of(n=20, num_workers=workers)
            with Recorder(tmp_path / f"{name}.jsonl") as recorder:
                if watched:
                    recorder.watch(criterion, model=model)
                    train, val = recorder.loader(train), recorder.loader(val, phase="val")  # type: ignore[assignment]
                for epoch in (1, 2):
                    for phase, loader in (("train", train), ("val", val)):
                        for inputs, labels, *ids in loader:
                            logits = model(inputs)
                            loss = criterion(logits, labels)
                            if not watched:
                                recorder.record(
                                    epoch=epoch, phase=phase, inputs=inputs, logits=logits, labels=labels, ids=ids[0], loss=loss
                                )
                            if phase == "train":
                                optimizer.zero_grad()
                                loss.backward()
                                optimizer.step()
                        if not watched:
                            recorder.end_phase()
            assert verified(tmp_path / f"{name}.jsonl") == "completed"
        assert (tmp_path / "watched.jsonl").read_bytes() == (tmp_path / "by-hand.jsonl").read_bytes()
        assert [(e.phase, e.epoch, e.n) for e in records(tmp_path / "watched.jsonl", "epoch")] == [
            ("train", 1, N),
            ("val", 1, 20),
            ("train", 2, N),
            ("val", 2, 20),
        ]

    @pytest.mark.parametrize(
        "criterion",
        [
            nn.CrossEntropyLoss(),
            nn.CrossEntropyLoss(reduction="none"),
            nn.CrossEntropyLoss(reduction="sum"),
            nn.CrossEntropyLoss(label_smoothing=0.1),
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
            nn.MultiMarginLoss(),
        ],
        ids=["mean", "none", "sum", "smoothing", "weights", "margin"],
    )
    @pytest.mark.parametrize("keywords", [False, True])
    def test_losses_are_plain_and_loss_is_what_it_returned(self, tmp_path: Path, criterion: nn.Module, keywords: bool) -> None:
        """Whatever its reduction, weights or smoothing, and if it is called by keyword in any order."""
        model = Net()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion, model=model)
            returned = []
            for inputs, labels in recorder.loader(loader_of(n=8)):
                logits = model(scale=1.0, inputs=inputs)
                loss = criterion(target=labels, input=logits) if keywords else criterion(logits, labels)
                returned.append(loss.mean().item())
        (batch,) = records(tmp_path / "r.jsonl", "batch")
        plain = nn.functional.cross_entropy(logits, labels, reduction="none")
        np.testing.assert_array_equal(batch.losses, plain.detach().numpy())
        assert batch.loss == pytest.approx(returned[0])
        assert (batch.labels.tolist(), batch.lr) == (labels.tolist(), None)

    @pytest.mark.parametrize(
        ("task", "criterion", "targets"),
        [
            ("multilabel", nn.BCEWithLogitsLoss(), torch.tensor([0.0, 1.0, 0.0])),
            ("regression", nn.MSELoss(), torch.tensor([0.5, -1.0, 2.0])),
        ],
    )
    def test_other_tasks(self, tmp_path: Path, task: str, criterion: nn.Module, targets: torch.Tensor) -> None:
        """Numeric targets."""
        data = TensorDataset(torch.rand(8, 2), targets.expand(8, 3))
        model = Net()
        with Recorder(tmp_path / "r.jsonl", task=task) as recorder:
            recorder.watch(criterion, model=model)
            for inputs, labels in recorder.loader(DataLoader(identified(data), batch_size=8)):
                loss = criterion(model(inputs), labels)
        (numbers,) = records(tmp_path / "r.jsonl", "numbers")
        assert numbers.loss == pytest.approx(loss.item())
        np.testing.assert_allclose(numbers.losses.mean(), loss.item(), rtol=1e-5)

    def test_sequences_have_their_classes_second_as_in_torch(self, tmp_path: Path) -> None:
        """CrossEntropyLoss takes [B, C, T], even if C = T; the record has [B, T, C]."""
        labels = torch.randint(4, (6, 4))
        labels[:, -1] = -100
        data, model = TensorDataset(torch.randint(9, (6, 4)), labels), nn.Embedding(9, 4)
        criterion = nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl", task="sequence") as recorder:
            recorder.watch(criterion, model=model)
            for tokens, wanted in recorder.loader(DataLoader(identified(data), batch_size=6)):
                logits = model(tokens)
                loss = criterion(logits.transpose(1, 2), wanted)
        (batch,) = records(tmp_path / "r.jsonl", "batch")
        assert batch.losses.mean() == pytest.approx(loss.item(), rel=1e-5)
        np.testing.assert_allclose(batch.probs, logits.softmax(-1)[labels != -100].detach().numpy(), rtol=1e-5)

    def test_all_other_attributes_are_the_loaders(self, tmp_path: Path) -> None:
        """Length, dataset and sampler are the loader's."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            plain = loader_of()
            loader = recorder.loader(plain)
            assert (len(loader), len(loader.dataset), loader.batch_size) == (7, N, 8)
            assert loader.sampler is plain.sampler

    @pytest.mark.parametrize("form", ["tuple", "list", "dict", "bare", "one", "nested"])
    def test_batches_come_without_ids(self, tmp_path: Path, form: str) -> None:
        """They have the form that the loop knows."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            torch.manual_seed(0)
            plain = next(iter(DataLoader(Rows(form), batch_size=4)))
            seen = next(iter(recorder.loader(DataLoader(identified(Rows(form)), batch_size=4))))
            assert type(plain) is type(seen)
            torch.testing.assert_close(seen, plain)

    def test_close_removes_the_hooks(self, tmp_path: Path) -> None:
        """The loop continues unrecorded; watching a criterion twice watches it once."""
        model, criterion = Net(), nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion, model=model)
            recorder.watch(criterion, model=model)
            loader = recorder.loader(loader_of())
            for inputs, labels in loader:
                criterion(model(inputs), labels)
        assert not criterion._forward_hooks
        assert not model._forward_pre_hooks
        for inputs, labels in loader:
            criterion(model(inputs), labels)
        assert len(records(tmp_path / "r.jsonl", "batch")) == 7

    def test_a_peek_starts_no_epoch_and_a_break_ends_one(self, tmp_path: Path) -> None:
        """A batch taken before training starts no epoch; an epoch that is left early ends with the next."""
        model, criterion = Net(), nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion)
            loader = recorder.loader(loader_of())
            next(iter(loader))
            for _ in range(2):
                for number, (inputs, labels) in enumerate(loader):
                    if number == 3:
                        break
                    criterion(model(inputs), labels)
        assert [(e.epoch, e.n) for e in records(tmp_path / "r.jsonl", "epoch")] == [(1, 24), (2, 24)]

    def test_batches_without_a_loss_are_reported(self, tmp_path: Path) -> None:
        """Some missing: a warning with the count. All missing: an error, since another loss function is used."""
        model, criterion = Net(), nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion)

            def loop() -> None:
                for number, (inputs, labels) in enumerate(recorder.loader(loader_of())):
                    if number not in (2, 6):
                        criterion(model(inputs), labels)

            with pytest.warns(UserWarning, match=r"2 of 7 batches of train epoch 1 were not recorded"):
                loop()
            loader = recorder.loader(loader_of(), phase="val")
            with pytest.raises(UsageError, match=r"the loss of 7 val batches was never computed.*CrossEntropyLoss"):
                list(loader)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert list(recorder.loader(DataLoader(Subset(identified(Rows("tuple")), []), batch_size=4))) == []
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_a_loss_that_is_not_watched_is_told_early(self, tmp_path: Path) -> None:
        """After a few batches, not only at the end of a long epoch; without any watched loss function the hint says so."""
        loader = DataLoader(Rows("tuple"), batch_size=1)
        assert len(loader) > 9
        for watched, said in ((True, "not a function such as F.cross_entropy"), (False, "call recorder.watch")):
            with Recorder(tmp_path / f"{watched}.jsonl") as recorder:
                if watched:
                    recorder.watch(nn.CrossEntropyLoss())
                batches = iter(recorder.loader(loader))
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    for _ in range(8):
                        next(batches)
                with pytest.warns(UserWarning, match=said):
                    next(batches)
                with pytest.raises(UsageError, match="watched"):
                    list(batches)
                if watched:  # it warns at the end as well
                    with pytest.warns(UserWarning, match="nothing was recorded"):
                        recorder.close()

    def test_without_a_model_inputs_are_the_first_tensor_of_the_batch(self, tmp_path: Path) -> None:
        """Even in nested pairs; with a model they are its arguments."""
        found = []
        for watch_model in (False, True):
            model, criterion = Net(), nn.CrossEntropyLoss()
            path = tmp_path / f"{watch_model}.jsonl"
            with Recorder(path) as recorder:
                recorder.watch(criterion, model=model if watch_model else None)
                for (inputs, _), labels in recorder.loader(DataLoader(identified(Rows("nested")), batch_size=N)):
                    criterion(model(inputs + 1 if watch_model else inputs), labels)
            found.append(records(path, "batch")[0].inputs.digests)
        assert found[0][1:] == found[1][:-1]  # sample i has the number i as its input


class TestWatchErrors:
    """Modules that cannot be watched, and calls that do not fit."""

    @pytest.mark.parametrize(
        ("criterion", "model", "said"),
        [
            (nn.functional.cross_entropy, None, r"criterion: a function is not a torch.nn.Module"),
            (nn.CrossEntropyLoss(), lambda x: x, r"model: a function is not a torch.nn.Module"),
            (nn.BCELoss(), None, r"criterion: BCELoss takes probabilities"),
        ],
    )
    def test_modules_that_cannot_be_watched(self, tmp_path: Path, criterion: Any, model: Any, said: str) -> None:
        """Functions have no hooks, and probabilities are not logits."""
        with Recorder(tmp_path / "r.jsonl") as recorder, pytest.raises(UsageError, match=said):
            recorder.watch(criterion, model=model)

    def test_a_collate_function_that_drops_the_ids(self, tmp_path: Path) -> None:
        """The hint names it."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            loader = recorder.loader(loader_of(collate_fn=lambda samples: torch.stack([one[0] for one in samples])))
            with pytest.raises(UsageError, match="its batches, each a Tensor, have no ids") as caught:
                next(iter(loader))
        assert "collate function" in caught.value.hint

    @pytest.mark.parametrize(
        ("criterion", "calls", "batches", "said"),
        [
            (nn.CrossEntropyLoss(), 2, 1, "without a batch of a watched loader, or twice for one"),
            (nn.CrossEntropyLoss(), 1, 0, "without a batch of a watched loader, or twice for one"),
            (Accepting(), 1, 1, "Accepting was not called with logits and labels"),
        ],
        ids=["twice", "no batch", "no tensors"],
    )
    def test_calls_that_do_not_fit(self, tmp_path: Path, criterion: nn.Module, calls: int, batches: int, said: str) -> None:
        """One line says what was expected, and nothing is written."""
        logits, labels = torch.rand(8, 3), torch.zeros(8).long()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion)
            for _ in range(batches):
                next(iter(recorder.loader(loader_of())))
            for _ in range(calls - 1):
                criterion(logits, labels)
            before = (tmp_path / "r.jsonl").read_bytes()
            with pytest.raises(UsageError, match=said):
                criterion(*(("logits", "labels") if isinstance(criterion, Accepting) else (logits, labels.clone())))
            assert (tmp_path / "r.jsonl").read_bytes() == before
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_sequences_that_cannot_be_told_apart(self, tmp_path: Path) -> None:
        """Flattened logits, and another padding than the recorder's."""
        with Recorder(tmp_path / "r.jsonl", task="sequence") as recorder:
            with pytest.raises(UsageError, match=r"it ignores the label 0, the recorder ignores -100") as caught:
                recorder.watch(nn.CrossEntropyLoss(ignore_index=0))
            assert caught.value.hint == "use Recorder(ignore_index=0)"
            criterion = nn.CrossEntropyLoss()
            recorder.watch(criterion)
            next(iter(recorder.loader(loader_of())))
            with pytest.raises(UsageError, match=r"logits float32 \[8, 3\] do not say which sequence"):
                criterion(torch.rand(8, 3), torch.zeros(8).long())

    def test_a_mapping_does_not_say_what_the_inputs_are(self, tmp_path: Path) -> None:
        """They could be any of its tensors: the model must be watched as well."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            criterion = nn.CrossEntropyLoss()
            recorder.watch(criterion)
            next(iter(recorder.loader(loader_of("dict"))))
            with pytest.raises(UsageError, match=r"there are no inputs") as caught:
                criterion(torch.rand(8, 3), torch.zeros(8).long())
            assert "pass the model to watch" in caught.value.hint

    def test_the_loss_function_raises_what_record_refuses(self, tmp_path: Path) -> None:
        """The error is raised where the loss is computed."""
        with Recorder(tmp_path / "r.jsonl", repeats=False) as recorder:
            criterion, model = nn.CrossEntropyLoss(), Net()
            recorder.watch(criterion)
            inputs, labels = next(iter(recorder.loader(loader_of())))
            with pytest.raises(
                UsageError, match=r"logits float32 \[7, 3\] .*|inputs float32 \[8, 2\] do not match the 7 samples"
            ):
                criterion(model(inputs[:7]), labels[:7])


def test_ids_of_two_loaders_may_be_the_same(tmp_path: Path) -> None:
    """Each phase has its own ids: a validation set also counts from 0."""
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.record(**batch_of(4, 3))
        recorder.record(**batch_of(4, 3, phase="val"))
    assert verified(tmp_path / "r.jsonl") == "completed"
