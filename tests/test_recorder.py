"""The recorder: records of batches, what it promises, and sums of phases."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capture_cli.errors import UsageError
from capture_cli.recorder import Recorder
from capture_cli.writer.phases import Phases
from recordings import batch_of, give, lines, recording, records, verified


def test_a_record_is_written_before_record_returns(tmp_path: Path) -> None:
    """On the CPU the line is in the file at once, with the numbers of the forward pass."""
    generator = torch.Generator().manual_seed(0)
    torch.rand(4, 1, 2, 2, generator=generator)
    probs = torch.rand(4, 3, generator=generator).softmax(1).numpy()
    with recording(tmp_path / "r.jsonl") as recorder:
        give(recorder)
        (batch,) = lines(tmp_path / "r.jsonl")
    np.testing.assert_allclose(np.array(batch["probs"], np.float32), probs, rtol=1e-6)
    assert batch["preds"] == probs.argmax(1).tolist()
    assert batch["labels"] == [0, 1, 2, 0]
    np.testing.assert_allclose(batch["losses"], -np.log(probs[range(4), [0, 1, 2, 0]]), rtol=1e-5)
    assert batch["inputs"]["not_stored"] == 4


def test_arguments_are_not_changed(tmp_path: Path) -> None:
    """The loss can be differentiated afterwards, and the inputs are the same bytes."""
    with recording(tmp_path / "r.jsonl") as recorder:
        inputs, weights = torch.rand(2, 1, 2, 2), torch.rand(4, 3, requires_grad=True)
        before = inputs.clone()
        logits = inputs.flatten(1) @ weights
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]), reduction="none")
        loss = losses.mean()
        labels = torch.tensor([0, 1])
        recorder.record(
            phase="train",
            epoch=0,
            inputs=inputs,
            logits=logits,
            labels=labels,
            ids=[0, 1],
            files=["a", "b"],
            losses=losses,
            loss=loss,
        )
        loss.backward()
    assert torch.equal(inputs, before)
    assert weights.grad is not None


def test_batches_count_within_a_phase_and_steps_over_the_run(tmp_path: Path) -> None:
    """`batch` restarts with each phase of each epoch, `step` counts training batches."""
    with recording(tmp_path / "r.jsonl") as recorder:
        for epoch in range(2):
            for phase in ("train", "train", "val"):
                give(recorder, phase=phase, epoch=epoch)
    found = [(b["phase"], b["epoch"], b["batch"], b["step"]) for b in lines(tmp_path / "r.jsonl")]
    assert found == [
        *[("train", 0, 0, 0), ("train", 0, 1, 1), ("val", 0, 0, 2)],
        *[("train", 1, 0, 2), ("train", 1, 1, 3), ("val", 1, 0, 4)],
    ]


@pytest.mark.parametrize("phase", ["validation", "valid", "Validation", "VAL"])
def test_usual_names_of_phases_are_recorded_as_the_standard_ones(tmp_path: Path, phase: str) -> None:
    """With a warning, so that every command finds them; others stay as they are."""
    with Recorder(tmp_path / "run.jsonl") as recorder:
        with pytest.warns(UserWarning, match=f"{phase}.*recorded as 'val'"):
            recorder.record(**batch_of(4, 3, epoch=1) | {"phase": phase})
        assert (recorder.is_open(phase), recorder.ended(phase)) == (True, 0)
        with pytest.warns(UserWarning, match="recorded as 'val'"):
            assert recorder.end_phase(phase).phase == "val"
        assert (recorder.is_open(phase), recorder.ended(phase)) == (False, 1)
        recorder.record(**batch_of(4, 3) | {"phase": "test"})
    assert [one.phase for one in records(tmp_path / "run.jsonl", "batch")] == ["val", "test"]


class TestPromises:
    """Promises to any loop."""

    def test_no_graph_and_no_tensor_is_kept_alive(self, tmp_path: Path) -> None:
        """After the next batch the recorder holds neither logits and their graph nor inputs."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            held = []
            for first in range(0, 12, 4):
                weights = torch.ones(48, 3, requires_grad=True)
                given = batch_of(4, 3, first=first)
                given["logits"] = given["inputs"].flatten(1) @ weights
                recorder.record(**given)
                held.append([weakref.ref(one) for one in (given["inputs"], given["logits"], given["labels"], weights)])
                del given, weights
                gc.collect()
                assert not any(one() is not None for one in held[-1][1:])
            assert not any(one() is not None for kept in held[:-1] for one in kept)

    def test_every_argument_is_left_as_it_was(self, tmp_path: Path) -> None:
        """Tensors, arrays and lists are neither changed nor detached from their graph."""
        given = batch_of(4, 3) | {
            "losses": torch.rand(4),
            "loss": torch.tensor(1.0, requires_grad=True) * 2,
            "files": ["a", "b", "c", "d"],
            "extra": {"n": [1, 2, 3, 4]},
        }
        given["logits"].requires_grad_()
        copies = {name: one.clone() if isinstance(one, torch.Tensor) else json.dumps(one) for name, one in given.items()}
        with Recorder(tmp_path / "r.jsonl", inputs=2, probs="top:2") as recorder:
            recorder.record(**given)
        for name, one in given.items():
            assert torch.equal(one, copies[name]) if isinstance(one, torch.Tensor) else json.dumps(one) == copies[name]
        assert given["loss"].grad_fn is not None

    def test_it_needs_no_gradients_and_changes_no_mode(self, tmp_path: Path) -> None:
        """It works under no_grad and inference_mode, and leaves gradient mode and random state as they are."""
        state = torch.get_rng_state()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
            with torch.no_grad():
                recorder.record(**batch_of(4, 3, first=4))
                assert not torch.is_grad_enabled()
            with torch.inference_mode():
                recorder.record(**batch_of(4, 3, first=8))
        assert torch.is_grad_enabled()
        assert torch.equal(state, torch.get_rng_state())
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_equal_loops_write_equal_bytes(self, tmp_path: Path) -> None:
        """Records hold no clock, process or path."""
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            with Recorder(tmp_path / name / "r.jsonl", config={"lr": 0.1}, model=torch.nn.Linear(3, 2)) as recorder:
                recorder.record(**batch_of(4, 3))
        assert (tmp_path / "a/r.jsonl").read_bytes() == (tmp_path / "b/r.jsonl").read_bytes()
        (run,) = records(tmp_path / "a/r.jsonl", "run")
        assert (run.config, run.model, run.device) == ({"lr": 0.1}, {"name": "Linear", "parameters": 8}, "cpu")

    def test_memory_does_not_grow_over_10000_records(self, tmp_path: Path) -> None:
        """A process holds as much after 10,000 batches as after 2,000."""
        code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from capture_cli import Recorder
from recordings import batch_of
given = batch_of(16, 10)
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
with Recorder("r.jsonl") as recorder:
    for number in range(10_000):
        given["ids"] = list(range(number % 100 * 16, number % 100 * 16 + 16))
        given["epoch"] = number // 100
        recorder.record(**given)
        if number == 2_000:
            before = resident()
    print(resident() - before)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 2_000, f"{done.stdout} kB more after 8,000 batches"

    def test_ids_of_an_epoch_take_little_memory(self, tmp_path: Path) -> None:
        """A million ids in one epoch take a few megabytes, and a repeated one is found."""
        code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from capture_cli.writer.phases import Phases
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
phases = Phases()
phases.enter("train", 0)
before = resident()
for first in range(0, 1_000_000, 500):
    ids = list(range(first, first + 500))
    phases.check_ids("train", 0, ids)
    phases.add_ids("train")
print(resident() - before)
try:
    phases.check_ids("train", 0, [1_000_000, 123_456])
except Exception as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=250)
        grown, _, said = done.stdout.partition("\n")
        assert int(grown) < 8_000, f"{grown} kB"
        assert "123456 comes twice" in said


@pytest.mark.parametrize("ids", [[5, 6], [-3, 2**40], [5, 2**62], ["a", "5"]], ids=str)
def test_a_repeated_id_is_found_whatever_its_type(ids: list[Any]) -> None:
    """Small and large integers and strings; alone, among others, and not in another epoch."""
    phases = Phases()
    phases.check_ids("train", 0, ids)
    phases.enter("train", 0)
    phases.add_ids("train")
    other = "b" if isinstance(ids[0], str) else 7
    for again in ids:
        with pytest.raises(UsageError, match=rf"ids: {again!r} comes twice in train epoch 0"):
            phases.check_ids("train", 0, [other, again])
    phases.check_ids("train", 0, [other])
    phases.check_ids("train", 1, ids)


def test_each_process_of_a_distributed_training_records_its_rank(tmp_path: Path) -> None:
    """Two real processes with a file each: the rank comes from torch, even if the group starts after the recorder."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch.distributed as distributed
from capture_cli import Recorder
from recordings import batch_of
rank = int(sys.argv[1])
with Recorder(f"rank-{{rank}}.jsonl") as recorder:
    distributed.init_process_group("gloo", init_method="file://{tmp_path}/meeting", rank=rank, world_size=2)
    recorder.record(**batch_of(4, 3, first=4 * rank))
    distributed.destroy_process_group()
"""
    both = [subprocess.Popen([sys.executable, "-c", code, str(rank)], cwd=tmp_path) for rank in range(2)]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    for rank in range(2):
        assert verified(tmp_path / f"rank-{rank}.jsonl") == "completed"
        assert [batch.rank for batch in records(tmp_path / f"rank-{rank}.jsonl", "batch")] == [rank]


class TestPhases:
    """Epochs and phases end by themselves."""

    def test_an_epoch_ends_when_the_next_begins_and_at_the_end(self, tmp_path: Path) -> None:
        """Each has the sums of its batches."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            for epoch in range(3):
                for first in (0, 4):
                    recorder.record(**batch_of(4, 3, first=first, epoch=epoch))
        kinds = [one.kind for one in records(tmp_path / "r.jsonl")]
        assert kinds == ["run", *["batch", "batch", "epoch"] * 3, "end"]
        assert [one.n for one in records(tmp_path / "r.jsonl", "epoch")] == [8, 8, 8]

    def test_an_evaluation_in_the_middle_of_an_epoch_ends_nothing(self, tmp_path: Path) -> None:
        """The training epoch continues, and both phases end with their own sums."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
            recorder.record(**batch_of(3, 3, phase="val"))
            assert recorder.end_phase().phase == "val"
            recorder.record(**batch_of(4, 3, first=4))
            recorder.record(**batch_of(3, 3, phase="val", epoch=1))
            recorder.record(**batch_of(4, 3, epoch=1))
        found = records(tmp_path / "r.jsonl", "batch")
        assert [(b.phase, b.epoch, b.batch, b.step) for b in found] == [
            *[("train", 0, 0, 0), ("val", 0, 0, 1), ("train", 0, 1, 1), ("val", 1, 0, 2), ("train", 1, 0, 2)],
        ]
        sums = [(e.phase, e.epoch, e.n) for e in records(tmp_path / "r.jsonl", "epoch")]
        assert sums == [("val", 0, 3), ("train", 0, 8), ("val", 1, 3), ("train", 1, 4)]

    def test_an_epoch_that_has_ended_accepts_no_batch(self, tmp_path: Path) -> None:
        """The message suggests a phase of its own for a second evaluation."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3, phase="val", epoch=1))
            recorder.end_phase()
            for epoch in (0, 1):
                with pytest.raises(UsageError, match=f"val epoch {epoch} has ended") as caught:
                    recorder.record(**batch_of(4, 3, phase="val", epoch=epoch))
                assert "val-2" in caught.value.hint
            recorder.record(**batch_of(4, 3, phase="val-2", epoch=1))
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_the_sums_are_over_all_batches_captured_or_not(self, tmp_path: Path) -> None:
        """With every=3, loss and accuracy cover all samples, and the sums count those in the file."""
        whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
        for path, every in ((whole, 1), (part, 3)):
            with Recorder(path, every=every) as recorder:
                for number in range(7):
                    recorder.record(**batch_of(4, 3, seed=number, first=4 * number))
        assert [one.batch for one in records(part, "batch")] == [0, 3, 6]
        (one,), (other,) = records(whole, "epoch"), records(part, "epoch")
        assert (one.n, one.loss, one.accuracy) == (other.n, other.loss, other.accuracy)
        assert (other.captured, other.not_captured) == (12, 16)
        losses = np.concatenate([batch.losses for batch in records(whole, "batch")])
        assert one.loss == pytest.approx(losses.mean(dtype=np.float64))

    def test_a_recorder_without_batches_writes_a_valid_run(self, tmp_path: Path) -> None:
        """It is sealed, verifies and has the classes it was given."""
        Recorder(tmp_path / "r.jsonl", classes=["a", "b"]).close()
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert [one.kind for one in records(tmp_path / "r.jsonl")] == ["run", "end"]
