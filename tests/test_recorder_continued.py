"""Recorders of scripts that were started again, that are never closed, or that must not end a training."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from capture_cli import Recorder, identified, open_run
from capture_cli.errors import CaptureError, RecordsError, UsageError
from recordings import batch_of, records, verified


def record(recorder: Recorder, epoch: int, *, first: int = 0, batches: int = 2, phase: str = "train") -> None:
    """Record batches of 4 samples, numbered from `first`."""
    for number in range(first, first + batches):
        recorder.record(**batch_of(4, 3, seed=number, first=4 * number, epoch=epoch, phase=phase))


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collect the warnings of the block."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [str(one.message) for one in caught]


class TestAppend:
    """`append=True` continues the records of an earlier process."""

    @pytest.mark.parametrize("out", ["r.jsonl", "folder"])
    def test_epochs_and_steps_continue(self, tmp_path: Path, out: str) -> None:
        """After an end, and in one file: the same batches as those of one recorder."""
        for epoch in (1, 2, 3):
            with Recorder(tmp_path / out, append=True) as recorder:
                record(recorder, epoch)
                record(recorder, epoch, phase="val", batches=1)
                assert recorder.step == 2 * epoch
        with open_run(tmp_path / out) as run:
            found = list(run.records())
        steps = [(one.epoch, one.batch, one.step) for one in found if one.kind == "batch" and one.phase == "train"]
        assert steps == [(1, 0, 0), (1, 1, 1), (2, 0, 2), (2, 1, 3), (3, 0, 4), (3, 1, 5)]
        assert [(one.epoch, one.phase, one.n) for one in found if one.kind == "epoch"] == [
            (epoch, phase, n) for epoch in (1, 2, 3) for phase, n in (("train", 8), ("val", 4))
        ]
        assert [one.kind for one in found if one.kind in ("run", "end")] == 3 * ["run", "end"]

    @pytest.mark.parametrize("end", ["killed", "torn", "failed"])
    def test_an_epoch_under_way_continues(self, tmp_path: Path, end: str) -> None:
        """Its sums are those of all its batches, wherever the earlier process ended."""
        path, whole = tmp_path / "r.jsonl", tmp_path / "whole.jsonl"
        with Recorder(whole) as recorder:
            record(recorder, 1)
            record(recorder, 2, batches=4)
        recorder = Recorder(path)
        record(recorder, 1)
        record(recorder, 2)
        recorder.close("failed")
        if end != "failed":
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[:-2]) + (b'{"seq":' if end == "torn" else b""))
        with Recorder(path, append=True) as recorder:
            assert recorder.step == 4
            record(recorder, 2, first=2)
        assert verified(path) == "completed"
        assert [one.batch for one in records(path, "batch")] == [0, 1, 0, 1, 2, 3]
        mine, theirs = records(path, "epoch"), records(whole, "epoch")
        assert [(one.epoch, one.n, one.accuracy) for one in mine] == [(one.epoch, one.n, one.accuracy) for one in theirs]
        assert [one.loss for one in mine] == pytest.approx([one.loss for one in theirs])
        assert bool(list(tmp_path.glob("r.jsonl.cut-*"))) == (end != "killed")

    def test_an_epoch_may_begin_again(self, tmp_path: Path) -> None:
        """As a script does that saves its weights once an epoch: its ids come again, and the samples are counted as often."""
        path = tmp_path / "r.jsonl"
        Recorder(path).close()
        for batches in (1, 2):
            recorder = Recorder(path, append=True)
            record(recorder, 1, batches=batches)
            recorder.close("interrupted")
        assert [(one.epoch, one.n) for one in records(path, "epoch")] == [(1, 12)]

    def test_other_runs_are_refused(self, tmp_path: Path) -> None:
        """Another task or other classes, damage, and both ways to treat an existing run."""
        path = tmp_path / "r.jsonl"
        with Recorder(path, classes=["a", "b", "c"]) as recorder:
            record(recorder, 1)
        for options, said in (
            ({"classes": ["a", "c", "b"]}, "classes are not those of the run"),
            ({"task": "regression"}, "task='regression' is not that of the run, 'classification'"),
            ({"force": True}, "one of force"),
        ):
            with pytest.raises(UsageError, match=said):
                Recorder(path, append=True, **options)  # type: ignore[arg-type]
        path.write_bytes(path.read_bytes().replace(b'"epoch":1', b'"epoch":7', 1))
        with pytest.raises(RecordsError, match="is damaged") as caught:
            Recorder(path, append=True)
        assert f"capture verify {path} --repair" in caught.value.hint

    def test_watched_epochs_continue(self, tmp_path: Path) -> None:
        """A watched loader counts from the last epoch that ended."""
        data = torch.utils.data.TensorDataset(torch.rand(8, 2), torch.arange(8) % 3)
        for _ in range(2):
            model, criterion = nn.Linear(2, 3), nn.CrossEntropyLoss()
            with Recorder(tmp_path / "r.jsonl", append=True) as recorder:
                recorder.watch(criterion, model=model)
                for inputs, labels in recorder.loader(torch.utils.data.DataLoader(data, batch_size=4)):
                    criterion(model(inputs), labels)
        assert [one.epoch for one in records(tmp_path / "r.jsonl", "epoch")] == [1, 2]


class TestWarn:
    """`on_error="warn"` never ends a training."""

    def test_a_batch_that_does_not_fit_is_counted(self, tmp_path: Path) -> None:
        """It is told of once, and the batches after it are recorded."""
        path = tmp_path / "r.jsonl"
        with warned() as said, Recorder(path, on_error="warn") as recorder:
            record(recorder, 1)
            for _ in range(3):
                recorder.record(**batch_of(4, 3, epoch=1) | {"ids": [0, 1]})
            record(recorder, 1, first=2)
        assert said[0].startswith("the batch is not recorded, and the training continues: ids: 2 ids for a batch of 4")
        assert said[1:] == ["3 batches were not recorded"]
        assert len(records(path, "batch")) == 4
        assert verified(path) == "completed"

    def test_a_full_disk_ends_the_records_and_not_the_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything before it verifies."""
        path = tmp_path / "r.jsonl"
        recorder = Recorder(path, on_error="warn")
        record(recorder, 1)
        before = path.read_bytes()

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("capture_cli.journal.write_all", full)
        with warned() as said:
            record(recorder, 1, first=2, batches=3)
            recorder.close()
        assert said[0].startswith("nothing more is recorded, and the training continues: record 3")
        assert "No space left on device" in said[0]
        assert said[1:] == ["3 batches were not recorded"]
        assert path.read_bytes() == before

    def test_a_watched_loss_function_returns_its_loss(self, tmp_path: Path) -> None:
        """Although nothing can be recorded."""
        criterion = nn.CrossEntropyLoss()
        with warned() as said, Recorder(tmp_path / "r.jsonl", on_error="warn") as recorder:
            recorder.watch(criterion)
            assert criterion(torch.zeros(2, 3), torch.tensor([0, 1])).item() == pytest.approx(np.log(3))
        assert len(said) == 2
        assert recorder.missed == 1


class TestNeverClosed:
    """A recorder without `with` or `close`."""

    def test_another_on_its_output_takes_over(self, tmp_path: Path) -> None:
        """As when a notebook cell is run again after an error."""
        path = tmp_path / "r.jsonl"
        abandoned = Recorder(path)
        record(abandoned, 1)
        with pytest.warns(UserWarning, match="is closed as interrupted"):
            recorder = Recorder(path, append=True)
        with recorder:
            record(recorder, 2)
        assert [one.epoch for one in records(path, "epoch")] == [1, 2]
        with pytest.raises(UsageError, match="is closed"):
            record(abandoned, 3)

    def test_one_in_a_with_block_is_not_taken_over(self, tmp_path: Path) -> None:
        """Two recorders on one file are a mistake."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            record(recorder, 1)
            with pytest.raises(CaptureError, match="is being written"):
                Recorder(tmp_path / "r.jsonl", force=True)
        assert verified(tmp_path / "r.jsonl") == "completed"

    @pytest.mark.parametrize(("last", "status"), [("", "interrupted"), ("raise ValueError", "failed")])
    def test_the_end_of_the_program_closes_it(self, tmp_path: Path, last: str, status: str) -> None:
        """The status says that nobody did."""
        code = (
            "import torch; from capture_cli import Recorder; r = Recorder('r.jsonl'); one = torch.rand(2, 2)\n"
            "r.record(epoch=1, phase='train', inputs=one, logits=one, labels=torch.tensor([0, 1]), ids=[0, 1])\n"
        )
        subprocess.run([sys.executable, "-c", code + last], cwd=tmp_path, check=False, capture_output=True)
        assert verified(tmp_path / "r.jsonl") == status

    def test_a_watch_that_saw_nothing_has_failed(self, tmp_path: Path) -> None:
        """The loop uses another loss function, and the records say nothing."""
        with (
            pytest.warns(UserWarning, match="the watched loss function was never called"),
            Recorder(tmp_path / "r.jsonl") as one,
        ):
            one.watch(nn.CrossEntropyLoss())
        assert verified(tmp_path / "r.jsonl") == "failed"


class TestSmallThings:
    """Values and names as other libraries hand them over."""

    @pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor, lambda value: np.array(value)])
    def test_numbers_may_be_scalars_of_numpy_and_torch(self, tmp_path: Path, kind: Any) -> None:
        """The learning rate and the loss."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3) | {"lr": kind(0.5), "loss": kind(0.25)})
        (batch,) = records(tmp_path / "r.jsonl", "batch")
        assert (batch.lr, batch.loss) == (0.5, 0.25)

    def test_a_model_is_named_inside_its_wrappers(self, tmp_path: Path) -> None:
        """Not DataParallel or OptimizedModule."""
        model = nn.Linear(2, 3)
        wrapped = torch.compile(nn.DataParallel(model))
        with Recorder(tmp_path / "r.jsonl", model=wrapped) as recorder:  # type: ignore[arg-type]
            record(recorder, 1)
        assert records(tmp_path / "r.jsonl", "run")[0].model == {"name": "Linear", "parameters": 9}

    def test_records_are_not_called_json(self, tmp_path: Path) -> None:
        """It would become a folder."""
        with pytest.raises(UsageError, match=r"run.json' is no name for records") as caught:
            Recorder(tmp_path / "run.json")
        assert "run.jsonl for the records alone" in caught.value.hint

    def test_a_copy_is_the_recorder(self, tmp_path: Path) -> None:
        """Whatever holds it is copied; one file has one writer."""
        import copy

        with Recorder(tmp_path / "r.jsonl") as recorder, warnings.catch_warnings():
            warnings.simplefilter("error")
            record(recorder, 1)
            record(copy.deepcopy({"callback": recorder})["callback"], 1, first=2)
        assert len(records(tmp_path / "r.jsonl", "batch")) == 4

    def test_attributes_are_set_on_the_dataset(self) -> None:
        """As if it were not wrapped."""
        dataset = torch.utils.data.TensorDataset(torch.rand(4, 2))
        identified(dataset).transform = "new"  # type: ignore[attr-defined]
        assert dataset.transform == "new"  # type: ignore[attr-defined]
