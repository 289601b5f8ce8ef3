"""A run with folds is read as one run, in which every sample is held out once."""

import csv
import io
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from calling import Caller
from capture_cli import open_run
from capture_cli.answers.calibration import calibration
from capture_cli.assistant import Tools
from capture_cli.records import RunInfo, Samples
from capture_cli.runs import FoldedEpoch, Visits, folds_of
from conftest import CAPTURE, make_images
from cutting import trainer

pytestmark = pytest.mark.filterwarnings("ignore")
EPOCHS, FOLDS = 3, 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with 30 `images/`, two of them the same picture, and a run with folds in `runs/whole`."""
    folder = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        train = trainer(folder, patch)
        make_images(folder / "images", each=10)
        shutil.copyfile(folder / "images/ant_000.png", folder / "images/ant_001.png")
        assert train("images", "--folds", FOLDS, "-e", EPOCHS, "--name", "whole") == 0
        assert train("images", "--folds", FOLDS, "-e", EPOCHS, "--name", "part", cut_after=45) == -9
    return folder


@pytest.fixture
def ask(trained: Path, call: Caller, monkeypatch: pytest.MonkeyPatch) -> Caller:
    """Call `capture ARGS` beside `runs/whole`, which is complete, and `runs/part`, which was cut off in its second fold."""
    monkeypatch.chdir(trained)
    return call


def held_out(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The visits of each file in the last epoch, from the records of the trainings, with the number of the training."""
    found: dict[str, list[dict[str, object]]] = {}
    for number in range(1, FOLDS + 1):
        for line in (folder / f"runs/whole/fold-{number}/records.jsonl").read_text().splitlines():
            one = json.loads(line)
            if one["kind"] != "batch" or (one["phase"], one["epoch"]) != ("val", EPOCHS):
                continue
            for file, label, pred, probs in zip(one["files"], one["labels"], one["preds"], one["probs"], strict=True):
                visit = {"fold": number, "correct": label == pred, "p": max(probs)}
                found.setdefault(file, []).append(visit)
    return found


def test_a_run_with_folds_is_one_run_whose_samples_are_all_held_out(trained: Path) -> None:
    """Samples come once, visits name their training, epoch records sum up all trainings and keep each."""
    with open_run(trained / "runs/whole") as run:
        blocks = list(run.blocks())
        assert folds_of(run.info) == FOLDS
        assert run.info.images == {"val": 30}
        assert run.ending.sentence == "sealed, completed"
    assert sum(isinstance(one, RunInfo) for one in blocks) == 1
    files = [file for one in blocks if isinstance(one, Samples) for file in one.files]
    assert len(files) == len(set(files)) == 30
    visits = [one for one in blocks if isinstance(one, Visits)]
    for phase, times in (("val", 1), ("train", FOLDS - 1)):
        seen = Counter(file for one in visits if (one.phase, one.epoch) == (phase, 2) for file in one["file"].tolist())
        assert set(seen.values()) == {times}
    assert {(one.info.fold or {})["number"] for one in visits} == {1, 2, 3}
    sums = [one for one in blocks if isinstance(one, FoldedEpoch)]
    assert [(one.epoch, one.phase) for one in sums] == [(epoch, phase) for epoch in (1, 2, 3) for phase in ("train", "val")]
    assert [one.n for one in sums[:2]] == [60, 30]
    assert sums[1].accuracy == pytest.approx(sum((one.accuracy or 0) * one.n for one in sums[1].folds.values()) / 30)


def test_inspect_says_the_accuracy_on_held_out_samples(ask: Caller, trained: Path) -> None:
    """Accuracy and ECE over all samples, each held out once; mean and standard deviation of the trainings."""
    visits = [one for ones in held_out(trained).values() for one in ones]
    right = np.array([one["correct"] for one in visits])
    found = calibration(np.array([one["p"] for one in visits]), right)
    accuracies = [np.mean([one["correct"] for one in visits if one["fold"] == k]) for k in (1, 2, 3)]
    body = json.loads(ask("inspect", "whole", "--json").out)
    assert body["held_out"]["accuracy"] == pytest.approx(right.mean())
    assert [one["accuracy"] for one in body["held_out"]["folds"]] == pytest.approx(accuracies)
    assert body["held_out"]["mean"] == pytest.approx(np.mean(accuracies))
    assert body["held_out"]["spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert found
    assert body["phase"]["n"] == 30
    assert body["phase"]["calibration"]["ece"] == pytest.approx(found.ece)
    sentence = json.loads(ask("inspect", "whole", "--epoch", "1", "--json").out)["lesson"][0]["text"]
    assert (body["lesson"][0]["text"].partition("; ECE")[0] + ".", "ECE" in body["lesson"][0]["text"]) == (sentence, True)
    text = ask("inspect", "whole").out
    assert f"Held-out accuracy {right.mean():.1%} over 30 samples, each held out once; by fold " in text
    assert f"; ECE {found.ece:.3f} over {found.bin_count} bins." in text
    assert "30 images of 3 classes (3 folds, each image held out once)" in text


def test_every_fold_is_a_run_of_its_own(ask: Caller) -> None:
    """`capture inspect runs/whole/fold-2` shows an ordinary run."""
    body = json.loads(ask("inspect", "whole/fold-2", "--json").out)
    assert body["samples"] == {"train": 20, "val": 10}
    assert "held_out" not in body
    assert ask("verify", "whole/fold-2").code == 0
    assert ask("predict", "whole/fold-2", "images", "--format", "csv").out.count("\n") == 31


def test_rows_name_the_training(ask: Caller) -> None:
    """Visits and, with `--per sample`, samples have the column fold; sums by epoch are over all trainings."""
    said = ask("rows", "whole", "--csv")
    assert not said.err
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert len(rows) == 30 * FOLDS * EPOCHS
    last = {(one["file"], one["fold"]) for one in rows if one["phase"] == "val" and one["epoch"] == "2"}
    assert len(last) == 30
    chosen = ask("rows", "whole", "--where", "fold = 2 and phase = 'val' and epoch = 1", "--columns", "fold,file").out
    assert {json.loads(line)["fold"] for line in chosen.splitlines()} == {2}
    assert chosen.count("\n") == 10
    samples = list(csv.DictReader(io.StringIO(ask("rows", "whole", "--per", "sample", "--csv").out)))
    assert Counter((one["phase"], one["visits"]) for one in samples) == {("train", "3"): 60, ("val", "3"): 30}
    assert len({(one["file"], one["phase"], one["fold"]) for one in samples}) == 90
    epochs = [json.loads(line) for line in ask("rows", "whole", "--per", "epoch").out.splitlines()]
    assert [(one["phase"], one["n"]) for one in epochs] == [("train", 60), ("val", 30)] * EPOCHS
    assert "fold" not in json.loads(ask("rows", "whole", "--per", "class", "--limit", 1).out)


def test_suspects_rank_every_sample_once(ask: Caller) -> None:
    """By the visits of the trainings that it was in; the same picture in two folds is a leak."""
    lines = [json.loads(line) for line in ask("suspects", "whole", "--json", "--all").out.splitlines()]
    assert len({one["file"] for one in lines}) == len(lines) == 30
    assert {one["phase"] for one in lines} == {"train"}
    assert "ranked by the visits of the 2 trainings that each sample was in" in ask("suspects", "whole").out
    with open_run("runs/whole") as run:
        groups = [[one.file for one in group.members] for group in run.duplicates().groups if group.kind == "bytes"]
        splits = {split for group in run.duplicates().groups for split in group.splits}
    assert groups == [["ant_000.png", "ant_001.png"]]
    assert splits <= {"fold 1", "fold 2", "fold 3"}


def test_one_image_has_the_visits_of_every_training(ask: Caller) -> None:
    """One training after the other, with its number."""
    body = json.loads(ask("inspect", "whole", "--sample", "bee_003.png", "--json").out)
    assert [one["fold"] for one in body["visits"]] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert Counter(one["phase"] for one in body["visits"]) == {"train": 6, "val": 3}
    assert ask("inspect", "whole", "--sample", "bee_003.png").out.splitlines()[4].split()[0] == "fold"
    assert json.loads(ask("inspect", "whole", "--dynamics", "--json").out)["dynamics"][0]["n"] == 30


def test_runs_are_compared_over_all_folds(ask: Caller) -> None:
    """A run equals itself; against one training, the predictions of all samples that both held out."""
    assert json.loads(ask("diff", "whole", "whole", "--json").out)["equal"]
    body = json.loads(ask("diff", "whole", "whole/fold-1", "--json").out)
    assert not body["equal"]
    assert body["predictions"]["a"]["n"] == 30
    changes = {one["name"]: (one["a"], one["b"]) for one in body["run"]}
    assert (changes["images.val"], changes["fold.number"]) == ((30, 10), (None, 1))
    assert body["predictions"]["both"] == 10
    assert body["predictions"]["right_to_wrong"]["count"] == 0


def test_verify_and_replay_read_every_training(ask: Caller) -> None:
    """The chain is over all; inputs are reproduced bit for bit."""
    said = ask("verify", "whole")
    assert said.code == 0
    assert "3 run" in said.out
    assert "270 inputs reproduced bit for bit" in ask("replay", "whole").out
    assert "runs/whole' has 3 trainings, and --outputs needs the files of one" in ask("replay", "whole", "--outputs").err
    assert ask("verify", "whole", "--repair", "new.jsonl").code == 2


def test_a_run_that_was_cut_off_says_so(ask: Caller, trained: Path) -> None:
    """Between two folds, too: the run is not sealed before all trainings are."""
    said = ask("verify", "part")
    assert said.code == 4
    assert "1 training has not begun: still running or cut off" in said.err
    text = ask("inspect", "part").out
    assert "; 1 of 3 folds so far" in text
    shutil.copytree(trained / "runs/part", trained / "between", dirs_exist_ok=True)
    shutil.rmtree(trained / "between/fold-2")
    assert "2 trainings have not begun" in ask("verify", "between").err
    assert ask("suspects", "between").code == 0


def test_one_line_of_the_list_is_the_whole_run(ask: Caller) -> None:
    """With its state; `last` and `@2` count it, and its name stands for it."""
    body = json.loads(ask("runs", "--json").out)
    assert {one["name"]: (one["state"], one["folds"]) for one in body["runs"]} == {
        "whole": ("completed", "3 of 3 folds"),
        "part": ("cut off", "1 of 3 folds"),
    }
    best = next(one["best"] for one in body["runs"] if one["name"] == "whole")
    assert best["n"] == 30
    assert "completed, 3 folds" in ask("runs").out
    assert json.loads(ask("inspect", "last", "--json").out)["run"] == "runs/part"
    assert json.loads(ask("inspect", "@2", "--json").out)["run"] == "runs/whole"


@pytest.mark.parametrize(
    "words",
    [("predict", "whole", "images"), ("evaluate", "whole", "images"), ("train", "images", "--weights", "last")],
    ids=lambda words: words[0],
)
def test_commands_that_need_one_model_name_the_trainings(ask: Caller, words: tuple[str, ...]) -> None:
    """Nothing chooses a training silently, not even `last`."""
    said = ask(*words)
    assert said.code == 2
    assert "trainings, each with a model of its own; name one of them, such as runs/" in said.err


def test_removing_a_run_removes_every_training(ask: Caller, trained: Path) -> None:
    """Only if nothing else is in it."""
    shutil.copytree(trained / "runs/whole", trained / "runs/gone")
    (trained / "runs/gone/notes.txt").touch()
    assert "also holds 'notes.txt'" in ask("runs", "--rm", "gone", "--yes").err
    (trained / "runs/gone/notes.txt").unlink()
    assert ask("runs", "--rm", "gone", "--yes").code == 0
    assert not (trained / "runs/gone").exists()


def test_a_fold_that_is_damaged_or_twice_there_is_named(ask: Caller, trained: Path) -> None:
    """Everything before it is read; a training counts once."""
    shutil.copytree(trained / "runs/whole", trained / "damaged")
    records = trained / "damaged/fold-2/records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"lr":', b'"LR":', 1))
    said = ask("inspect", "damaged")
    assert said.code == 4
    assert "fold-2/records.jsonl: line " in said.err
    shutil.copytree(trained / "runs/whole", trained / "twice")
    shutil.copyfile(trained / "twice/fold-1/records.jsonl", trained / "twice/fold-3/records.jsonl")
    said = ask("inspect", "twice")
    assert said.code == 4
    assert "twice/fold-3/records.jsonl is no other fold of the run in twice/fold-1/records.jsonl" in said.err


def test_python_and_assistants_see_the_folds(trained: Path) -> None:
    """DataFrames have the column fold, rows of the MCP server too."""
    with open_run(trained / "runs/whole") as run:
        frame = run.to_pandas(phase="val", epochs=[EPOCHS])
    assert frame.columns[0] == "fold"
    assert sorted(frame["fold"].value_counts().tolist()) == [10, 10, 10]
    tools = Tools({"whole": str(trained / "runs/whole")}, None)
    assert json.loads(tools.inspect("whole"))["held_out"]["n"] == 30
    assert json.loads(tools.rows("whole", where="fold = 3", limit=1))["fold"] == 3


def test_a_folder_of_runs_called_like_folds_stays_one(ask: Caller, trained: Path) -> None:
    """Without the options of a run with folds in the folder, its runs are several."""
    shutil.copytree(trained / "runs/whole", trained / "mine")
    (trained / "mine/config.toml").unlink()
    assert "mine: 3 runs" in ask("runs", "mine").out


def test_the_best_epoch_is_that_of_all_trainings(ask: Caller) -> None:
    """It is known at the end, so such a run is read twice; one of its trainings, from a pipe, once."""
    best = json.loads(ask("inspect", "whole", "--epoch", "best", "--json").out)
    assert best["phase"]["n"] == 30
    number = str(best["best"]["epoch"])
    assert best["phase"] == json.loads(ask("inspect", "whole", "--epoch", number, "--json").out)["phase"]
    records = Path("runs/whole/fold-2/records.jsonl")
    piped = subprocess.run(
        [*CAPTURE, "inspect", "-", "--epoch", "best", "--json"], input=records.read_bytes(), capture_output=True, check=True
    )
    one = json.loads(piped.stdout)
    number = str(one["best"]["epoch"])
    assert one["phase"] == json.loads(ask("inspect", records, "--epoch", number, "--json").out)["phase"]
