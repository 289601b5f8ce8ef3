"""How `capture train` ends: broken images, outputs that exist or are full, readers that leave, NaN and signals."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from conftest import CAPTURE, Capture, make_images
from test_cli_train import of_kind, records


class TestFolders:
    """Folders without usable images, and broken files among good ones."""

    @pytest.mark.parametrize(
        ("names", "code"),
        [([], 3), (["notes.txt"], 3), (["cat1.png", "cat2.png"], 3), (["?.png", "!.png"], 3), (None, 2)],
        ids=["empty", "no images", "one class", "no label", "no folder"],
    )
    def test_a_folder_without_usable_images(self, capture: Capture, tmp_path: Path, names: list[str] | None, code: int) -> None:
        """One line with the way out, and the right exit code."""
        if names is not None:
            (tmp_path / "f").mkdir()
        for name in names or []:
            Image.new("L", (4, 4)).save(tmp_path / "f" / name, "PNG")
        done = capture("train", "f")
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert ";" in done.stderr

    def test_a_broken_image_is_skipped_and_reported(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """A truncated file becomes a skip record, the others are trained on, and the last message names it."""
        whole = (images / "ant_000.png").read_bytes()
        (images / "ant_000.png").write_bytes(whole[:-30])
        done = capture("train", images, "-m", "linear", "-e", "2", "-o", "r.jsonl")
        assert done.returncode == 0
        bodies = records(tmp_path / "r.jsonl")
        assert [(body["file"], body["reason"]) for body in of_kind(bodies, "skip")] == [("ant_000.png", "truncated")]
        assert sum(sums["n"] for sums in of_kind(bodies, "epoch")) == 2 * 23
        assert "truncated" in done.stderr

    def test_strict_stops_at_a_broken_image(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """Exit 3, file and reason named, and the records sealed as failed."""
        (images / "ant_000.png").write_bytes(b"not a picture")
        done = capture("train", images, "-m", "linear", "--strict", "-q", "-o", "r.jsonl")
        assert done.returncode == 3
        assert "ant_000.png" in done.stderr
        assert "not-an-image" in done.stderr
        assert records(tmp_path / "r.jsonl")[-1]["status"] == "failed"

    def test_a_class_with_one_image_is_trained_on(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """It stays in train, with a warning."""
        Image.new("L", (8, 8)).save(images / "lone_1.png")
        done = capture("train", images, "-m", "linear", "-e", "1", "-o", "r.jsonl")
        assert done.returncode == 0
        samples = of_kind(records(tmp_path / "r.jsonl"), "samples")
        assert {"lone_1.png": "train"}.items() <= {
            file: split for body in samples for file, split in zip(body["files"], body["splits"], strict=True)
        }.items()
        assert "lone" in done.stderr


class TestOutput:
    """The output, and what prevents it."""

    def test_an_output_that_exists_is_kept(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """Without --force nothing is overwritten: no file, no run folder, no other folder."""
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/thesis.tex").write_text("words")
        (tmp_path / "old.jsonl").write_text("old\n")
        for out in ("old.jsonl", "mine"):
            done = capture("train", images, "-m", "linear", "-e", "1", "-q", "-o", out)
            assert done.returncode == 2
            assert len(done.stderr.splitlines()) == 1
        assert (tmp_path / "old.jsonl").read_text() == "old\n"
        assert capture("train", images, "-m", "linear", "-e", "1", "-q", "-o", "old.jsonl", "--force").returncode == 0
        assert records(tmp_path / "old.jsonl")[-1]["status"] == "completed"
        assert capture("train", images, "-m", "linear", "-e", "1", "-q", "-o", "mine", "--force").returncode == 2
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]

    def test_a_full_disk_keeps_the_records(self, tmp_path: Path) -> None:
        """A file size limit stands in for a full disk: exit 1, one line, and all records are valid."""
        images = make_images(tmp_path / "images", each=60)
        limited = ["bash", "-c", f'ulimit -f 60; exec "$@" {"-m linear -e 50 -q -o r.jsonl"}', "-"]
        done = subprocess.run(
            [*limited, *CAPTURE, "train", str(images)], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "r.jsonl" in done.stderr
        assert len(records(tmp_path / "r.jsonl")) > 3

    def test_a_full_device_is_an_error(self, capture: Capture, images: Path) -> None:
        """/dev/full: one line, exit 1."""
        done = capture("train", images, "-m", "linear", "-e", "1", "-q", "-o", "/dev/full")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "No space left" in done.stderr

    def test_a_pipe_gets_each_batch_as_it_happens(self, tmp_path: Path) -> None:
        """The first batch can be read during the run, jq reads all of it, and nothing of stderr is in it."""
        images = make_images(tmp_path / "images", each=40)
        args = [*CAPTURE, "train", str(images), "-m", "linear", "-e", "60", "-b", "4", "-q", "-o", "-"]
        with subprocess.Popen(args, stdout=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["kind"] == "batch":
                    break
            assert process.poll() is None
            process.stdout.close()
            assert process.wait() == 0

    def test_head_ends_a_training_quietly(self, images: Path, tmp_path: Path) -> None:
        """`| head -1` leaves nothing on stderr."""
        command = f"{' '.join(CAPTURE)} train {images} -m linear -e 60 -b 4 -q -o - | head -1 | jq -r .kind"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr, done.returncode) == ("run\n", "", 0)


class TestEnding:
    """NaN, Ctrl-C, SIGTERM."""

    def test_a_nonfinite_loss_stops_the_run(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """It is recorded as null, the files of the batch are named, exit 1; --allow-nonfinite continues."""
        (tmp_path / "m.py").write_text(
            "import torch\n"
            "class Bad(torch.nn.Linear):\n"
            "    def forward(self, x):\n"
            "        y = super().forward(x.flatten(1))\n"
            "        return y * float('nan') if self.training else y\n"
            "def build(classes, channels, height, width):\n"
            "    return Bad(channels * height * width, classes)\n"
        )
        args = ["train", images, "-m", "m.py:build", "-e", "2", "-q"]
        done = capture(*args, "-o", "r.jsonl")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        bodies = records(tmp_path / "r.jsonl")
        assert bodies[-1]["status"] == "failed"
        batch = of_kind(bodies, "batch")[-1]
        assert batch["batch"] == 0
        assert batch["loss"] is None
        assert batch["losses"] == [None] * len(batch["files"])
        assert batch["nonfinite"]["loss"] == ["nan"]
        assert batch["files"][0] in done.stderr
        assert capture(*args, "--allow-nonfinite", "-o", "all.jsonl").returncode == 0
        assert records(tmp_path / "all.jsonl")[-1]["status"] == "completed"

    def test_a_signal_stops_after_the_batch(self, images: Path, tmp_path: Path) -> None:
        """The records are sealed as interrupted, and stderr says how to resume. SIGINT and SIGTERM are in test_resume."""
        args = [*CAPTURE, "train", str(images), "-m", "linear", "-e", "100000", "-o", "run"]
        with subprocess.Popen(args, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            path = tmp_path / "run/records.jsonl"
            while not (path.exists() and path.stat().st_size > 20_000):
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait() == 143
        assert records(path)[-1]["status"] == "interrupted"
        assert "capture train --resume run" in said
        assert (tmp_path / "run/checkpoint.safetensors").exists()
