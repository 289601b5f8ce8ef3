"""Batches that `every=N` skips cost little and count in full; probabilities found in fast ways are those of torch."""

from pathlib import Path

import pytest
import torch

from capture_cli import Recorder
from capture_cli.errors import UsageError
from capture_cli.writer import columns
from capture_cli.writer.largest import largest
from capture_cli.writer.log_probs import log_softmax
from recordings import batch_of, records, verified


@pytest.mark.parametrize("phase", ["train", "val"])
def test_skipped_batches_count_in_the_sums(tmp_path: Path, phase: str) -> None:
    """Loss, accuracy, counts by class and steps are those of a run that records every batch."""
    sums, steps = [], []
    for every in (1, 3):
        with Recorder(tmp_path / f"{every}.jsonl", every=every) as recorder:
            for number in range(8):
                batch = batch_of(16, 5, seed=number, first=16 * number) | {"phase": phase}
                if number % 2:
                    batch["loss"] = None
                recorder.record(**batch)
            steps.append(recorder.step)
        assert verified(tmp_path / f"{every}.jsonl") == "completed"
        (epoch,) = records(tmp_path / f"{every}.jsonl", "epoch")
        sums.append((epoch.n, epoch.loss, epoch.accuracy, epoch.class_counts, epoch.step))
    assert sums[0] == sums[1]
    assert steps[0] == steps[1]
    assert [one.batch for one in records(tmp_path / "3.jsonl", "batch")] == [0, 3, 6]


def test_a_skipped_batch_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No probabilities, no digests."""
    measured = []
    plain = columns.measure
    monkeypatch.setattr(columns, "measure", lambda *args, **options: measured.append(1) or plain(*args, **options))
    with Recorder(tmp_path / "r.jsonl", every=5) as recorder:
        for number in range(10):
            recorder.record(**batch_of(4, 3, first=4 * number))
    assert len(measured) == 2


def test_a_skipped_batch_whose_loss_goes_wrong_is_recorded(tmp_path: Path) -> None:
    """A spike, with the inputs of the batch before it, which was skipped."""
    with Recorder(tmp_path / "r.jsonl", every=1000) as recorder:
        for number in range(61):
            loss = torch.tensor(100.0 if number == 60 else 1.0 + number % 2 / 10)
            recorder.record(**batch_of(4, 3, first=4 * number) | {"loss": loss})
    first, spike = records(tmp_path / "r.jsonl", "batch")
    assert (first.batch, spike.batch, spike.flight["reason"]) == (0, 60, "spike")
    assert spike.flight["before"]["ids"] == [236, 237, 238, 239]
    assert len(spike.flight["before"]["inputs"]["values"]) == 4
    assert records(tmp_path / "r.jsonl", "epoch")[0].captured == 8


def test_ignored_and_wrong_labels_of_skipped_batches(tmp_path: Path) -> None:
    """Padding is not counted; a label that is no class is an error, as in every batch."""
    with Recorder(tmp_path / "r.jsonl", every=10) as recorder:
        recorder.record(**batch_of(4, 3))
        recorder.record(**batch_of(4, 3, first=4) | {"labels": torch.tensor([0, -100, 1, -100])})
        with pytest.raises(UsageError, match="labels: 7"):
            recorder.record(**batch_of(4, 3, first=8) | {"labels": torch.tensor([0, 7, 1, 1])})
    assert records(tmp_path / "r.jsonl", "epoch")[0].n == 6


@pytest.mark.parametrize("kind", ["random", "equal", "some equal", "infinite", "sequence"])
def test_the_largest_of_many_classes(kind: str) -> None:
    """The values, the classes and their order are those of `topk`, whatever is equal."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 20_011) if kind == "sequence" else torch.randn(6, 20_011)
    if kind == "equal":
        logits.zero_()
    if kind == "some equal":
        logits = (logits * 4).round()
    if kind == "infinite":
        logits[1, 5:] = -torch.inf
    logits[..., -1] += 9
    values, places = largest(logits, 10)
    expected = logits.topk(10)
    assert torch.equal(values, expected.values)
    assert torch.equal(places, expected.indices)


@pytest.mark.parametrize("classes", [1, 2, 7, 8, 10, 15, 16, 17])
def test_log_probabilities_of_few_classes_have_the_bits_of_torch(classes: int) -> None:
    """Whatever the number of samples leaves over, and with logits that are equal, large or infinite."""
    torch.manual_seed(0)
    for rows in (1, 64, *range(1039, 1055), 2048):
        logits = torch.randn(rows, classes) * (30 if rows % 2 else 1)
        logits[: rows // 2 : 7] = logits[: rows // 2 : 7].round()
        logits[: rows // 2 : 11, -1] = -torch.inf
        if rows > 64:
            logits[:3, 0] = torch.tensor([1e38, torch.inf, torch.nan])
        expected = logits.log_softmax(-1)
        assert torch.allclose(log_softmax(logits), expected, rtol=0, atol=0, equal_nan=True)
        assert torch.allclose(log_softmax(logits[None])[0], expected, rtol=0, atol=0, equal_nan=True)
