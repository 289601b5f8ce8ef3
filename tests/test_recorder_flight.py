"""The flight recorder: which batch is a spike, and what is saved of it."""

import base64
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from capture_cli.recorder import Recorder
from capture_cli.writer.flight import WINDOW, SpikeRule
from recordings import batch_of, give, lines, recording


def test_a_nan_is_captured_whatever_every_says(tmp_path: Path) -> None:
    """A batch that `every` would skip is written because its loss is NaN."""
    with recording(tmp_path / "r.jsonl", every=100) as recorder:
        give(recorder)
        give(recorder)
        give(recorder, nan=True)
        recorder.end_phase()
    assert [b["batch"] for b in lines(tmp_path / "r.jsonl")] == [0, 2]
    (epoch,) = lines(tmp_path / "r.jsonl", "epoch")
    assert (epoch["captured"], epoch["not_captured"]) == (8, 4)


class TestFlightRecorder:
    """The flight recorder saves the batch whose loss went wrong and the one before."""

    def test_in_a_run_folder_inputs_go_into_a_file(self, tmp_path: Path) -> None:
        """Each input of both batches lies at its offset and has its digest."""
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

    def test_without_a_folder_inputs_go_into_the_record(self, tmp_path: Path) -> None:
        """Both batches have every input in base64, although inputs are not kept."""
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

    @pytest.mark.parametrize("task", ["classification", "multilabel"])
    def test_a_nan_prediction_is_never_correct(self, tmp_path: Path, task: str) -> None:
        """Although argmax of NaN is class 0, and NaN is not above 0.5."""
        given = batch_of(4, 3)
        labels = torch.zeros(4, dtype=torch.int64) if task == "classification" else torch.zeros(4, 3)
        with Recorder(tmp_path / "r.jsonl", task=task, nonfinite="record") as recorder:
            recorder.record(**given | {"logits": given["logits"] * torch.nan, "labels": labels})
        assert lines(tmp_path / "r.jsonl", "epoch")[0]["accuracy"] == 0

    def test_a_zero_loss_has_no_sign(self, tmp_path: Path) -> None:
        """A certain prediction has the loss 0.0, not -0.0."""
        logits = torch.tensor([[200.0, 0.0, 0.0]] * 4)
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3) | {"logits": logits, "labels": torch.zeros(4, dtype=torch.int64)})
        assert b'"losses":[0.0,0.0,0.0,0.0]' in (tmp_path / "r.jsonl").read_bytes()

    def test_overwritten_inputs_are_not_saved_as_those_of_the_batch(self, tmp_path: Path) -> None:
        """If the loop reuses its tensor, the batch before has digests and no values."""
        buffer = torch.zeros(4, 3, 4, 4)
        with Recorder(tmp_path / "r.jsonl", nonfinite="record") as recorder:
            for first in (0, 4):
                given = batch_of(4, 3, seed=first, first=first)
                buffer.copy_(given["inputs"])
                logits = given["logits"] * (1 if first == 0 else torch.nan)
                recorder.record(**given | {"inputs": buffer, "logits": logits})
        first, last = lines(tmp_path / "r.jsonl")
        assert len(last["inputs"]["values"]) == 4
        before = last["flight"]["before"]["inputs"]
        assert before["digests"] == first["inputs"]["digests"] != last["inputs"]["digests"]
        assert (before["not_stored"], "values" in before) == (4, False)

    def test_spikes_can_be_turned_off(self, tmp_path: Path) -> None:
        """With spike=0 only NaN and infinity count."""
        with recording(tmp_path / "r.jsonl", spike=0) as recorder:
            for _ in range(WINDOW + 5):
                give(recorder)
            give(recorder, scale=1000)
        assert "flight" not in lines(tmp_path / "r.jsonl")[-1]


class TestSpikeRule:
    """The spike rule."""

    def test_the_means_are_those_of_the_losses_before(self) -> None:
        """Over the first window: plain mean and population variance."""
        rule, losses = SpikeRule(10), np.random.default_rng(0).normal(1, 0.1, WINDOW)
        assert {rule.judge(loss) for loss in losses} == {""}
        assert rule.mean == pytest.approx(losses.mean())
        assert rule.variance == pytest.approx(losses.var())

    def test_ordinary_noise_is_no_spike_and_a_jump_is(self) -> None:
        """10,000 noisy losses are fine, one of twice their level is not."""
        rule, draw = SpikeRule(10), np.random.default_rng(1)
        assert {rule.judge(loss) for loss in draw.normal(1, 0.05, 10_000)} == {""}
        assert rule.judge(2.0) == "spike"

    def test_nan_and_infinity_are_reported_and_change_no_mean(self) -> None:
        """nan and inf are reported from the first loss on."""
        rule = SpikeRule(10)
        assert (rule.judge(float("nan")), rule.judge(float("inf")), rule.n) == ("nan", "inf", 0)

    def test_it_resumes_from_its_state(self) -> None:
        """Its state survives JSON exactly."""
        rule = SpikeRule(10)
        for loss in np.random.default_rng(2).random(70).tolist():
            rule.judge(loss)
        assert SpikeRule(**json.loads(json.dumps(asdict(rule)))) == rule
