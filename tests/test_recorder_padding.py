"""Samples that a sampler repeats, so that all processes get equally many, are not recorded but counted."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset

from capture_cli import Recorder, identified, open_run
from capture_cli.errors import UsageError
from capture_cli.recorder.padding import padding_of
from conftest import Capture
from recordings import batch_of, records

accelerate = pytest.importorskip("accelerate.data_loader")
N = 33


def dealt(samplers: Sequence[object]) -> tuple[list[int], int]:
    """Return the samples that all processes record in a pass, and the number of those that are padding."""
    recorded: list[int] = []
    padded = 0
    for sampler in samplers:
        padding, start = padding_of(sampler), 0
        for number, batch in enumerate(sampler):  # type: ignore[arg-type, var-annotated]
            places = set(padding(number, start, len(batch)) if padding else ())
            recorded += [one for place, one in enumerate(batch) if place not in places]
            padded, start = padded + len(places), start + len(batch)
    return recorded, padded


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [4, 16, 40])
@pytest.mark.parametrize("n", [1, 7, N, 64])
def test_each_sample_is_recorded_once(n: int, size: int, processes: int) -> None:
    """Whatever the sampler of torch, or accelerate, adds in whichever process."""
    data = range(n)
    ranks = range(processes)
    torchs = [BatchSampler(DistributedSampler(data, processes, one, shuffle=True), size, drop_last=False) for one in ranks]
    plain = BatchSampler(range(n), size, drop_last=False)
    shards = [accelerate.BatchSamplerShard(plain, processes, one) for one in ranks]
    for samplers in (torchs, shards):
        recorded, padded = dealt(samplers)
        assert sorted(recorded) == list(range(n))
        assert padded == sum(len(batch) for one in samplers for batch in one) - n
    if size % processes == 0:
        recorded, _ = dealt([accelerate.BatchSamplerShard(plain, processes, one, split_batches=True) for one in ranks])
        assert sorted(recorded) == list(range(n))


def test_what_a_sampler_draws_on_purpose_is_no_padding() -> None:
    """With replacement, or without being filled up."""
    drawn = BatchSampler(RandomSampler(range(8), replacement=True, num_samples=32), 4, drop_last=False)
    assert padding_of(drawn) is None
    assert padding_of(BatchSampler(DistributedSampler(range(N), 2, 0, drop_last=True), 4, drop_last=False)) is None
    assert padding_of(accelerate.BatchSamplerShard(BatchSampler(range(N), 4, drop_last=True), 2, 0)) is None
    recorded, padded = dealt([accelerate.BatchSamplerShard(drawn, 3, one) for one in range(3)])
    assert (len(recorded), padded) == (32, 4)


def test_named_losses_of_padded_batches(tmp_path: Path) -> None:
    """Numbers of each sample lose the same rows."""
    data = TensorDataset(torch.randn(5, 4), torch.arange(5) % 3)
    sampler = DistributedSampler(data, 2, 1, shuffle=False)
    model, criterion = torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss()
    aux = torch.nn.CrossEntropyLoss(reduction="none")
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.watch(criterion, model=model)
        recorder.watch(aux, name="aux")
        for inputs, labels in recorder.loader(DataLoader(data, batch_size=3, sampler=sampler)):
            logits = model(inputs)
            criterion(logits, labels)
            aux(logits, labels)
    with open_run(tmp_path / "r.jsonl") as run:
        batch, epoch = (next(one for one in run.records() if one.kind == kind) for kind in ("batch", "epoch"))
    assert batch.ids == [1, 3]
    assert len(batch.numbers["aux"]) == 2
    assert (epoch.n, epoch.padded) == (2, 1)


TRAINING = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from accelerate import Accelerator
from capture_cli import Recorder

accelerator = Accelerator(cpu=True)
data = TensorDataset(torch.arange(33.0)[:, None].repeat(1, 4), torch.arange(33) % 3)
model, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
model, loader = accelerator.prepare(model, DataLoader(data, batch_size=16, shuffle=True))
with Recorder("run") as recorder:
    recorder.watch(criterion, model=model)
    for inputs, labels in recorder.loader(loader):
        accelerator.backward(criterion(model(inputs), labels))
    assert recorder.step == 2
accelerator.end_training()
"""


def test_thirty_three_samples_stay_thirty_three(tmp_path: Path, capture: Capture) -> None:
    """Accelerate makes them 64 visits of two processes; `inspect` says how many were excluded."""
    (tmp_path / "training.py").write_text(TRAINING)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "training.py"]
    subprocess.run(
        torchrun, cwd=tmp_path, check=True, capture_output=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    with open_run(tmp_path / "run") as run:
        ids = [one for record in run.records() if record.kind == "batch" for one in record.ids]
    assert sorted(ids) == list(range(33))
    (epoch,) = json.loads(capture("inspect", tmp_path / "run", "--json").stdout)["epochs"]
    assert (epoch["train"]["n"], epoch["train"]["padded"]) == (33, 31)
    assert "31 padded samples were excluded" in capture("inspect", tmp_path / "run").stdout


class TestByHand:
    """Loops that call `record` themselves, or let a callback do it, and name the loader."""

    @pytest.mark.parametrize("every", [1, 2])
    def test_all_processes_record_each_sample_once(self, tmp_path: Path, every: int) -> None:
        """Whatever the form of the columns; a process with a batch of padding alone counts it."""
        data = identified(TensorDataset(torch.randn(9, 4), torch.arange(9) % 3))
        recorded: list[int] = []
        for rank in range(4):  # 3 batches of 1 each, of which 3 processes have padding in the last
            path = tmp_path / f"{rank}.jsonl"
            loader = DataLoader(data, batch_size=1, sampler=DistributedSampler(data, 4, rank, shuffle=True))
            with Recorder(path, every=every) as recorder:
                for epoch in range(2):
                    for number, (inputs, labels, ids) in enumerate(loader):
                        recorder.record(
                            epoch=epoch,
                            phase="train",
                            inputs={"x": inputs, "more": [inputs + 1]},
                            logits=torch.randn(1, 3),
                            labels=labels,
                            ids=(ids, ids.tolist(), ids.numpy())[number],
                            files=[f"{int(ids)}.png"],
                            extra={"text": ["a"]},
                            loader=loader,
                        )
                assert recorder.step == 6
            epochs = records(path, "epoch")
            assert [(one.n, one.padded) for one in epochs] == [(3, None) if rank == 0 else (2, 1)] * 2
            recorded += [one for batch in records(path, "batch") if not batch.epoch for one in batch.ids]
        assert sorted(recorded) == list(range(9)) if every == 1 else len(recorded) == 5

    def test_part_of_a_batch_is_padding(self, tmp_path: Path) -> None:
        """Its rows are dropped from all columns, so a repeated id is none."""
        data = TensorDataset(torch.randn(5, 4), torch.arange(5) % 3)
        loader = DataLoader(data, batch_size=5, sampler=DistributedSampler(data, 3, 2, shuffle=False))  # 2 and 5, which is 0
        ((inputs, labels),) = list(loader)
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(
                epoch=0,
                phase="val",
                inputs=inputs,
                logits=torch.randn(2, 3),
                labels=labels,
                ids=range(2, 4),
                numbers={"aux": [0.5, 1.5], "kl": 2.0},
                losses=torch.tensor([1.0, 7.0]),
                loader=loader,
            )
        (batch,), (epoch,) = records(tmp_path / "r.jsonl", "batch"), records(tmp_path / "r.jsonl", "epoch")
        assert (batch.ids, batch.numbers["aux"].tolist(), batch.batch_numbers["kl"]) == ([2], [0.5], 2.0)
        assert (epoch.n, epoch.padded, epoch.loss) == (1, 1, 1.0)

    def test_nothing_is_dropped_without_padding(self, tmp_path: Path) -> None:
        """A plain loader, or none at all, changes no byte."""
        written = []
        for loader in (None, [], DataLoader(range(64), batch_size=16)):  # type: ignore[arg-type]
            with Recorder(tmp_path / "r.jsonl", force=True) as recorder:
                for number in range(3):
                    recorder.record(**batch_of(16, 3, first=16 * number), loader=loader)
            written.append((tmp_path / "r.jsonl").read_bytes())
        assert written[0] == written[1] == written[2]

    def test_an_error_is_that_of_record(self, tmp_path: Path) -> None:
        """In a batch that has padding, or is padding; counted once if it only warns."""
        data = range(5)
        loader = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, 4, 1, shuffle=False))  # type: ignore[arg-type, var-annotated]
        wrong = batch_of(2, 3) | {"labels": torch.zeros(3, dtype=torch.int64)}
        with pytest.raises(UsageError, match="labels int64"), Recorder(tmp_path / "a.jsonl") as recorder:
            recorder.record(**wrong, loader=loader)
        recorder = Recorder(tmp_path / "b.jsonl", on_error="warn")
        with pytest.warns(UserWarning, match="labels int64"):
            recorder.record(**wrong, loader=loader)
        assert recorder.missed == 1
        with pytest.warns(UserWarning, match="1 batches"):
            recorder.close()
        alone = DataLoader(data, batch_size=2, sampler=DistributedSampler(range(1), 4, 1, shuffle=False))  # type: ignore[arg-type, var-annotated]
        with pytest.raises(UsageError, match="epoch=-1"), Recorder(tmp_path / "c.jsonl") as recorder:
            recorder.record(**batch_of(1, 3, epoch=-1), loader=alone)


def test_identified_samples_of_a_watched_loader(tmp_path: Path) -> None:
    """Ids that the batches bring know no padding; the sampler does."""
    data = identified(TensorDataset(torch.randn(5, 4), torch.arange(5) % 3))
    model, criterion = torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss()
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.watch(criterion, model=model)
        for inputs, labels in recorder.loader(DataLoader(data, batch_size=3, sampler=DistributedSampler(data, 2, 1))):
            criterion(model(inputs), labels)
    (epoch,) = records(tmp_path / "r.jsonl", "epoch")
    assert (epoch.n, epoch.padded) == (2, 1)
