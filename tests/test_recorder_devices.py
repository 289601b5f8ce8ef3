"""Results that arrive from a device one call late: records are the same, and errors name their batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from capture_cli import Recorder
from capture_cli.errors import UsageError
from capture_cli.recorder import validation
from capture_cli.writer import pending
from recordings import batch_of, records, verified

NAN = torch.full((4, 3), 0.5).index_fill(0, torch.tensor([2]), torch.nan)


class _OnItsWay:
    """Stands in for the event after which results from a device are there."""

    def synchronize(self) -> None:
        pass


@pytest.fixture
def one_call_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make results arrive as from a device: with the next batch."""
    plain = pending.to_host
    monkeypatch.setattr(
        pending, "to_host", lambda tensors: ([one if one is None else one.clone() for one in plain(tensors)[0]], _OnItsWay())
    )


class _OnCuda(torch.Tensor):
    """A tensor that claims to be on CUDA, for machines without a GPU."""

    is_cuda, is_cpu = True, False


def test_a_host_tensor_beside_a_device_tensor_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be overwritten before the rest arrives. If everything is on the host, nothing is copied."""

    class Event(_OnItsWay):
        def record(self, stream: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    inputs, logits = torch.ones(4, 3), torch.ones(4, 2).as_subclass(_OnCuda)
    host, arrived = pending.to_host([inputs, None, logits])
    assert isinstance(arrived, Event)
    inputs.zero_()
    assert host[0] is not None
    assert host[0].tolist() == torch.ones(4, 3).tolist()
    host, arrived = pending.to_host([inputs])
    assert host[0] is inputs
    assert arrived is None


@pytest.mark.usefixtures("one_call_late")
class TestOnADevice:
    """Errors in values are raised by the next call, errors in shapes and ids at once."""

    def test_the_records_are_the_same(self, tmp_path: Path) -> None:
        """One call late, or at the end, the bytes are those the CPU writes at once."""
        with Recorder(tmp_path / "late.jsonl") as recorder:
            for number in range(6):
                recorder.record(**batch_of(4, 3, seed=number, first=4 * (number % 3), epoch=number // 3))
                assert len(records(tmp_path / "late.jsonl", "batch")) == number
        assert verified(tmp_path / "late.jsonl") == "completed"
        assert [epoch.n for epoch in records(tmp_path / "late.jsonl", "epoch")] == [12, 12]

    def test_the_batch_is_named_and_forgotten(self, tmp_path: Path) -> None:
        """The step is not counted; the call that raised the error recorded nothing and can be repeated."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
            recorder.record(**batch_of(4, 3, first=4) | {"logits": NAN})
            with pytest.raises(UsageError, match="train batch 1 of epoch 0: logits are NaN"):
                recorder.record(**batch_of(4, 3, first=8))
            recorder.record(**batch_of(4, 3, first=8))
        assert verified(tmp_path / "r.jsonl") == "completed"
        batches = records(tmp_path / "r.jsonl", "batch")
        assert [(batch.batch, batch.step, batch.ids[0]) for batch in batches] == [(0, 0, 0), (1, 1, 8)]

    def test_close_raises_the_error_of_the_last_batch(self, tmp_path: Path) -> None:
        """The records are sealed as failed."""
        recorder = Recorder(tmp_path / "r.jsonl")
        recorder.record(**batch_of(4, 3))
        recorder.record(**batch_of(4, 3, first=4) | {"labels": torch.tensor([0, 9, 0, 0])})
        with pytest.raises(UsageError, match="labels: 9"):
            recorder.close()
        assert verified(tmp_path / "r.jsonl") == "failed"
        assert len(records(tmp_path / "r.jsonl", "batch")) == 1

    def test_logits_may_be_overwritten_while_ids_are_on_their_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Logits on the host are measured in the call, not when the ids arrive."""
        monkeypatch.setattr(pending, "to_host", lambda tensors: (tensors, _OnItsWay()))  # copies nothing
        monkeypatch.setattr(validation, "check_device_ids", lambda ids, _: ids if isinstance(ids, torch.Tensor) else None)
        batch = batch_of(4, 3) | {"ids": torch.tensor([7, 5, 3, 1])}
        expected = batch["logits"].softmax(1).numpy()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch)
            batch["logits"].zero_()
        assert np.allclose(records(tmp_path / "r.jsonl", "batch")[0].probs, expected)

    def test_ids_on_a_device_are_checked_with_the_results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for them; a repeated id is an error of the next call, which names the batch."""
        monkeypatch.setattr(validation, "check_device_ids", lambda ids, _: ids if isinstance(ids, torch.Tensor) else None)
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([7, 5, 3, 1])})
            recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([2, 4, 5, 6])})
            with pytest.raises(UsageError, match="train batch 1 of epoch 0: ids: 5 comes twice in train epoch 0"):
                recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([2, 4, 6, 8])})
            recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([2, 4, 6, 8])})
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert [batch.ids for batch in records(tmp_path / "r.jsonl", "batch")] == [[7, 5, 3, 1], [2, 4, 6, 8]]

    @pytest.mark.parametrize(
        "ids", [torch.full((4,), 0.5), torch.ones(4, 1).long(), torch.arange(3), torch.ones(4).bool()], ids=str
    )
    def test_ids_on_a_device_with_a_wrong_shape_or_type_are_refused_at_once(self, ids: torch.Tensor) -> None:
        """Shape and type are known without waiting."""
        with pytest.raises(UsageError, match=r"ids \w+ \[.*\] are not 4 integers"):
            validation.check_device_ids(ids.to("meta"), 4)
