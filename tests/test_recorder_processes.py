"""A recorder made in one process records in others: spawned and forked ones, each in the file of its rank."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from capture_cli import ListSink, Recorder, open_run
from capture_cli.errors import UsageError
from recordings import batch_of, records, verified

TRAINING = """
import os, sys
import torch
from torch import distributed, multiprocessing, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from capture_cli import Recorder

def train(rank, recorder):
    distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=rank, world_size=2)
    data = TensorDataset(torch.arange(9.0)[:, None].repeat(1, 4), torch.arange(9) % 3)
    model, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss()
    recorder.watch(criterion, model=model)
    loader = recorder.loader(DataLoader(data, batch_size=2, sampler=DistributedSampler(data)))
    for inputs, labels in loader:
        criterion(model(inputs), labels).backward()
    distributed.destroy_process_group()

if __name__ == "__main__":
    with Recorder("run", classes=["a", "b", "c"], model=nn.Linear(4, 3)) as recorder:
        multiprocessing.start_processes(train, (recorder,), nprocs=2, start_method=sys.argv[1])
"""
LIGHTNING = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lightning.pytorch import LightningModule, Trainer
from capture_cli import LightningCapture, Recorder

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def training_step(self, batch, _):
        inputs, labels = batch
        logits = self.layer(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits, "labels": labels}
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    data = TensorDataset(torch.arange(8.0)[:, None].repeat(1, 4), torch.arange(8) % 3)
    with Recorder("run", classes=["a", "b", "c"]) as recorder:
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy=sys.argv[1], max_epochs=1, logger=False,
            callbacks=[LightningCapture(recorder)],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )
        trainer.fit(Module(), DataLoader(data, batch_size=2))
"""

STAYING = """
import os, sys
from torch import multiprocessing
from capture_cli import ListSink, Recorder
from capture_cli.errors import UsageError
from recordings import batch_of

def train(rank, recorder):
    try:
        recorder.record(**batch_of(4, 3))
    except UsageError as error:
        print(error, flush=True)
        raise SystemExit(3)

if __name__ == "__main__":
    sink = ListSink()
    with Recorder("r.jsonl", sinks=[sink]) as recorder:
        try:
            multiprocessing.start_processes(train, (recorder,), nprocs=1, start_method=sys.argv[1])
        except UsageError as error:
            print(error)
        except multiprocessing.ProcessExitedException as error:
            assert error.exit_code == 3
        recorder.record(**batch_of(4, 3))
    assert [one.kind for one in sink.records] == ["run", "batch", "epoch", "end"]
"""
FORKING = """
import os
from capture_cli import Recorder
from capture_cli.errors import CaptureError, UsageError
from recordings import batch_of

def forked(recorder):
    child = os.fork()
    if child == 0:
        try:
            recorder.record(**batch_of(4, 3))
            recorder.close()
        except CaptureError:
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

recorder = Recorder("run")
assert [forked(recorder), forked(recorder)] == [0, 3]
try:
    recorder.record(**batch_of(4, 3))
except UsageError as error:
    assert "written by a process that was forked" in str(error)
else:
    raise AssertionError("the parent recorded")
recorder.close()
"""
"""In a process of its own: a fork of one whose threads compute, such as that of the tests, may wait for them for ever."""


def run(script: str, folder: Path, *args: str) -> str:
    """Return what a script prints in a folder. It has one thread, since forked processes have no others."""
    (folder / "training.py").write_text(script)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.fspath(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "training.py", *args], cwd=folder, capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def recorded(folder: Path) -> list[int]:
    """Return the ids in all files of a run, each of which ends as completed."""
    for path in folder.glob("records*.jsonl"):
        assert verified(path) == "completed"
    with open_run(folder) as opened:
        assert opened.info.classes == ["a", "b", "c"]
        return sorted(one for record in opened.records() if record.kind == "batch" for one in record.ids)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_each_process_writes_the_file_of_its_rank(tmp_path: Path, method: str) -> None:
    """One run, in which each sample is once; the parent's close does no harm."""
    run(TRAINING, tmp_path, method)
    assert sorted(path.name for path in (tmp_path / "run").glob("records*")) == ["records-rank1.jsonl", "records.jsonl"]
    assert recorded(tmp_path / "run") == list(range(9))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_lightning_starts_its_processes(tmp_path: Path, strategy: str) -> None:
    """With the callback as it is for one process."""
    pytest.importorskip("lightning.pytorch")
    run(LIGHTNING, tmp_path, strategy)
    assert recorded(tmp_path / "run") == list(range(8))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_recorder_with_sinks_stays_in_its_process(tmp_path: Path, method: str) -> None:
    """The other process, or the start of it, gets the reason and the way out; the first one loses no record."""
    said = run(STAYING, tmp_path, method)
    begins = (
        "cannot be sent to another process" if method == "spawn" else "belongs to the process that this one was forked from"
    )
    reason = "it has sinks, which work only where they were opened"
    assert (
        said == f"the recorder of 'r.jsonl' {begins}: {reason}; open a recorder in each process, all with the same run folder\n"
    )
    assert verified(tmp_path / "r.jsonl") == "completed"
    assert len(records(tmp_path / "r.jsonl", "batch")) == 1


class TestSending:
    """Pickling hands the run over."""

    @pytest.mark.parametrize("name", ["run", "r.jsonl"])
    def test_the_receiver_records_with_the_same_settings(self, tmp_path: Path, name: str) -> None:
        """It opens its file with the first use; the sender is closed, and says why it records no more."""
        sender = Recorder(tmp_path / name, classes=["a", "b", "c"], every=2)
        receiver = pickle.loads(pickle.dumps(sender))  # noqa: S301
        assert not (tmp_path / "r.jsonl").exists()
        with receiver:
            for number in range(3):
                receiver.record(**batch_of(4, 3, first=4 * number))
        with pytest.raises(UsageError, match="was sent to other processes"):
            sender.record(**batch_of(4, 3))
        sender.close()
        path = tmp_path / name if name == "r.jsonl" else tmp_path / name / "records.jsonl"
        assert verified(path) == "completed"
        assert [one.batch for one in records(path, "batch")] == [0, 2]

    def test_a_receiver_that_is_never_used_leaves_nothing(self, tmp_path: Path) -> None:
        """As in a worker that loads data."""
        receiver = pickle.loads(pickle.dumps(Recorder(tmp_path / "run")))  # noqa: S301
        receiver.close()
        assert not list((tmp_path / "run").iterdir())

    def test_a_run_that_has_begun_stays(self, tmp_path: Path) -> None:
        """The error names what to write instead, and the recorder goes on."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
            with pytest.raises(UsageError, match=r"has recorded here already; open a recorder in each process"):
                pickle.dumps(recorder)
            recorder.record(**batch_of(4, 3, first=4))
        with Recorder(tmp_path / "s.jsonl", sinks=[ListSink()]) as recorder, pytest.raises(UsageError, match="it has sinks"):
            pickle.dumps(recorder)
        assert verified(tmp_path / "r.jsonl") == "completed"


def test_a_forked_process_takes_a_run_that_has_not_begun(tmp_path: Path) -> None:
    """A second one is refused, and so is the parent, which then closes without a word."""
    run(FORKING, tmp_path)
    assert verified(tmp_path / "run" / "records.jsonl") == "completed"
    assert len(records(tmp_path / "run" / "records.jsonl", "batch")) == 1
