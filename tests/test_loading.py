"""Loaders of one's own: the ids are the indices that the sampler draws, and the batches stay as they are."""

import copy
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from capture_cli import Recorder, identified
from capture_cli.errors import UsageError
from recordings import records, verified

N, CLASSES = 20, 3
Sample = namedtuple("Sample", ["x", "y"])


class Numbered(Dataset[Any]):
    """N samples whose input is their index, in one of the forms that data sets have."""

    def __init__(self, form: str = "tuple") -> None:
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        x, y = torch.full((2,), float(index)), index % CLASSES
        forms = {"tuple": (x, y), "named": Sample(x, y), "mapping": {"id": f"case-{index}", "x": x, "y": y}}
        return forms[self.form]


class Streamed(IterableDataset[Any]):
    """A stream of N samples, with or without ids."""

    def __init__(self, *, ids: bool) -> None:
        self.ids = ids

    def __iter__(self) -> Iterator[Any]:
        for index in range(N):
            yield (torch.full((2,), float(index)), index % CLASSES, *([index] if self.ids else []))


class Resuming(DataLoader[Any]):
    """A loader with a state that it resumes from, like torchdata's StatefulDataLoader."""

    next_iter_state = "the middle of a pass"


def parts(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of a batch."""
    return (batch["x"], batch["y"]) if isinstance(batch, dict) else (batch[0], batch[1])


def train(recorder: Recorder, loader: Any, *, epochs: int = 1, seen: list[Any] | None = None) -> list[list[int]]:
    """Run a watched loop; return the indices that the inputs of each batch show."""
    model, criterion = nn.Linear(2, CLASSES), nn.CrossEntropyLoss()
    recorder.watch(criterion, model=model)
    shown = []
    for _ in range(epochs):
        for batch in loader:
            inputs, labels = parts(batch)
            criterion(model(inputs), labels)
            shown.append(inputs[:, 0].int().tolist())
            if seen is not None:
                seen.append(batch)
    return shown


class TestSampler:
    """Ids that the sampler drew."""

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize(
        "options",
        [
            lambda _: {"batch_size": 6, "shuffle": True},
            lambda _: {"batch_size": 6, "sampler": WeightedRandomSampler([1.0] * N, N)},
            lambda data: {"batch_sampler": BatchSampler(RandomSampler(data), 7, drop_last=True)},
            lambda data: {"batch_size": 4, "sampler": DistributedSampler(data, num_replicas=3, rank=1)},
        ],
        ids=["shuffled", "weighted", "batch sampler", "distributed"],
    )
    def test_they_are_those_of_the_inputs(self, tmp_path: Path, options: Callable[[Any], dict[str, Any]], workers: int) -> None:
        """Whatever draws them, with workers that read ahead, over two epochs."""
        data = Numbered()
        extra = {"num_workers": workers, "persistent_workers": True} if workers else {}
        with Recorder(tmp_path / "r.jsonl", repeats=True) as recorder:
            shown = train(recorder, recorder.loader(DataLoader(data, **options(data), **extra)), epochs=2)
        assert [one.ids for one in records(tmp_path / "r.jsonl", "batch")] == shown
        assert [one.epoch for one in records(tmp_path / "r.jsonl", "epoch")] == [1, 2]

    @pytest.mark.parametrize("form", ["named", "mapping"])
    def test_batches_stay_as_they_are(self, tmp_path: Path, form: str) -> None:
        """Named tuples, and samples with a field of their own that is called id."""
        seen: list[Any] = []
        with Recorder(tmp_path / "r.jsonl") as recorder:
            train(recorder, recorder.loader(DataLoader(Numbered(form), batch_size=N)), seen=seen)
        assert type(seen[0]) is (Sample if form == "named" else dict)
        assert form == "named" or seen[0]["id"][3] == "case-3"
        assert records(tmp_path / "r.jsonl", "batch")[0].ids == list(range(N))

    def test_a_collate_function_need_not_know_them(self, tmp_path: Path) -> None:
        """As for mixup, which makes new samples of those that were drawn."""

        def halves(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
            inputs = torch.stack([one[0] for one in samples])
            return 0.5 * inputs + 0.5 * inputs.flip(0), torch.tensor([one[1] for one in samples])

        with Recorder(tmp_path / "r.jsonl") as recorder:
            train(recorder, recorder.loader(DataLoader(Numbered(), batch_size=N, collate_fn=halves)))
        assert records(tmp_path / "r.jsonl", "batch")[0].ids == list(range(N))

    def test_parts_of_a_split_have_the_ids_of_the_whole(self, tmp_path: Path) -> None:
        """Or names of one's own, one for each sample of the whole."""
        part = Subset(Subset(Numbered(), list(range(5, 15))), [9, 0])
        with Recorder(tmp_path / "r.jsonl") as recorder:
            train(recorder, recorder.loader(DataLoader(part, batch_size=2)))
            names = [f"n{i}" for i in range(N)]
            train(recorder, recorder.loader(DataLoader(part, batch_size=2), phase="val", ids=names))
            with pytest.raises(UsageError, match="ids: 2 ids for 20 samples"):
                recorder.loader(DataLoader(part), phase="test", ids=names[:2])
        assert [one.ids for one in records(tmp_path / "r.jsonl", "batch")] == [[14, 5], ["n14", "n5"]]

    def test_files_are_the_paths_of_an_image_folder(self, tmp_path: Path) -> None:
        """Below its root, so that records name no folder of the machine."""
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import ToTensor

        for name in ("ant", "bee"):
            (tmp_path / "images" / name).mkdir(parents=True)
            Image.new("L", (2, 2)).save(tmp_path / "images" / name / "1.png")
        loader = DataLoader(ImageFolder(str(tmp_path / "images"), transform=ToTensor()), batch_size=2)
        model, criterion = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion, model=model)
            for inputs, labels in recorder.loader(loader):
                criterion(model(inputs), labels)
        (batch,) = records(tmp_path / "r.jsonl", "batch")
        assert (batch.ids, batch.files) == ([0, 1], ["ant/1.png", "bee/1.png"])

    def test_a_loader_around_a_loader_is_looked_into(self, tmp_path: Path) -> None:
        """Such as one that loads a batch ahead, like timm's."""

        class Prefetching:
            def __init__(self, loader: Any) -> None:
                self.loader = loader

            def __iter__(self) -> Iterator[Any]:
                before = None
                for batch in self.loader:
                    if before is not None:
                        yield before
                    before = batch
                yield before

        with Recorder(tmp_path / "r.jsonl") as recorder:
            loader = recorder.loader(Prefetching(DataLoader(Numbered(), batch_size=3, shuffle=True)))  # type: ignore[arg-type]
            shown = train(recorder, loader, epochs=2)
        assert [one.ids for one in records(tmp_path / "r.jsonl", "batch")] == shown

    def test_a_loader_is_left_as_it_was(self, tmp_path: Path) -> None:
        """Once the recorder is closed; a loader watched twice draws once."""
        loader = DataLoader(Numbered(), batch_size=3)
        sampler = loader.batch_sampler
        with Recorder(tmp_path / "r.jsonl") as recorder:
            train(recorder, recorder.loader(loader))
            train(recorder, recorder.loader(loader, phase="val"))
        assert loader.batch_sampler is sampler
        assert [(one.phase, one.n) for one in records(tmp_path / "r.jsonl", "epoch")] == [("train", N), ("val", N)]

    @pytest.mark.parametrize(
        ("loader", "said"),
        [
            (lambda: DataLoader(Numbered(), batch_size=2, num_workers=2, in_order=False), "in_order=False"),
            (lambda: DataLoader(ConcatDataset([identified(Numbered()), Numbered()])), "have no ids"),
            (lambda: DataLoader(Streamed(ids=False), batch_size=4), "may have labels at its end, and no ids"),
            (lambda: [(torch.zeros(4, 2), torch.zeros(4).long())], "may have labels at its end, and no ids"),
            (lambda: Resuming(Numbered(), batch_size=4), "it resumes in the middle of a pass, and draws again what it skips"),
        ],
        ids=["out of order", "half", "stream", "list", "resuming"],
    )
    def test_loaders_without_ids_are_refused(self, tmp_path: Path, loader: Callable[[], Any], said: str) -> None:
        """Labels are never taken for ids."""
        with Recorder(tmp_path / "r.jsonl") as recorder, pytest.raises(UsageError, match=said) as caught:
            list(recorder.loader(loader()))
        assert "identified(dataset)" in caught.value.hint

    def test_a_stream_may_carry_ids(self, tmp_path: Path) -> None:
        """As the last of three elements."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            shown = train(recorder, recorder.loader(DataLoader(Streamed(ids=True), batch_size=8)))
        assert [one.ids for one in records(tmp_path / "r.jsonl", "batch")] == shown

    def test_accelerate_is_asked_first(self, tmp_path: Path) -> None:
        """A prepared loader is recorded; one that several processes have not divided is refused."""
        accelerate = pytest.importorskip("accelerate")
        from accelerate.state import PartialState

        loader = accelerate.Accelerator(cpu=True).prepare(
            DataLoader(
                TensorDataset(torch.arange(N).float()[:, None].repeat(1, 2), torch.arange(N) % 3), batch_size=8, shuffle=True
            )
        )
        with Recorder(tmp_path / "r.jsonl") as recorder:
            shown = train(recorder, recorder.loader(loader), epochs=2)
            PartialState._shared_state["num_processes"] = 2
            try:
                with pytest.raises(UsageError, match="each of the 2 processes would get all samples") as caught:
                    list(recorder.loader(DataLoader(Numbered())))
            finally:
                PartialState._shared_state["num_processes"] = 1
        assert "accelerator.prepare(loader)" in caught.value.hint
        assert [one.ids for one in records(tmp_path / "r.jsonl", "batch")] == shown


class TestPasses:
    """Passes over a loader that are not what its name says."""

    def test_evaluating_the_training_set_is_not_training(self, tmp_path: Path) -> None:
        """Without gradients, or with the model in evaluation mode."""
        model, criterion = nn.Linear(2, CLASSES), nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion, model=model)
            loader = recorder.loader(DataLoader(Numbered(), batch_size=N))
            for grad, mode in ((True, True), (False, True), (True, False), (True, True)):
                model.train(mode)
                with torch.set_grad_enabled(grad):
                    for inputs, labels in loader:
                        criterion(model(inputs), labels)
        assert [(one.phase, one.epoch) for one in records(tmp_path / "r.jsonl", "epoch")] == [
            ("train", 1),
            ("train-eval", 1),
            ("train-eval", 2),
            ("train", 2),
        ]
        assert [one.step for one in records(tmp_path / "r.jsonl", "batch")] == [0, 1, 1, 1]
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_an_average_of_the_weights_has_its_own_phase(self, tmp_path: Path) -> None:
        """Although the copy of the model has the hooks of the model."""
        model, criterion = nn.Linear(2, CLASSES), nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion, model=model)
            average = copy.deepcopy(model)
            loader = recorder.loader(DataLoader(Numbered(), batch_size=N), phase="val")
            for one in (model, average, model):
                for inputs, labels in loader:
                    criterion(one(inputs), labels)
        assert [(one.phase, one.epoch) for one in records(tmp_path / "r.jsonl", "epoch")] == [
            ("val", 1),
            ("val-other", 1),
            ("val", 2),
        ]

    def test_auxiliary_outputs_are_not_recorded(self, tmp_path: Path) -> None:
        """The first call of a batch is: GoogLeNet's loss is called three times."""
        criterion = nn.CrossEntropyLoss()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.watch(criterion)
            for _, labels in recorder.loader(DataLoader(Numbered(), batch_size=5)):
                main, first, second = (torch.randn(5, CLASSES, requires_grad=True) for _ in range(3))
                loss = criterion(main, labels)
                loss = loss + 0.3 * criterion(first, labels) + 0.3 * criterion(second, labels)
        found = records(tmp_path / "r.jsonl", "batch")
        assert len(found) == 4
        assert found[-1].loss == pytest.approx(float(nn.functional.cross_entropy(main, labels)))


def test_a_compiled_step_is_recorded(tmp_path: Path) -> None:
    """Whether the loss function is watched, or `record` is called in it."""
    model, criterion = nn.Linear(2, CLASSES), nn.CrossEntropyLoss()
    with Recorder(tmp_path / "watched.jsonl") as recorder:
        recorder.watch(criterion, model=model)
        step = torch.compile(lambda inputs, labels: criterion(model(inputs), labels), backend="aot_eager")
        for inputs, labels in recorder.loader(DataLoader(Numbered(), batch_size=5)):
            step(inputs, labels).backward()
    with Recorder(tmp_path / "called.jsonl") as recorder:

        @torch.compile(backend="aot_eager")
        def record(inputs: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            logits = model(inputs)
            loss = nn.functional.cross_entropy(logits, labels)
            recorder.record(epoch=1, phase="train", inputs=inputs, logits=logits, labels=labels, ids=ids, loss=loss)
            return loss

        for inputs, labels, ids in DataLoader(identified(Numbered()), batch_size=5):
            record(inputs, labels, ids).backward()
    watched, called = (
        [one.probs.tolist() for one in records(tmp_path / f"{name}.jsonl", "batch")] for name in ("watched", "called")
    )
    assert len(watched) == 4
    assert watched == called
