"""The recorder: what a batch's tensors become, what is counted, and what is kept whole when a loss goes wrong."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from capture_cli.flight import WINDOW, SpikeRule
from capture_cli.recorder import Recorder


def give(
    recorder: Recorder, *, scale: float = 1.0, phase: str = "train", epoch: int = 0, n: int = 4, nan: bool = False
) -> None:
    """One batch of `n` samples and 3 classes; `scale` times the logits makes its loss."""
    generator = torch.Generator().manual_seed(recorder.step)
    inputs = torch.rand(n, 1, 2, 2, generator=generator)
    logits = (torch.rand(n, 3, generator=generator) * scale).requires_grad_()
    if nan:
        logits = logits * float("nan")
    labels = torch.arange(n) % 3
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    ids, files = np.arange(n), [f"cat_{i}.png" for i in range(n)]
    recorder.record(
        phase=phase,
        epoch=epoch,
        inputs=inputs,
        logits=logits,
        labels=labels,
        ids=ids,
        files=files,
        losses=losses,
        loss=losses.mean(),
    )


def lines(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """The records of these kinds, by default the batches."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [one for one in found if one["kind"] in (kinds or ("batch",))]


def recording(path: Path, **options: Any) -> Recorder:
    """A recorder to which `give` may give the same samples over and over."""
    return Recorder(path, repeats=True, nonfinite="record", **options)


def test_a_record_is_written_before_record_returns(tmp_path: Path) -> None:
    """On the CPU nothing waits: the line is in the file, with the facts of the forward pass."""
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


def test_nothing_that_it_is_given_is_changed(tmp_path: Path) -> None:
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


def test_batches_are_counted_by_phase_and_steps_over_the_run(tmp_path: Path) -> None:
    """`batch` begins anew with each phase, `step` counts the training batches before."""
    with recording(tmp_path / "r.jsonl") as recorder:
        for epoch in range(2):
            for phase in ("train", "train", "val"):
                give(recorder, phase=phase, epoch=epoch)
    found = [(b["phase"], b["epoch"], b["batch"], b["step"]) for b in lines(tmp_path / "r.jsonl")]
    assert found == [
        *[("train", 0, 0, 0), ("train", 0, 1, 1), ("val", 0, 0, 2)],
        *[("train", 1, 0, 2), ("train", 1, 1, 3), ("val", 1, 0, 4)],
    ]


def test_a_nan_is_captured_whatever_every_says(tmp_path: Path) -> None:
    """A batch that would have been left out is written because its loss is not a number."""
    with recording(tmp_path / "r.jsonl", every=100) as recorder:
        give(recorder)
        give(recorder)
        assert recorder.nonfinite is None
        give(recorder, nan=True)
        assert recorder.nonfinite is not None
        recorder.end_phase()
    assert [b["batch"] for b in lines(tmp_path / "r.jsonl")] == [0, 2]
    (epoch,) = lines(tmp_path / "r.jsonl", "epoch")
    assert (epoch["captured"], epoch["not_captured"]) == (8, 4)


class TestFlightRecorder:
    """The batch that went wrong and the one before it, whole."""

    def test_in_a_run_folder_they_go_into_a_file(self, tmp_path: Path) -> None:
        """Every input of both can be found by its offset and has its digest."""
        with recording(tmp_path / "run", spike=10) as recorder:
            for _ in range(WINDOW + 5):
                give(recorder)
            assert not (tmp_path / "run/inputs").exists()
            give(recorder, scale=1000)
        last = lines(tmp_path / "run/records.jsonl")[-1]
        assert last["flight"]["reason"] == "spike"
        before = last["flight"]["before"]
        assert before["batch"] == last["batch"] - 1
        stored = (tmp_path / "run/inputs/flight.bin").read_bytes()
        for inputs in (last["inputs"], before["inputs"]):
            assert inputs["stored"]["pack"] == "inputs/flight.bin"
            for offset, digest in zip(inputs["stored"]["offsets"], inputs["digests"], strict=True):
                assert xxhash.xxh3_64_hexdigest(stored[offset : offset + 16]) == digest

    def test_without_a_folder_they_go_into_the_line(self, tmp_path: Path) -> None:
        """base64 of every input of both, although none was asked for."""
        with recording(tmp_path / "r.jsonl") as recorder:
            give(recorder)
            give(recorder, nan=True)
        first, last = lines(tmp_path / "r.jsonl")
        assert "values" not in first["inputs"]
        assert last["flight"]["reason"] == "nan"
        for inputs in (last["inputs"], last["flight"]["before"]["inputs"]):
            values = [base64.b64decode(value) for value in inputs["values"]]
            assert [xxhash.xxh3_64_hexdigest(value) for value in values] == inputs["digests"]
        assert last["flight"]["before"]["inputs"]["digests"] == first["inputs"]["digests"]

    def test_spikes_can_be_switched_off(self, tmp_path: Path) -> None:
        """Factor 0: only a loss that is not a number counts."""
        with recording(tmp_path / "r.jsonl", spike=0) as recorder:
            for _ in range(WINDOW + 5):
                give(recorder)
            give(recorder, scale=1000)
        assert "flight" not in lines(tmp_path / "r.jsonl")[-1]


class TestSpikeRule:
    """What counts as a spike."""

    def test_the_means_are_those_of_the_losses_before(self) -> None:
        """Over the first window plain mean and population variance."""
        rule, losses = SpikeRule(10), np.random.default_rng(0).normal(1, 0.1, WINDOW)
        assert {rule.judge(loss) for loss in losses} == {""}
        assert rule.mean == pytest.approx(losses.mean())
        assert rule.variance == pytest.approx(losses.var())

    def test_ordinary_noise_is_no_spike_and_a_jump_is(self) -> None:
        """10,000 noisy losses pass; twice their level does not."""
        rule, draw = SpikeRule(10), np.random.default_rng(1)
        assert {rule.judge(loss) for loss in draw.normal(1, 0.05, 10_000)} == {""}
        assert rule.judge(2.0) == "spike"

    def test_what_is_not_a_number_is_named_and_changes_no_mean(self) -> None:
        """nan and inf, from the first loss on."""
        rule = SpikeRule(10)
        assert (rule.judge(float("nan")), rule.judge(float("inf")), rule.n) == ("nan", "inf", 0)

    def test_it_goes_on_from_its_state(self) -> None:
        """Through JSON, exactly."""
        one, other = SpikeRule(10), SpikeRule(10)
        for loss in np.random.default_rng(2).random(70).tolist():
            one.judge(loss)
        other.restore(json.loads(json.dumps(one.state())))
        assert other == one
