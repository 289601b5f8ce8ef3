"""`capture train --folds K`: K trainings as one run, which hold out every image once."""

import json
import shutil
import signal
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from capture_cli import open_run
from capture_cli.labels.splits import folds_of
from capture_cli.runfolder.folds import reopen_folds
from conftest import CAPTURE, make_images
from cutting import OPTIONS, Trainer, kept, trainer
from holding import held, held_at, held_model, let_go

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/` with 24 images; with `cut_after` it ends dead after so many records."""
    return trainer(tmp_path, monkeypatch)


def folds_kept(run: str, folds: int = 3) -> list[dict[str, bytes]]:
    return [kept(Path(run, f"fold-{number}")) for number in range(1, folds + 1)]


def header(run: Path) -> dict[str, object]:
    with (run / "records.jsonl").open() as lines:
        return json.loads(next(lines))


def held_out(run: Path) -> list[str]:
    """The files of the phase val in its first epoch."""
    lines = map(json.loads, (run / "records.jsonl").read_text().splitlines())
    return [
        file for one in lines if one["kind"] == "batch" and one["phase"] == "val" and one["epoch"] == 1 for file in one["files"]
    ]


def test_every_sample_is_held_out_once_and_equal_runs_are_equal(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Each fold is a run folder of its own whose records name it, with an equal share of each class."""
    assert train("images", "--folds", 3, "-e", 1, "-o", "one", quiet=False) == 0
    said = capfd.readouterr().err
    assert "Images: 24 in 3 folds, each held out once" in said
    assert "Fold 2 of 3: 16 images to train on, 8 held out" in said
    assert said.count("Labels:") == 1
    assert train("images", "--folds", 3, "-e", 1, "-o", "other", "--no-cache") == 0
    assert folds_kept("one") == folds_kept("other")
    events = [json.loads(line) for line in Path("other/fold-3/events.jsonl").read_text().splitlines()]
    assert next(one["decoded"] for one in events if one["event"] == "pixels") == 24  # once for all folds
    seen = [held_out(Path(f"one/fold-{number}")) for number in (1, 2, 3)]
    assert Counter(file for one in seen for file in one) == Counter(path.name for path in Path("images").iterdir())
    assert all(set(Counter(file[:3] for file in one).values()) <= {2, 3} for one in seen)
    assert header(Path("one/fold-2"))["fold"] == {"number": 2, "of": 3}
    assert "val_split" not in header(Path("one/fold-2"))["config"]
    assert not Path("one/records.jsonl").exists()


@pytest.mark.parametrize("cut_after", [1, 3, 9, 12, 17, 26])
def test_a_run_with_folds_that_was_cut_off_resumes_to_equal_bytes(train: Trainer, cut_after: int) -> None:
    """At its first record, within the first fold, between two folds, and in the second; done folds are not trained again."""
    assert train("images", "--folds", 3, "-e", 2, "-o", "whole") == 0
    assert train("images", "--folds", 3, "-e", 2, "-o", "cut", "--checkpoint-every=4", cut_after=cut_after) == -9
    before = {path: path.stat().st_mtime_ns for path in Path("cut").glob("fold-*/model.safetensors")}
    assert train("--resume", "cut") == 0
    assert folds_kept("cut") == folds_kept("whole")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_killed_process_resumes_to_equal_bytes(train: Trainer) -> None:
    """SIGKILL in the second fold."""
    make_images(Path("images"), each=20)
    options = ("-m", held_model(Path()), "--folds", "3", "-e", "4", "--checkpoint-every=5")
    assert train("images", *options, "-o", "whole") == 0
    command = [*CAPTURE, "train", "images", *OPTIONS, "-q", *options, "-o", "cut"]
    with subprocess.Popen(command, env=held_at(30)) as process:
        held(Path(), process)
        while not Path("cut/fold-2/records.jsonl").exists():  # each fold has a model of its own, and stands still once
            let_go(Path())
            held(Path(), process)
        process.send_signal(signal.SIGKILL)
    let_go(Path())
    assert not Path("cut/fold-3/model.safetensors").exists()
    assert train("--resume", "cut") == 0
    assert folds_kept("cut") == folds_kept("whole")


def test_more_epochs_continue_every_fold(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """A completed run is refused without more epochs, and gets them in each fold, also after a kill."""
    assert train("images", "--folds", 2, "-e", 1, "-o", "run") == 0
    assert train("--resume", "run") == 2
    assert "'run' has completed the 1 epochs of its 2 folds; add more with --epochs" in capfd.readouterr().err
    assert train("--resume", "run", "-e", 2, cut_after=15) == -9
    assert train("--resume", "run") == 0
    assert [header(Path(f"run/fold-{k}"))["config"]["epochs"] for k in (1, 2)] == [1, 1]  # type: ignore[index]
    ends = [Path(f"run/fold-{k}/records.jsonl").read_text().count('"kind":"end"') for k in (1, 2)]
    assert ends == [2, 2]


def test_changed_images_and_single_folds_are_refused(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """An image that has changed after a fold was complete, and `--resume run/fold-1`."""
    assert train("images", "--folds", 3, "-e", 1, "-o", "run", cut_after=12) == -9
    assert train("--resume", "run/fold-1") == 2
    assert "'run/fold-1' is one fold of a run; resume them together: capture train --resume run" in capfd.readouterr().err
    name = held_out(Path("run/fold-1"))[0]
    image = Path("images", name)
    data = image.read_bytes()
    image.write_bytes(Path("images/cat_000.png" if name != "cat_000.png" else "images/cat_001.png").read_bytes())
    assert train("--resume", "run") == 3
    assert f"'{name}' has changed since the run began" in capfd.readouterr().err
    image.write_bytes(data)
    assert train("--resume", "run") == 0


def test_a_resume_that_is_refused_changes_nothing(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """The options in the folder stay those of the run."""
    assert train("images", "--folds", 2, "-e", 1, "-o", "run", cut_after=3) == -9
    assert train("--resume", "run", "--lr", 0.5) == 2
    assert "this would be another run: config.lr was 0.001, is 0.5" in capfd.readouterr().err
    assert train("--resume", "run", "--folds", 3) == 2
    assert "--folds is not valid with --resume" in capfd.readouterr().err
    assert train("--resume", "run") == 0


def test_a_run_that_is_being_written_is_left_alone(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Between two folds too, when no process has the records of a training open."""
    assert train("images", "--folds", 2, "-e", 1, "-o", "run") == 0
    shutil.rmtree("run/fold-2")
    with reopen_folds(Path("run")):
        assert train("--resume", "run") == 2
        assert train("run", "--rm", "--yes", command="runs") == 2
        assert capfd.readouterr().err.count("'run' is being written; stop the run first, or wait for its end") == 2
        assert train("run", "--json", command="runs") == 0
        assert json.loads(capfd.readouterr().out)["runs"][0]["state"] == "running"
    assert train("run", "--json", command="runs") == 0
    assert json.loads(capfd.readouterr().out)["runs"][0]["state"] == "cut off"


def test_trainings_that_ended_early_stay_as_they_are(train: Trainer) -> None:
    """With --patience, more epochs are for the others."""
    options = ("--folds", 2, "--patience", 1, "--lr", 1e-9, "--sched", "constant")
    assert train("images", *options, "-e", 4, "-o", "run") == 0
    ends = [json.loads(Path(f"run/fold-{k}/records.jsonl").read_text().splitlines()[-2])["epoch"] for k in (1, 2)]
    before = folds_kept("run", 2)
    ended = [last < 4 for last in ends]
    assert any(ended)
    assert train("--resume", "run", "-e", 5) in (0, 2)  # 2: the last epoch of the others was no better either
    same = [one == other for one, other in zip(before, folds_kept("run", 2), strict=True)]
    assert all(is_same for is_same, is_early in zip(same, ended, strict=True) if is_early)
    with open_run("run") as run:
        summary = run.summary()
    assert summary.held_out
    assert summary.phase
    assert (summary.held_out.n, summary.phase.n, summary.phase.correct) == (24, 24, summary.held_out.accuracy * 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", 1), "--folds 1 is not valid; choose a number from 2 to 1,000"),
        (("--folds", 3, "--val-split", 0.2), "--folds and --val-split both say which images are held out"),
        (("--folds", 3, "--val", "images"), "--folds and --val both say which images are held out"),
        (("--folds", 9), "--folds 9: class 'ant' has 8 images, fewer than there are folds; choose --folds 8 or fewer"),
        (("--folds", 25), "--folds 25 is more than there are images (24)"),
        (("--folds", 3, "-o", "-"), "--folds needs a run folder"),
        (("--folds", 3, "-o", "run.jsonl"), "--folds needs a run folder"),
        (("--folds", 3, "--group", "^..."), "--folds 3: class 'ant' has 1 group, fewer than there are folds"),
    ],
)
def test_folds_that_cannot_be_are_errors(
    train: Trainer, capfd: pytest.CaptureFixture[str], options: tuple[object, ...], message: str
) -> None:
    """Each is one line, before anything is written."""
    assert train("images", *options) == 2
    assert message in capfd.readouterr().err
    assert not Path("runs").exists()


def test_folders_that_decide_validation_are_refused_and_test_images_are_not_folded(
    train: Trainer, capfd: pytest.CaptureFixture[str]
) -> None:
    """`val/` says what to do; `test/` is left for `capture evaluate`."""
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            make_images(Path("sets", split, name), classes=1, each=4)
    assert train("sets", "--folds", 2, "-e", 1) == 2
    assert "folders or names say which are for validation; add --split-folders pool to fold" in capfd.readouterr().err
    rows = [f"{path},{path.name[:3]},{'val' if path.name.endswith('7.png') else 'train'}" for path in Path("images").iterdir()]
    Path("table.csv").write_text("\n".join(["file,label,split", *(row.removeprefix("images/") for row in rows)]))
    assert train("images", "--labels", "table.csv", "--folds", 2) == 2
    assert "the table 'table.csv' says which are for validation; take its column of splits out" in capfd.readouterr().err
    assert train("sets", "--folds", 2, "-e", 1, "--exclude", "val/*", "-o", "run") == 0
    assert {file.split("/")[0] for k in (1, 2) for file in held_out(Path(f"run/fold-{k}"))} == {"train"}


def test_a_class_that_one_fold_would_hold_out_whole_is_an_error(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Where groups have images of several classes: there would be nothing to learn it from."""
    for group, names in (("g1", "bbbaa"), ("g2", "bbbb"), ("g3", "bba")):
        Path("mixed", group).mkdir(parents=True)
        for number, name in enumerate(names):
            shutil.copy("images/ant_000.png", f"mixed/{group}/{name}_{number}.png")
    assert train("mixed", "--labels", "prefix", "--group", "^g[0-9]", "--folds", 2) == 2
    message = "--folds 2: one fold would hold out all images of class 'a'; choose another --group"
    assert message in capfd.readouterr().err


def test_force_overwrites_a_run_with_folds_and_nothing_else(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """By another run with folds or by one without; a file of somebody else stops it."""
    assert train("images", "--folds", 3, "-e", 1, "-o", "run") == 0
    assert train("images", "--folds", 2, "-e", 1, "-o", "run") == 2
    assert "'run' already holds a run" in capfd.readouterr().err
    Path("run/fold-3/notes.txt").touch()
    assert train("images", "--folds", 2, "-e", 1, "-o", "run", "--force") == 2
    assert "'run/fold-3' also holds 'notes.txt'" in capfd.readouterr().err
    Path("run/fold-3/notes.txt").unlink()
    assert train("images", "--folds", 2, "-e", 1, "-o", "run", "--force") == 0
    assert sorted(path.name for path in Path("run").iterdir()) == ["config.toml", "fold-1", "fold-2"]
    assert train("images", "-e", 1, "-o", "run", "--force") == 0
    assert Path("run/records.jsonl").exists()
    assert not Path("run/fold-1").exists()


def test_folds_are_of_equal_size_in_every_class_and_keep_groups_together() -> None:
    """For many sizes; the split depends on names alone, not on their order."""
    draw = np.random.default_rng(0)
    for n, classes, folds in ((10, 2, 5), (31, 3, 4), (200, 7, 10), (9, 9, 3)):
        files = [f"{i:03d}.png" for i in range(n)]
        labels = draw.integers(classes, size=n).tolist()
        numbers = folds_of(labels, files, None, folds)
        sizes = Counter(numbers)
        assert max(sizes.values()) - min(sizes[k] for k in range(1, folds + 1)) <= 1
        for label in range(classes):
            shares = Counter(k for k, one in zip(numbers, labels, strict=True) if one == label)
            assert max(shares[k] for k in range(1, folds + 1)) - min(shares[k] for k in range(1, folds + 1)) <= 1
        order = draw.permutation(n).tolist()
        again = folds_of([labels[i] for i in order], [files[i] for i in order], None, folds)
        assert again == [numbers[i] for i in order]
        groups = [f"g{i // 2}" for i in range(n)]
        together = defaultdict(set)
        for group, number in zip(groups, folds_of(labels, files, groups, folds), strict=True):
            together[group].add(number)
        assert all(len(one) == 1 for one in together.values())
        assert len(set.union(*together.values())) == min(folds, len(together))
