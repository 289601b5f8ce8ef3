"""The real Lightning: records hold what its loop computes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from capture_cli import LightningCapture, Recorder, identified
from capture_cli.errors import UsageError
from capture_cli.preprocessing import digests
from recordings import passes, records, verified

pl = pytest.importorskip("lightning.pytorch")

POINTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(POINTS, 2 * (POINTS[:, 0] > 0).long() + (POINTS[:, 1] > 0).long())
IDS = [f"point {number}" for number in range(60)]


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


class TestLightning:
    """The Lightning callback."""

    def test_it_records_training_validation_and_test(self, tmp_path: Path) -> None:
        """Every batch once, in its phase and epoch, with loss, learning rate, inputs and the ids of a shuffled dataset."""
        model = Module()
        train, val = Subset(identified(DATA, IDS), range(40)), Subset(identified(DATA, IDS), range(40, 60))
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer = trainer_with(recorder, num_sanity_val_steps=2)
            trainer.fit(model, loader_of(train, shuffle=True), loader_of(val))
            trainer.test(model, loader_of(val, batch_size=20), verbose=False)
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert passes(tmp_path / "r.jsonl") == [
            *[("val", 0, 20), ("train", 0, 40), ("val", 1, 20), ("train", 1, 40)],
            ("test", 2, 20),
        ]
        batches = records(tmp_path / "r.jsonl", "batch")
        sanity = 2
        np.testing.assert_allclose([batch.loss for batch in batches], model.losses[sanity:], rtol=1e-6)
        assert [batch.lr for batch in batches] == [*[0.5] * 3, None, None, *[0.25] * 3, None, None, None]
        for batch in batches:
            rows = [IDS.index(name) for name in batch.ids]
            assert batch.labels.tolist() == DATA.tensors[1][rows].tolist()
            np.testing.assert_allclose(batch.losses.mean(), batch.loss, rtol=1e-6)
        assert sorted(name for batch in batches[:3] for name in batch.ids) == sorted(IDS[:40])

    @pytest.mark.parametrize("interval", [1, 2, 0.5])
    def test_a_validation_in_mid_epoch_follows_a_step(self, tmp_path: Path, interval: float) -> None:
        """With `val_check_interval`, several loaders and a sanity check: the records say after which training step it came."""
        data = identified(DATA, IDS)
        train = Subset(data, range(48))  # three batches an epoch
        loaders = [loader_of(Subset(data, range(48, 60))), loader_of(Subset(data, range(50, 60)))]
        options = {"val_check_interval": interval, "num_sanity_val_steps": 1}
        seen: list[int] = []
        model = Module()
        model.on_validation_start = lambda: seen.append(model.trainer.fit_loop.total_batch_idx + 1)  # type: ignore[method-assign]
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, **options).fit(model, loader_of(train), loaders)
        assert verified(tmp_path / "r.jsonl") == "completed"
        _, *steps = seen  # the first is the sanity check
        for phase in ("val", "val-1"):
            ended = [one for one in records(tmp_path / "r.jsonl", "epoch") if one.phase == phase]
            batches = [one for one in records(tmp_path / "r.jsonl", "batch") if one.phase == phase]
            assert [one.step for one in ended] == [one.step for one in batches] == steps
            assert [one.epoch for one in ended] == [one.epoch for one in batches]
        trained = [one for one in records(tmp_path / "r.jsonl", "epoch") if one.phase == "train"]
        assert [one.step for one in trained] == [None, None]

    def test_pytorch_lightning_works_alike(self, tmp_path: Path) -> None:
        """In a process that imports only the older package."""
        code = """
import pytorch_lightning as pl, torch
from torch.utils.data import DataLoader, TensorDataset
from capture_cli import LightningCapture, Recorder, identified
assert issubclass(LightningCapture, pl.Callback)
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 4)
    def training_step(self, batch, _):
        logits = self.layer(batch[0])
        return {"loss": torch.nn.functional.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
data = identified(TensorDataset(torch.rand(20, 2), torch.arange(20) % 4))
with Recorder("r.jsonl") as recorder:
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=LightningCapture(recorder))
    trainer.fit(Module(), DataLoader(data, batch_size=10, shuffle=True))
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert passes(tmp_path / "r.jsonl") == [("train", 0, 20)]

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_loss_needs_no_labels(self, tmp_path: Path, alone: bool) -> None:
        """With the task `loss` a step returns the loss, alone or with losses and numbers by name."""

        def change(returned: dict[str, Any]) -> Any:
            if alone:
                return returned["loss"]
            logits = returned["logits"]
            return {"loss": returned["loss"], "losses": logits.square().mean(1), "numbers": {"norm": logits.norm(dim=1)}}

        model = Module(change)
        with Recorder(tmp_path / "r.jsonl", task="loss") as recorder:
            trainer_with(recorder, num_sanity_val_steps=0).fit(model, loader_of(identified(DATA)), loader_of(identified(DATA)))
        batches = records(tmp_path / "r.jsonl", "measures")
        np.testing.assert_allclose([batch.loss for batch in batches], model.losses, rtol=1e-6)
        assert all((batch.losses is None) == alone and (batch.numbers is None) == alone for batch in batches)
        assert [phase for phase, _, _ in passes(tmp_path / "r.jsonl")] == ["val", "train"] * 2

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda r: r["loss"], r"training_step returned no 'logits' \(its keys: 'loss'\)"),
            (
                lambda r: {"loss": r["loss"], "logits": r["logits"]},
                r"training_step returned no 'labels' \(its keys: 'loss', 'logits'\)",
            ),
            (lambda r: r | {"ids": [1, 2]}, r"ids: 2 ids for a batch of 16"),
            (lambda r: r | {"labels": r["labels"][:4]}, r"labels int64 \[4\] do not fit"),
        ],
        ids=["a tensor", "no labels", "ids", "labels"],
    )
    def test_a_missing_key_of_a_step_is_named(self, tmp_path: Path, change: Any, said: str) -> None:
        """The message has the key, the hint what to return; the records say failed."""
        with pytest.raises(UsageError, match=said) as caught, Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder).fit(Module(change), loader_of(identified(DATA)))
        assert "\n" not in caught.value.message
        assert verified(tmp_path / "r.jsonl") == "failed"

    def test_a_validation_step_that_returns_nothing_is_named(self, tmp_path: Path) -> None:
        """Most return nothing; the message names the step."""
        calls = iter(range(100))
        change = lambda r: r if next(calls) < 4 else None  # noqa: E731
        said = r"validation_step returned no 'logits' \(its keys: none\)"
        with pytest.raises(UsageError, match=said), Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, num_sanity_val_steps=0).fit(
                Module(change), loader_of(identified(DATA)), loader_of(identified(DATA))
            )

    def test_padding_of_distributed_samplers_is_counted(self, tmp_path: Path) -> None:
        """The last sample of 59 for the second of two processes is a repeated one."""
        data = Subset(identified(DATA), range(59))
        train, val = (loader_of(data, sampler=DistributedSampler(data, 2, 1, shuffle=one)) for one in (True, False))
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, use_distributed_sampler=False).fit(Module(), train, val)
        found = [(one.phase, one.n, one.padded) for one in records(tmp_path / "r.jsonl", "epoch")]
        assert found == [("val", 29, 1), ("train", 29, 1)] * 2

    def test_inputs_of_a_mapping_must_be_returned(self, tmp_path: Path) -> None:
        """A batch that is a dict does not say which tensor the model got."""

        class Dicts(Module):
            def step(self, batch: Any) -> Any:
                returned = super().step((batch["x"], batch["y"]))
                return returned | {"inputs": batch["x"]} if self.given else returned

        data = identified([{"x": x, "y": y} for x, y in DATA])
        for given in (False, True):
            Dicts.given = given
            with Recorder(tmp_path / f"{given}.jsonl") as recorder:
                trainer = trainer_with(recorder, max_epochs=1)
                if given:
                    trainer.fit(Dicts(), loader_of(data))
                else:
                    with pytest.raises(
                        UsageError,
                        match="training_step returned no 'inputs', and they cannot be told from a batch that is a dict",
                    ):
                        trainer.fit(Dicts(), loader_of(data))
        assert passes(tmp_path / "True.jsonl") == [("train", 0, 60)]

    def test_several_validations_in_an_epoch_and_several_loaders(self, tmp_path: Path) -> None:
        """Validations count up, each loader has its own phase, and extra columns are recorded."""
        change = lambda r: r | {"extra": {"norm": r["logits"].norm(dim=1)}}  # noqa: E731
        val = [loader_of(identified(DATA), batch_size=30) for _ in range(2)]
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, val_check_interval=2, num_sanity_val_steps=0).fit(
                Module(change), loader_of(identified(DATA)), val
            )
        assert verified(tmp_path / "r.jsonl") == "completed"
        found = passes(tmp_path / "r.jsonl")
        assert [one[1:] for one in found if one[0] == "val"] == [(0, 60), (1, 60), (2, 60), (3, 60)]
        assert [one[1:] for one in found if one[0] == "val-1"] == [(0, 60), (1, 60), (2, 60), (3, 60)]
        assert [one[1:] for one in found if one[0] == "train"] == [(0, 60), (1, 60)]
        assert len(records(tmp_path / "r.jsonl", "batch")[0].extra["norm"]) == 16


class Streamed(IterableDataset[Any]):
    """The data as a stream, without ids."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DATA)


class Prefetcher:
    """A loader around a DataLoader, as timm has."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def assert_ids_are_those_of_the_inputs(path: Path) -> None:
    """Each input of each batch is the one that its id stands for, by its digest."""
    expected = digests(POINTS.numpy())
    batches = records(path, "batch")
    assert batches
    for batch in batches:
        assert batch.inputs.digests == [expected[one] for one in batch.ids]


class TestSamplerIds:
    """Ids of data sets that are not identified: what the sampler draws."""

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 16, "shuffle": True},
            {"batch_size": 16, "sampler": WeightedRandomSampler(torch.arange(1.0, 61.0).tolist(), 60)},
            {"batch_sampler": BatchSampler(RandomSampler(DATA), 7, drop_last=True)},
            {"batch_size": 16, "sampler": DistributedSampler(DATA, 2, 1)},
        ],
        ids=["shuffled", "weighted", "batch sampler", "distributed"],
    )
    def test_they_are_those_of_the_inputs(self, tmp_path: Path, options: dict[str, Any], workers: int) -> None:
        """In training and in validations that come in between, of one loader, with workers that read ahead."""
        extra = {"num_workers": workers, "persistent_workers": True} if workers else {}
        loader = DataLoader(DATA, **options, **extra)
        with Recorder(tmp_path / "r.jsonl", repeats=True) as recorder:
            trainer = trainer_with(recorder, val_check_interval=2, num_sanity_val_steps=1, use_distributed_sampler=False)
            trainer.fit(Module(), loader, [loader, loader_of(Subset(DATA, range(50, 60)))])
            trainer.test(Module(), loader, verbose=False)
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert_ids_are_those_of_the_inputs(tmp_path / "r.jsonl")
        phases = [one.phase for one in records(tmp_path / "r.jsonl", "epoch")]
        assert phases.count("train") == 2
        assert phases.count("val") == phases.count("val-1") >= 2
        assert phases[-1] == "test"

    @pytest.mark.parametrize("workers", [0, 2])
    def test_neither_the_training_nor_the_loader_is_changed(self, tmp_path: Path, workers: int) -> None:
        """The losses are those of a training without the callback, and the loader that was passed is as it was."""

        class Drawing(Module):
            def on_train_start(self) -> None:
                torch.rand(1)  # between the beginning of the loader's first pass and its first batch

        losses = []
        for watched in (False, True):
            torch.manual_seed(0)
            loader = loader_of(DATA, shuffle=True, num_workers=workers)
            before = dict(vars(loader))
            model = Drawing()
            with Recorder(tmp_path / f"{watched}.jsonl") as recorder:
                trainer = trainer_with(recorder)
                if not watched:
                    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, LightningCapture)]
                trainer.fit(model, loader, loader_of(DATA))
                assert isinstance(trainer.train_dataloader, DataLoader)
            losses.append(model.losses)
            assert vars(loader) | {"_iterator": None, "worker_init_fn": None} == before
            assert "process_dataloader" not in vars(trainer.strategy)
        assert losses[0] == losses[1]
        assert_ids_are_those_of_the_inputs(tmp_path / "True.jsonl")

    def test_batches_that_are_not_trained_on_shift_nothing(self, tmp_path: Path) -> None:
        """A limit, an epoch that a hook ends, and a collate function that drops a batch."""

        class Ending(Module):
            def on_train_batch_start(self, _batch: Any, number: int) -> int | None:
                return -1 if number == 2 and self.trainer.current_epoch == 0 else None

        def collate(samples: list[Any]) -> Any:
            return None if any(torch.equal(x, POINTS[59]) for x, _ in samples) else default_collate(samples)

        for name, model, options in (("ended", Ending(), {}), ("limited", Module(), {"limit_train_batches": 2})):
            with Recorder(tmp_path / f"{name}.jsonl") as recorder:
                trainer_with(recorder, max_epochs=3, **options).fit(model, loader_of(DATA, shuffle=True))
            assert_ids_are_those_of_the_inputs(tmp_path / f"{name}.jsonl")
        with Recorder(tmp_path / "dropped.jsonl") as recorder:
            trainer_with(recorder).fit(Module(), loader_of(DATA, shuffle=True, collate_fn=collate))
        assert_ids_are_those_of_the_inputs(tmp_path / "dropped.jsonl")
        assert {n for _, _, n in passes(tmp_path / "dropped.jsonl")} <= {60 - 16, 60 - 12}

    def test_two_recorders_may_record_one_training(self, tmp_path: Path) -> None:
        """Each batch is taken once for both."""
        with Recorder(tmp_path / "a.jsonl") as first, Recorder(tmp_path / "b.jsonl") as second:
            trainer = trainer_with(first)
            trainer.callbacks.append(LightningCapture(second))
            trainer.fit(Module(), loader_of(DATA, shuffle=True))
        for name in ("a", "b"):
            assert_ids_are_those_of_the_inputs(tmp_path / f"{name}.jsonl")
        assert [one.ids for one in records(tmp_path / "a.jsonl", "batch")] == [
            one.ids for one in records(tmp_path / "b.jsonl", "batch")
        ]

    def test_files_of_an_image_folder_are_recorded(self, tmp_path: Path) -> None:
        """The data set lists them."""

        class Listed(TensorDataset):
            def __init__(self) -> None:
                super().__init__(*DATA.tensors)
                self.root, self.samples = str(tmp_path), [(str(tmp_path / f"{number}.png"), 0) for number in range(60)]

        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, max_epochs=1).fit(Module(), loader_of(Listed(), shuffle=True))
        for batch in records(tmp_path / "r.jsonl", "batch"):
            assert batch.files == [f"{one}.png" for one in batch.ids]

    @pytest.mark.parametrize(
        ("loader", "said"),
        [
            (lambda: DataLoader(Streamed(), batch_size=16), "its Streamed is iterable, so no sampler draws indices"),
            (lambda: Prefetcher(loader_of(DATA)), "the samples of its TensorDataset have no ids"),
            (lambda: [loader_of(DATA), loader_of(DATA)], "its batches, each a list, have no ids"),
        ],
        ids=["stream", "wrapped", "several"],
    )
    def test_loaders_without_ids_are_refused(self, tmp_path: Path, loader: Callable[[], Any], said: str) -> None:
        """Labels are not taken for ids; ids that a step returns are accepted."""

        class First(Module):
            def step(self, batch: Any) -> Any:
                return super().step(batch if isinstance(batch[0], torch.Tensor) else batch[0])

        with pytest.raises(UsageError, match=said), Recorder(tmp_path / "a.jsonl") as recorder:
            trainer_with(recorder).fit(First(), loader())
        change = lambda r: r | {"ids": list(range(len(r["labels"]))), "inputs": r["logits"]}  # noqa: E731
        with Recorder(tmp_path / "b.jsonl", repeats=True) as recorder:
            trainer_with(recorder).fit(First(change), loader())
        assert verified(tmp_path / "b.jsonl") == "completed"

    @pytest.mark.parametrize("at_once", [1, 2])
    def test_a_step_that_takes_its_batches_itself_is_refused(self, tmp_path: Path, at_once: int) -> None:
        """Nothing tells which batch it has used; the recorder warns, and mixes nothing up."""

        class Taking(Module):
            def training_step(self, dataloader_iter: Any) -> Any:
                for _ in range(at_once):
                    batch, *_ = next(dataloader_iter)
                return self.step(batch)

        with pytest.raises(UsageError, match="have no ids"), Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder).fit(Taking(), loader_of(DATA, shuffle=True))
