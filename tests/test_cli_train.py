"""`capture train` as people run it: real images, real processes, real pipes."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from PIL import Image
from safetensors.torch import save_file

from capture_cli.records.chain import GENESIS, link, open_envelope
from conftest import SAMPLE_DATA, Capture, command, make_images


def records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a file, checking the chain."""
    chain, bodies = GENESIS, []
    for seq, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        envelope = open_envelope(line)
        assert (envelope.seq, envelope.chain) == (seq, link(chain, envelope.text))
        chain = envelope.chain
        bodies.append(json.loads(line))
    return bodies


def of_kind(bodies: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [body for body in bodies if body["kind"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the sample data: two epochs, augmented, with 3 inputs of each batch stored."""
    place = tmp_path_factory.mktemp("run")
    args = ["train", SAMPLE_DATA, "-m", "mlp", "-e", "2", "--augment", "flip+crop", "--inputs", "3", "-o", place / "run"]
    done = command(*args, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return place / "run"


class TestWhatIsRecorded:
    """Every sample of every batch, with all six facts."""

    def test_the_lines_come_in_the_order_of_the_format(self, run: Path) -> None:
        """run first, samples before the batches that name them, an epoch after each phase, end last with the counts."""
        bodies = records(run / "records.jsonl")
        kinds = [body["kind"] for body in bodies]
        assert kinds[0] == "run"
        assert kinds[-1] == "end"
        assert bodies[-1]["status"] == "completed"
        assert bodies[-1]["counts"] == {kind: kinds.count(kind) for kind in set(kinds) - {"end"}}
        known: set[int] = set()
        for body in bodies:
            if body["kind"] == "samples":
                assert len(body["ids"]) <= 1024
                known.update(body["ids"])
            if body["kind"] == "batch":
                assert known.issuperset(body["ids"])
        phases = [(body["phase"], body["epoch"]) for body in of_kind(bodies, "epoch")]
        assert phases == [("train", 1), ("val", 1), ("train", 2), ("val", 2)]

    def test_every_image_is_visited_once_per_phase_with_all_six_facts(self, run: Path) -> None:
        """Columns are of equal length, losses are -ln p of the label, predictions the largest probability, sums agree."""
        bodies = records(run / "records.jsonl")
        splits = {
            file: split
            for body in of_kind(bodies, "samples")
            for file, split in zip(body["files"], body["splits"], strict=True)
        }
        assert len(splits) == 600
        for sums in of_kind(bodies, "epoch"):
            phase = [b for b in of_kind(bodies, "batch") if (b["phase"], b["epoch"]) == (sums["phase"], sums["epoch"])]
            assert [b["batch"] for b in phase] == list(range(len(phase)))
            files = [file for b in phase for file in b["files"]]
            assert sorted(files) == sorted(file for file, split in splits.items() if split == sums["phase"])
            losses = np.concatenate([b["losses"] for b in phase])
            probs = np.concatenate([b["probs"] for b in phase])
            labels = np.concatenate([b["labels"] for b in phase])
            preds = np.concatenate([b["preds"] for b in phase])
            digests = [digest for b in phase for digest in b["inputs"]["digests"]]
            assert len(losses) == len(probs) == len(labels) == len(preds) == len(digests) == len(files) == sums["n"]
            np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
            np.testing.assert_array_equal(preds, probs.argmax(1))
            np.testing.assert_allclose(losses, -np.log(probs[np.arange(len(labels)), labels]), atol=1e-4)
            assert sums["loss"] == pytest.approx(losses.mean(), rel=1e-5)
            assert sums["accuracy"] == pytest.approx((labels == preds).mean())
            assert (sums["captured"], sums["not_captured"]) == (len(files), 0)
            for b in phase:
                assert b["loss"] == pytest.approx(np.mean(b["losses"]), rel=1e-5)

    def test_steps_count_updates_and_the_learning_rate_follows_the_cosine(self, run: Path) -> None:
        """`step` counts over all epochs; validation has the steps so far and no learning rate."""
        batches = of_kind(records(run / "records.jsonl"), "batch")
        train = [b for b in batches if b["phase"] == "train"]
        assert [b["step"] for b in train] == list(range(len(train)))
        assert train[0]["lr"] > 0
        assert all(earlier["lr"] > later["lr"] for earlier, later in pairwise(train))
        assert {b["lr"] for b in batches if b["phase"] == "val"} == {None}
        assert {b["step"] for b in batches if b["phase"] == "val" and b["epoch"] == 1} == {len(train) // 2}

    def test_stored_inputs_have_the_digest_of_the_record(self, run: Path) -> None:
        """base64 of the first three inputs of each batch; the others are counted."""
        import base64

        for batch in of_kind(records(run / "records.jsonl"), "batch"):
            inputs = batch["inputs"]
            values = [base64.b64decode(text) for text in inputs["values"]]
            assert [xxhash.xxh3_64_hexdigest(value) for value in values] == inputs["digests"][: len(values)]
            assert len(values) == min(3, len(batch["files"]))
            assert len(values) + inputs.get("not_stored", 0) == len(batch["files"])
            assert inputs["shape"] == [1, 28, 28]
            array = np.frombuffer(values[0], np.float32)
            assert -1 <= array.min() < array.max() <= 1

    def test_an_input_is_the_image_itself_without_augmentation(self, run: Path) -> None:
        """In validation the stored tensor is (pixel - 127.5) / 127.5 of the file."""
        import base64

        batch = next(b for b in of_kind(records(run / "records.jsonl"), "batch") if b["phase"] == "val")
        pixels = np.asarray(Image.open(SAMPLE_DATA / batch["files"][0]), np.float32)
        value = np.frombuffer(base64.b64decode(batch["inputs"]["values"][0]), np.float32).reshape(28, 28)
        np.testing.assert_allclose(value, (pixels - 127.5) / 127.5, atol=1e-6)

    def test_skipped_files_are_recorded(self, run: Path) -> None:
        """The list of mislabelled files beside the images is not an image."""
        skips = {body["file"]: body["reason"] for body in of_kind(records(run / "records.jsonl"), "skip")}
        assert skips["MISLABELLED.tsv"] == "unsupported-extension"

    def test_the_run_record_has_everything_that_affects_results(self, run: Path) -> None:
        """Options, classes, parameters, recipe, versions, device, threads, and nothing in which equal runs differ."""
        first = records(run / "records.jsonl")[0]
        assert first["format"] == 2
        assert first["config"]["augment"] == "flip,crop"
        assert first["config"]["lr"] > 0
        assert len(first["classes"]) == 10
        assert first["model"]["parameters"] > 0
        assert {"python", "torch", "torchvision", "pillow"} <= set(first["versions"])
        assert first["device"] == "cpu" or first["device"].startswith("cuda")
        text = json.dumps(first)
        assert str(run) not in text
        assert str(os.getpid()) not in first

    def test_the_files_of_a_run_folder(self, run: Path) -> None:
        """Records, events with the speed of each phase, a usable config, the model with its classes and recipe."""
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        phases = [event for event in events if event["event"] == "epoch"]
        assert [(event["phase"], event["epoch"]) for event in phases] == [("train", 1), ("val", 1), ("train", 2), ("val", 2)]
        assert all(event["seconds"] > 0 and event["steps"] > 0 and event["images_per_second"] > 0 for event in phases)
        from safetensors import safe_open

        with safe_open(run / "model.safetensors", "np") as file:
            header = json.loads(file.metadata()["capture"])
        assert len(header["classes"]) == 10
        assert header["recipe"]["height"] == 28

    def test_the_config_reproduces_the_run(self, run: Path, capture: Capture, tmp_path: Path) -> None:
        """`--config` restores every option, so the records have the same bytes."""
        done = capture("train", "--config", run / "config.toml", "-q", "-o", tmp_path / "again")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "again/records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()

    @pytest.mark.parametrize("option", [["--out", "other"], ["--name", "other"], ["--force"]])
    def test_a_resumed_run_stays_where_it_is(self, run: Path, capture: Capture, option: list[str]) -> None:
        """An option without effect is refused, and the records stay as they were."""
        before = (run / "records.jsonl").read_bytes()
        done = capture("train", "--resume", run, "-e", "9", *option)
        assert (done.returncode, (run / "records.jsonl").read_bytes()) == (2, before)
        assert f"{option[0]} is not valid with --resume; the run continues in '{run}'; drop {option[0]}" in done.stderr

    def test_an_empty_validation_set_is_a_warning(self, capture: Capture, tmp_path: Path) -> None:
        """With few images the split may select none."""
        make_images(tmp_path / "few", each=1)
        done = capture("train", "few", "-m", "linear", "-e", "1", "--device", "cpu", "-o", "r")
        assert done.returncode == 0
        assert "none of the 3 images is held out for validation" in done.stderr


class TestEvaluate:
    """A trained model on another folder."""

    def test_the_result_is_on_stdout_and_every_batch_is_captured(self, run: Path, capture: Capture, tmp_path: Path) -> None:
        """The printed accuracy is that of the records, phase `test`."""
        done = capture("evaluate", run, SAMPLE_DATA, "--json", "-q", "-o", tmp_path / "test.jsonl")
        assert done.returncode == 0, done.stderr
        bodies = records(tmp_path / "test.jsonl")
        sums = of_kind(bodies, "epoch")[0]
        assert json.loads(done.stdout) == {"n": 600, "accuracy": sums["accuracy"], "loss": sums["loss"], "trained_on": 480}
        assert {b["phase"] for b in of_kind(bodies, "batch")} == {"test"}
        trained = [b for b in of_kind(records(run / "records.jsonl"), "epoch") if b["phase"] == "train"]
        assert sums["accuracy"] > trained[0]["accuracy"]  # the weights are those after training

    def test_an_unknown_class_is_named(self, run: Path, capture: Capture, images: Path) -> None:
        """One line, exit 3."""
        done = capture("evaluate", run, images)
        assert done.returncode == 3
        assert "'ant'" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_a_file_that_is_not_a_model_is_refused(self, capture: Capture, images: Path) -> None:
        """One line, exit 2, no traceback."""
        done = capture("evaluate", images / "ant_000.png", images)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "ant_000.png" in done.stderr
        done = capture("evaluate", "nowhere.safetensors", images)
        assert done.returncode == 2
        assert "no model can be read from 'nowhere.safetensors': no such file" in done.stderr

    @pytest.mark.parametrize("header", ["[]", "[" * 100_000, '{"model":7,"classes":"ab","recipe":[]}', '{"model":"cnn"}'])
    def test_a_header_that_no_run_has_is_refused(self, capture: Capture, images: Path, tmp_path: Path, header: str) -> None:
        """The file may come from anywhere."""
        save_file({"weight": torch.zeros(2)}, tmp_path / "crafted.safetensors", {"capture": header})
        done = capture("evaluate", tmp_path / "crafted.safetensors", images)
        assert done.returncode == 2
        assert "a header that this version of capture does not know" in done.stderr
        assert len(done.stderr.splitlines()) == 1


class TestOptions:
    """What is not recorded is counted; an option that is not valid is refused before any work."""

    def test_every_nth_batch(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """Batches 0, 2, ... are recorded, the totals count all."""
        args = [
            "-m",
            "linear",
            "-e",
            "1",
            "-b",
            "4",
            "--capture-every",
            "2",
            "--val-split",
            "0",
            "-q",
            "-o",
            tmp_path / "r.jsonl",
        ]
        assert capture("train", images, *args).returncode == 0
        bodies = records(tmp_path / "r.jsonl")
        assert [b["batch"] for b in of_kind(bodies, "batch")] == [0, 2, 4]
        sums = of_kind(bodies, "epoch")[0]
        assert (sums["n"], sums["captured"], sums["not_captured"]) == (24, 12, 12)

    def test_top_k_probabilities(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """The K largest with their classes, that of the label, and the number of the others."""
        args = ["-m", "linear", "-e", "1", "--probs", "top:2", "-q", "-o", tmp_path / "r.jsonl"]
        assert capture("train", images, *args).returncode == 0
        for batch in of_kind(records(tmp_path / "r.jsonl"), "batch"):
            probs, topk = np.array(batch["probs"]), np.array(batch["topk"])
            assert probs.shape == topk.shape == (len(batch["files"]), 2)
            assert (probs[:, 0] >= probs[:, 1]).all()
            np.testing.assert_array_equal(topk[:, 0], batch["preds"])
            np.testing.assert_allclose(-np.log(batch["p_labels"]), batch["losses"], atol=1e-4)
            assert batch["probs_omitted"] == 1

    def test_all_inputs_are_stored_once(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """Without augmentation every epoch has the same tensors: the pack holds each once, and the lines refer to it."""
        args = ["-m", "linear", "-e", "3", "--inputs", "all", "-q", "-o", tmp_path / "run"]
        assert capture("train", images, *args).returncode == 0
        pack = (tmp_path / "run/inputs/pack-00000.bin").read_bytes()
        assert len(pack) == 24 * 8 * 8 * 4
        for batch in of_kind(records(tmp_path / "run/records.jsonl"), "batch"):
            stored = batch["inputs"]["stored"]
            assert stored["pack"] == "inputs/pack-00000.bin"
            for offset, digest in zip(stored["offsets"], batch["inputs"]["digests"], strict=True):
                assert xxhash.xxh3_64_hexdigest(pack[offset : offset + 256]) == digest

    @pytest.mark.parametrize(
        ("args", "code", "says"),
        [
            (["--no-such-option"], 2, "no-such-option"),
            (["-m", "cnm"], 2, "cnn"),
            (["-m", "torchvision:resnet19"], 2, "resnet18"),
            (["--device", "tpu"], 2, "--device tpu is not valid; choose auto, cpu, cuda or cuda:N"),
            (["--device", "cuda:99"], 2, "--device cuda:99 is not available: "),
            (["-epochs", "3"], 2, "no such option: -epochs; did you mean --epochs?"),
            (["-model=cnn"], 2, "no such option: -model=cnn; did you mean --model?"),
            (["-edrei"], 2, "--epochs drei is not valid; choose a whole number; see `capture train --help`"),
            (["--epochs", "1.5"], 2, "--epochs 1.5 is not valid; choose a whole number"),
            (["--lr=fast"], 2, "--lr fast is not valid; choose a number; see"),
            (["--preview", "-1"], 2, "--preview -1 is not valid; choose 0 or more; see"),
            (["--opt", "adagrad"], 2, "--opt adagrad is not valid; choose adamw, adam or sgd"),
            (["--epochs", "0"], 2, "--epochs 0 is not valid; choose a whole number from 1"),
            (["--batch-size", "many"], 2, "many"),
            (["--lr", "-1"], 2, "lr"),
            (["--probs", "top:1"], 2, "top:K"),
            (["--inputs", "some"], 2, "some"),
            (["--img-size", "0"], 2, "img-size"),
            (["--labels", "("], 2, "--labels"),
            (["--config", "no.toml"], 2, "no.toml"),
            (["--inputs", "all", "-o", "x.jsonl"], 2, "--inputs all"),
            (["--name", "a", "-o", "b"], 2, "--name"),
            (["-o", "/proc/none/run"], 1, "/proc/none/run"),
            (["--folder", "elsewhere"], 2, "--folder is only valid with --resume RUN"),
            (["--allow-env-change"], 2, "--allow-env-change is only valid with --resume RUN"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_an_option_that_is_not_valid_is_refused(
        self, capture: Capture, images: Path, tmp_path: Path, args: list[str], code: int, says: str
    ) -> None:
        """One line that names it, the right exit code, and nothing written."""
        before = sorted(tmp_path.rglob("*"))
        done = capture("train", images, *args)
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_wrong_value_in_the_config_file(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """The message names the value and the file; an option on the command line overrides it."""
        (tmp_path / "c.toml").write_text('batch-size = "many"\n')
        done = capture("train", images, "--config", "c.toml")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "--batch-size many in the config file is not valid; choose a whole number; see" in done.stderr
        assert capture("train", images, "--config", "c.toml", "--batch-size", 2, "-n").returncode == 0
        done = capture("train", images, "--config", "c.toml", "--batch-size", "few")
        assert "--batch-size few is not valid; choose a whole number; see" in done.stderr

    def test_a_dry_run_shows_the_plan_and_the_network(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """Labels, split, inputs, network and options on stdout; nothing is written."""
        done = capture("train", images, "-n", "-m", "linear")
        assert (done.returncode, done.stderr) == (0, "")
        assert "inputs: 8x8, grey; all images have this size\n" in done.stdout
        assert f"network: linear, {3 * (8 * 8 + 1)} parameters\n" in done.stdout
        assert "epochs = 10" in done.stdout
        assert not (tmp_path / "runs").exists()
