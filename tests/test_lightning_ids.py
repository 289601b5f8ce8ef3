"""The real Lightning: ids of data sets that are not identified are what the sampler draws."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
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

from capture_cli import LightningCapture, Recorder
from capture_cli.errors import UsageError
from capture_cli.preprocessing import digests
from lightning_module import DATA, POINTS, Module, loader_of, trainer_with
from recordings import passes, records, verified


class Streamed(IterableDataset[Any]):
    """The data as a stream, without ids."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DATA)


class Endless(DataLoader[Any]):
    """A loader that begins once, before it is known to anybody, and repeats its batches."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches = list(super().__iter__())

    def __iter__(self) -> Any:
        return iter(self.batches)


class Resuming(DataLoader[Any]):
    """A loader that draws again what it skips, as torchdata's StatefulDataLoader with a state."""

    next_iter_state: dict[str, int] | None = {"skipped": 2}  # noqa: RUF012

    def __iter__(self) -> Any:
        batches = super().__iter__()
        for _ in range((self.next_iter_state or {}).get("skipped", 0)):
            next(batches._sampler_iter)
        return batches


class Pairs(RandomSampler):
    """A sampler of indices with something beside them."""

    def __iter__(self) -> Any:
        return zip(super().__iter__(), range(60), strict=True)


class Paired(Dataset[Any]):
    """The data for it."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return DATA[index[0]]


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
            (lambda: loader_of(DATA, num_workers=2, in_order=False), "the samples of its TensorDataset have no ids"),
            (lambda: Endless(DATA, batch_size=16), "the samples of its TensorDataset have no ids"),
            (lambda: Resuming(DATA, batch_size=16), "the samples of its TensorDataset have no ids"),
            (lambda: DataLoader(Paired(), batch_size=16, sampler=Pairs(DATA)), r"drew \(\d+, 0\), which is not an index"),
        ],
        ids=["stream", "wrapped", "several", "out of order", "endless", "resuming", "pairs"],
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
