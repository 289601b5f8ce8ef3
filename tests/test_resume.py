"""`capture train --resume`: a run ends with the bytes of one that was never interrupted, or is refused with a reason."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capture_cli import checkpoint, runtime
from capture_cli.config import EVALUATIONS, TrainConfig
from capture_cli.records import RunInfo
from capture_cli.records.chain import GENESIS, link, open_envelope
from capture_cli.training.preparing import Ready
from conftest import CAPTURE
from cutting import OPTIONS, Trainer, kept, trainer
from holding import held, held_at, held_model, let_go

pytestmark = pytest.mark.filterwarnings("ignore")
Capture = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/` with 24 images; with `cut_after` it ends dead after so many records."""
    return trainer(tmp_path, monkeypatch)


def test_more_epochs_killed_before_their_first_checkpoint_resume(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """A completed run that was given more epochs and killed continues after its first end line, to equal bytes."""
    train("images", "-e", "2", "-o", "whole")
    shutil.copytree("whole", "cut")
    assert train("--resume", "whole", "-e", "4") == 0
    assert "the learning rate goes on as in the cosine schedule of 4 epochs" in capfd.readouterr().err
    for cut_after in (1, 4):  # behind the new run record, and further on
        assert train("--resume", "cut", "-e", "4", "--checkpoint-every=1000", cut_after=cut_after) == -9
    assert train("--resume", "cut", "-e", "4") == 0
    assert kept(Path("cut")) == kept(Path("whole"))
    text = Path("cut/records.jsonl").read_bytes()
    assert text.count(b'"kind":"run"') == text.count(b'"kind":"end"') == 2


def test_another_environment_killed_before_its_first_checkpoint_resumes(
    train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new run record is written once, and the records after it are compared like any other."""
    assert train("images", "-e", "3", "-o", "whole", "--checkpoint-every=4", cut_after=9) == -9
    shutil.copytree("whole", "cut")
    versions = runtime.versions()
    monkeypatch.setattr("capture_cli.training.preparing.versions", lambda: versions | {"pillow": "0.0"})
    assert train("--resume", "whole", "--allow-env-change") == 0
    assert train("--resume", "cut", "--allow-env-change", "--checkpoint-every=1000", cut_after=4) == -9
    assert train("--resume", "cut") == 0
    assert kept(Path("cut")) == kept(Path("whole"))


def test_a_run_killed_between_its_last_checkpoint_and_its_end_resumes(train: Trainer) -> None:
    """All epochs are done; only the end line and the model are missing."""
    train("images", "-e", "2", "-o", "whole")
    lines = (Path("whole") / "records.jsonl").read_bytes().count(b"\n")
    shutil.copytree("whole", "cut")
    records = Path("cut/records.jsonl")
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[: lines - 1]))
    Path("cut/model.safetensors").unlink()
    assert train("--resume", "cut") == 0
    assert kept(Path("cut")) == kept(Path("whole"))


def test_augmentations_as_an_earlier_version_spelled_them_resume(
    train: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It recorded `crop,flip` as typed: the run goes on and keeps its word; `diff` finds the same option in a run of today."""
    options = ("images", "--augment=crop,flip", "--sched=constant")
    assert train(*options, "-e", "2", "-o", "today") == 0
    with monkeypatch.context() as earlier:
        earlier.setattr(TrainConfig, "_check_augment", lambda _: None)
        assert train(*options, "-e", "2", "-o", "whole") == 0
        assert train(*options, "-e", "2", "-o", "cut", cut_after=3) == -9
        assert train(*options, "-e", "1", "-o", "longer") == 0
    assert train("--resume", "cut") == train("--resume", "longer", "-e", "2") == 0
    assert kept(Path("cut")) == kept(Path("whole"))
    assert Path("longer/records.jsonl").read_bytes().count(b'"augment":"crop,flip"') == 2  # a run record for each part
    capsys.readouterr()
    assert train("today", "cut", "--json", command="diff") == 1
    assert json.loads(capsys.readouterr().out)["run"] == []


def test_an_option_that_was_off_is_called_not_set(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """Not None, which is Python's word."""
    assert train("images", "-e", "2", "-o", "run", cut_after=7) == -9
    assert train("--resume", "run", "--patience", "3") == 2
    assert "this would be another run: config.patience was not set, is 3; resume with" in capsys.readouterr().err


@pytest.mark.parametrize("cut_after", [12, 16, 20])
def test_evaluations_are_thinned_as_an_earlier_version_began(
    train: Trainer, monkeypatch: pytest.MonkeyPatch, cut_after: int
) -> None:
    """It recorded every second batch of them too; a run of today records them whole. Both go on as they began."""
    options = ("images", "--capture-every=2", "--val-split=0.5", "-b", "3", "--checkpoint-every=1", "-e", "3")
    run_info = Ready.run_info

    def without_mark(ready: Ready, options: dict[str, Any] | None = None) -> RunInfo:
        info = run_info(ready, options)
        return replace(info, config={name: value for name, value in info.config.items() if name != EVALUATIONS})

    for version in ("today", "earlier"):
        with monkeypatch.context() as earlier:
            if version == "earlier":
                earlier.setattr(Ready, "run_info", without_mark)
            assert train(*options, "-o", version) == 0
            assert train(*options, "-o", f"cut-{version}", cut_after=cut_after) == -9
        assert train("--resume", f"cut-{version}") == 0
        assert kept(Path(f"cut-{version}")) == kept(Path(version))
    by_version = [Path(version, "records.jsonl").read_bytes() for version in ("today", "earlier")]
    # 4 batches of validation an epoch
    assert [text.count(b'"kind":"batch","phase":"val"') for text in by_version] == [3 * 4, 3 * 2]


def test_the_flight_recorder_knows_the_batch_before_the_checkpoint(train: Trainer) -> None:
    """A spike in the first batch of a resumed run stores the batch before it too, as in an uninterrupted run."""
    options = ("images", "-e", "4", "--spike=0.1", "--lr=1e-6", "-b", "1", "--checkpoint-every=1")
    assert train(*options, "-o", "whole") == 0
    lines = Path("whole/records.jsonl").read_bytes().splitlines()
    spikes = [number for number, line in enumerate(lines) if b'"flight":{"reason":"spike"' in line]
    assert spikes
    for number in spikes[:3]:
        shutil.rmtree("cut", ignore_errors=True)
        assert train(*options, "-o", "cut", cut_after=number) == -9  # the record before the spike
        assert train("--resume", "cut", "--checkpoint-every=1") == 0
        assert kept(Path("cut")) == kept(Path("whole"))


@pytest.mark.parametrize("every", [1, 1000])
@pytest.mark.parametrize("change", ["other pixels", "no image", "gone"])
def test_a_changed_image_is_named(train: Trainer, capsys: pytest.CaptureFixture[str], every: int, change: str) -> None:
    """Read before the checkpoint or after it; the records stay as they are."""
    train("images", "-e", "2", "-o", "cut", f"--checkpoint-every={every}", cut_after=7)
    before = Path("cut/records.jsonl").read_bytes()
    file = next(name for line in before.splitlines() for name in json.loads(line).get("files", ()))
    image = Path("images") / file
    if change == "other pixels":
        shutil.copy(next(path for path in Path("images").iterdir() if path.name != file), image)
    elif change == "no image":
        image.write_bytes(b"no image")
    else:
        image.unlink()
    capsys.readouterr()
    assert train("--resume", "cut") == 3
    said = f"'{file}' gone" if change == "gone" else f"'{file}' has changed since the run began"
    assert said in capsys.readouterr().err
    assert Path("cut/records.jsonl").read_bytes() == before


def test_a_new_image_is_named(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """Once the run has read all of its own; before that only the counts differ."""
    for cut_after, said, code in ((2, "listing_digest was ", 2), (None, "'bee_900.png' and 1 more new; ", 3)):
        shutil.rmtree("run", ignore_errors=True)
        train("images", "-e", "2", "-o", "run", cut_after=cut_after)
        for number in (900, 901):
            shutil.copy("images/bee_001.png", f"images/bee_{number}.png")
        assert train("--resume", "run", "-e", "3") == code
        assert said in capsys.readouterr().err
        for number in (900, 901):
            Path(f"images/bee_{number}.png").unlink()


def test_a_folder_that_is_not_a_run_is_named(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the folder, not only the missing file."""
    assert train("--resume", "images") == 2
    assert "'images' is not a run folder" in capsys.readouterr().err


def test_a_completed_run_with_a_damaged_last_checkpoint_gets_no_more_epochs(
    train: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint before it is of the middle of the run: resuming there would record batches twice."""
    train("images", "-e", "2", "-o", "run", "--checkpoint-every=3")
    newest = Path("run/checkpoint.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1])
    before = Path("run/records.jsonl").read_bytes()
    assert train("--resume", "run", "-e", "3") == 2
    assert "no checkpoint of its end" in capsys.readouterr().err
    assert Path("run/records.jsonl").read_bytes() == before


def changed(path: Path, kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change each record of a kind, with a chain that fits again."""
    chain, lines = GENESIS, []
    for line in path.read_bytes().splitlines():
        text = open_envelope(line).text
        if f'"kind":"{kind}"'.encode() in text:
            body = json.loads(text + b"}")
            change(body)
            text = json.dumps(body, separators=(",", ":")).encode()[:-1]
        chain = link(chain, text)
        lines.append(b'%b,"chain":"%b"}\n' % (text, chain.hex().encode()))
    path.write_bytes(b"".join(lines))


def test_a_record_that_verifies_and_makes_no_sense_is_refused(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns of different lengths under a chain that fits: exit code 4 and the line, not a crash."""
    train("images", "-e", "1", "-o", "run", cut_after=5)
    changed(Path("run/records.jsonl"), "samples", lambda body: body["digests"].pop())
    assert train("--resume", "run") == 4
    assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"config": {}}, 2, "its run record has no epochs"),
        ({"images": {"train": [], "val": 3}}, 2, "images.train was []"),
        ({"classes": ["cat"]}, 2, "classes were cat, are "),
    ],
)
def test_a_run_record_of_another_run_is_refused(
    train: Trainer, capsys: pytest.CaptureFixture[str], change: dict[str, Any], code: int, said: str
) -> None:
    """The message names what differs, whatever it is."""
    train("images", "-e", "1", "-o", "run", cut_after=5)
    changed(Path("run/records.jsonl"), "run", lambda body: body.update(change))
    assert train("--resume", "run") == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"pack": "inputs/pack-00000.bin", "offsets": [0.5, 1, 2, 3]}, "offsets are not valid"),
        ({"pack": "inputs/pack-00000.bin", "offsets": [0]}, "stored inputs do not fit"),
        ({"pack": 3, "offsets": [0, 1, 2, 3]}, "stored inputs do not fit"),
        ({}, "stored inputs do not fit"),
    ],
)
def test_stored_inputs_that_are_not_valid_are_refused(
    train: Trainer, capsys: pytest.CaptureFixture[str], stored: dict[str, Any], said: str
) -> None:
    """Exit code 4 and the line; the file of stored inputs is not touched."""
    train("images", "-e", "1", "-o", "run", "--inputs=all", "--checkpoint-every=1", cut_after=8)
    before = kept(Path("run"))["inputs/pack-00000.bin"]
    changed(Path("run/records.jsonl"), "batch", lambda body: body["inputs"].update(stored=stored))
    assert train("--resume", "run") == 4
    told = capsys.readouterr().err
    assert said in told
    assert "line 6" in told
    assert kept(Path("run"))["inputs/pack-00000.bin"] == before


@pytest.mark.parametrize("change", [{"epoch": 2}, {"phase": "val"}, {"batch": 4}, {"epoch": 9, "batch": 0}])
def test_a_checkpoint_of_other_progress_is_refused(
    train: Trainer, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    """Its digest fits, but the record before it does not: exit code 4, and the records as they were."""
    train("images", "-e", "2", "-o", "run", "--checkpoint-every=1", cut_after=8)
    path, before = Path("run/checkpoint.safetensors"), kept(Path("run"))
    progress, tensors = checkpoint.read(path)
    sums = {**progress.writer["sums"], **{"batches" if name == "batch" else name: value for name, value in change.items()}}
    body = {**vars(progress), **change, "writer": {**progress.writer, "sums": sums}}
    path.write_bytes(checkpoint.to_bytes(json.dumps({"progress": body}), tensors))
    assert train("--resume", "run") == 4
    assert "the checkpoint does not belong to the records" in capsys.readouterr().err
    assert kept(Path("run")) == before


def test_a_checkpoint_after_the_last_batch_of_a_phase_is_refused(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """If not every batch is recorded, the record before it cannot tell."""
    options = ("images", "-e", "2", "--checkpoint-every=1", "--capture-every=2")
    train(*options, "-o", "whole")
    lines = Path("whole/records.jsonl").read_bytes().splitlines()
    train(*options, "-o", "run", cut_after=1 + next(n for n, line in enumerate(lines) if b'"kind":"epoch"' in line))
    path, before = Path("run/checkpoint.safetensors"), kept(Path("run"))
    progress, tensors = checkpoint.read(path)
    sums = {**progress.writer["sums"], "batches": progress.batch + 1}
    writer = {**progress.writer, "sums": sums, "step": progress.writer["step"] + 1}
    body = {**vars(progress), "batch": progress.batch + 1, "writer": writer}
    path.write_bytes(checkpoint.to_bytes(json.dumps({"progress": body}), tensors))
    capsys.readouterr()
    assert train("--resume", "run") == 1
    assert f"has no {progress.batch + 1} batches" in capsys.readouterr().err
    assert kept(Path("run")) == before


def test_the_checkpoint_before_a_damaged_one_is_used(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped bit: a warning, more to compute again, and equal bytes."""
    train("images", "-e", "3", "-o", "whole")
    train("images", "-e", "3", "-o", "cut", "--checkpoint-every=3", cut_after=15)
    newest = Path("cut/checkpoint.safetensors")
    damaged = bytearray(newest.read_bytes())
    damaged[-5] ^= 1
    newest.write_bytes(damaged)
    capsys.readouterr()
    assert train("--resume", "cut") == 0
    assert "the one before it is used" in capsys.readouterr().err
    assert kept(Path("cut")) == kept(Path("whole"))


def test_the_real_command_killed_and_stopped_ends_with_equal_bytes(capture: Capture, images: Path) -> None:
    """SIGKILL of the group, then SIGINT, then SIGTERM, then undisturbed: equal bytes."""
    folder = images.parent
    options = ["-m", held_model(folder), *OPTIONS[2:], "images", "-e", "60", "--inputs=all"]
    done = capture("train", *options, "-o", "whole")
    assert done.returncode == 0, done.stderr
    args = [*options, "-o", "run", "--checkpoint-every=7"]
    for signum in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        command = [*CAPTURE, "train", *args]
        with subprocess.Popen(
            command, cwd=folder, env=held_at(100), stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            held(folder, process)
            os.killpg(process.pid, signum)
            let_go(folder)
        assert process.returncode == (-9 if signum == signal.SIGKILL else 128 + signum)
        args = ["--resume", "run", "--checkpoint-every=7", "-q"]
    done = capture("train", *args)
    assert done.returncode == 0, done.stderr
    assert kept(folder / "run") == kept(folder / "whole")
    assert json.loads((folder / "run/records.jsonl").read_bytes().splitlines()[-1])["status"] == "completed"


def test_a_folder_that_has_moved_is_named_with_the_option(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Gone altogether, or other images under the name that was given."""
    assert train("images", "-e", "2", "-o", "run", cut_after=6) == -9
    shutil.copytree("images", "others")
    next(Path("others").iterdir()).rename("others/zebra_1.png")
    assert train("others", "--resume", "run") == 3
    assert "name the folder where they are now with --folder" in capfd.readouterr().err
    Path("images").rename("elsewhere")
    assert train("--resume", "run") == 2
    assert "no such folder: 'images'; --folder says where the images of the run are now" in capfd.readouterr().err
    assert train("--resume", "run", "--folder", "elsewhere") == 0
