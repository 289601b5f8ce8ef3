"""A training of several processes is one run: each writes a file of its own, and every command reads them as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from capture_cli import Recorder, open_run
from capture_cli.errors import UsageError
from recordings import batch_of, records, verified

TRAINING = """
import sys
import torch
from torch import nn, distributed
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from capture_cli import Recorder

generator = torch.Generator().manual_seed(0)
data = TensorDataset(torch.randn(32, 4, generator=generator), torch.arange(32) % 3)
if len(sys.argv) > 2:
    distributed.init_process_group("gloo")
    sampler = DistributedSampler(data)
else:
    sampler = None
torch.manual_seed(0)
model, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
with Recorder(sys.argv[1], model=model) as recorder:
    watched = nn.parallel.DistributedDataParallel(model) if sampler else model
    recorder.watch(criterion, model=watched)
    loader = recorder.loader(DataLoader(data, batch_size=4, sampler=sampler, shuffle=False))
    for epoch in range(2):
        if sampler:
            sampler.set_epoch(epoch)
        for inputs, labels in loader:
            criterion(watched(inputs), labels).backward()  # no update: both trainings see the same model
if sampler:
    distributed.destroy_process_group()
"""


def test_two_processes_record_what_one_does(tmp_path: Path) -> None:
    """Under torchrun, with a sampler that divides the samples: the same ids, digests, labels and counts."""
    (tmp_path / "training.py").write_text(TRAINING)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for command in (
        [*torchrun, "training.py", "two", "distributed"],
        [sys.executable, "training.py", "one"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment, timeout=240)
    assert sorted(path.name for path in (tmp_path / "two").glob("records*")) == ["records-rank1.jsonl", "records.jsonl"]
    found = []
    for name in ("one", "two"):
        with open_run(tmp_path / name) as run:
            batches = [record for record in run.records() if record.kind == "batch"]
            assert run.info.model == {"name": "Linear", "parameters": 15}
            assert run.ending.status == "completed"
        samples = {
            (batch.epoch, one): (digest, label)
            for batch in batches
            for one, digest, label in zip(batch.ids, batch.inputs.digests, batch.labels.tolist(), strict=True)
        }
        with open_run(tmp_path / name) as run:
            sums = [(record.phase, record.epoch, record.n) for record in run.blocks() if getattr(record, "kind", "") == "epoch"]
        found.append((samples, sums))
    assert found[0] == found[1]
    assert len(found[0][0]) == 64


class TestOutput:
    """Files of a run folder, by the environment that torchrun sets."""

    @staticmethod
    def be(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
        """Be the process of `rank` of `size`."""
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(size))

    def test_processes_may_come_in_any_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each writes its own file, and knows its rank."""
        for rank in (1, 0, 2):
            self.be(monkeypatch, rank, 3)
            with Recorder(tmp_path / "run") as recorder:
                recorder.record(**batch_of(4, 3, first=4 * rank))
        for rank, name in enumerate(("records.jsonl", "records-rank1.jsonl", "records-rank2.jsonl")):
            assert verified(tmp_path / "run" / name) == "completed"
            assert [batch.rank for batch in records(tmp_path / "run" / name, "batch")] == [rank]

    def test_an_existing_run_is_kept_overwritten_or_continued(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By each process for its file; files of processes that are no more go with force."""
        for rank in (0, 1, 2):
            self.be(monkeypatch, rank, 3)
            with Recorder(tmp_path / "run") as recorder:
                recorder.record(**batch_of(4, 3, epoch=1))
        for rank in (0, 1):
            self.be(monkeypatch, rank, 3)
            with pytest.raises(UsageError, match="run"):
                Recorder(tmp_path / "run")
            with Recorder(tmp_path / "run", append=True) as recorder:
                recorder.record(**batch_of(4, 3, epoch=2))
        assert [one.epoch for one in records(tmp_path / "run" / "records-rank1.jsonl", "epoch")] == [1, 2]
        self.be(monkeypatch, 0, 2)
        Recorder(tmp_path / "run", force=True).close()
        assert sorted(path.name for path in (tmp_path / "run").glob("records*")) == ["records-rank1.jsonl", "records.jsonl"]
        monkeypatch.undo()
        Recorder(tmp_path / "run", force=True).close()
        assert sorted(path.name for path in (tmp_path / "run").glob("records*")) == ["records.jsonl"]
