"""`capture evaluate`: what it says of the model it evaluates, and of images that the model was trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from calling import called
from capture_cli.records import RunInfo, Samples
from capture_cli.runs import open_run
from capture_cli.runs.names import origin_of
from capture_cli.training.seen import trained_digests
from conftest import make_images
from runs import run_records, write_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on two of the three images in a folder: runs/one holds out every fourth."""
    place = tmp_path_factory.mktemp("place")
    images = make_images(place / "images")
    args = ("-m", "linear", "-e", "2", "--val-split", "0.25", "-q", "-o", str(place / "runs" / "one"))
    assert capture(place, "train", images, *args)[0] == 0
    return place


def capture(place: Path, *args: object) -> tuple[int, str, str]:
    """Run a command there: its code, and what it said."""
    done = called(*args, cwd=place)
    return done.returncode, done.stdout, done.stderr


def trained_files(run: Path) -> list[str]:
    """The files of the split `train`."""
    with open_run(run) as opened:
        blocks = [one for one in opened.records() if isinstance(one, Samples)]
    return [file for one in blocks for file, split in zip(one.files, one.splits, strict=True) if split == "train"]


def test_images_that_the_model_was_trained_on_are_counted(place: Path, tmp_path: Path) -> None:
    """By their bytes, so also under other names elsewhere; validation images are none. The warning is in the events too."""
    trained = trained_files(place / "runs" / "one")
    assert len(trained) == 18
    warning = "warning: the model was trained on 18 of these 24 images: the accuracy is too high\n"
    code, out, err = capture(place, "evaluate", "one", "images", "-q", "--json", "-o", tmp_path / "same")
    assert (code, json.loads(out)["trained_on"], err) == (0, 18, warning)
    events = map(json.loads, (tmp_path / "same" / "events.jsonl").read_text().splitlines())
    assert [one["text"] + "\n" for one in events if one["event"] == "warning"] == [warning.removeprefix("warning: ")]
    assert warning.replace("warning: ", "warning    ") in capture(place, "inspect", tmp_path / "same")[1]
    told = json.loads(capture(place, "inspect", tmp_path / "same", "--json")[1])["warning"]
    assert f"warning: {told}\n" == warning
    assert "warning" not in json.loads(capture(place, "inspect", "one", "--json")[1])
    for number, file in enumerate(sorted(one.name for one in (place / "images").iterdir())):
        (tmp_path / "copies").mkdir(exist_ok=True)
        shutil.copy(place / "images" / file, tmp_path / "copies" / f"{file.split('_')[0]}_{900 + number}.png")
    code, _, err = capture(place, "evaluate", "one", tmp_path / "copies", "-q", "-o", tmp_path / "other")
    assert (code, err) == (0, warning)
    code, _, err = capture(place, "evaluate", "runs/one/best.safetensors", "images", "-q", "-o", tmp_path / "one.jsonl")
    assert (code, err) == (0, warning)


def test_there_is_no_warning_without_trained_images(place: Path, tmp_path: Path) -> None:
    """Nor where nobody can tell, because the model lies alone: then the count is null."""
    for file in {one.name for one in (place / "images").iterdir()} - set(trained_files(place / "runs" / "one")):
        (tmp_path / "held").mkdir(exist_ok=True)
        shutil.copy(place / "images" / file, tmp_path / "held")
    code, out, err = capture(place, "evaluate", "one", tmp_path / "held", "-q", "--json", "-o", tmp_path / "new")
    assert (code, json.loads(out)["trained_on"], err) == (0, 0, "")
    shutil.copy(place / "runs" / "one" / "best.safetensors", tmp_path / "mine.safetensors")
    code, out, err = capture(
        *(place, "evaluate", tmp_path / "mine.safetensors", "images", "-q", "--json", "-o", tmp_path / "alone")
    )
    assert (code, json.loads(out)["trained_on"], err) == (0, None, "")


def test_images_of_the_run_that_gave_the_weights_count_too(place: Path, tmp_path: Path) -> None:
    """Through several runs, wherever evaluate is called; a run that is gone ends the search, and so does a cycle."""
    held = {one.name for one in (place / "images").iterdir()} - set(trained_files(place / "runs" / "one"))
    for file in held:
        (tmp_path / "held").mkdir(exist_ok=True)
        shutil.copy(place / "images" / file, tmp_path / "held")
    shutil.copytree(place / "runs", tmp_path / "runs")
    for name, weights in (("two", "one"), ("three", "runs/two/best.safetensors")):
        args = ("-m", "linear", "--weights", weights, "-e", "1", "--val-split", "0.5", "-q", "--name", name)
        assert capture(tmp_path, "train", "held", *args)[0] == 0
    first = set(trained_digests(tmp_path / "runs" / "one" / "model.safetensors") or ())
    assert len(first) == 18
    (tmp_path / "elsewhere").mkdir()
    run, images = tmp_path / "runs" / "three", place / "images"
    done = capture(tmp_path / "elsewhere", "evaluate", run, images, "--json", "-q", "-o", "test")
    seen = trained_digests(run / "model.safetensors")
    assert seen is not None
    assert seen > first
    assert (done[0], json.loads(done[1])["trained_on"]) == (0, len(seen))
    assert done[2] == f"warning: the model was trained on {len(seen)} of these 24 images: the accuracy is too high\n"
    shutil.rmtree(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one").symlink_to("three")  # a cycle
    alone = trained_digests(run / "model.safetensors")
    assert alone is not None
    assert not alone & first
    (tmp_path / "runs" / "one").unlink()
    assert trained_digests(run / "model.safetensors") == alone


def test_a_training_warns_of_validation_images_that_its_weights_know(place: Path, tmp_path: Path) -> None:
    """Once, and in `inspect`; with the split of the run that gave the weights there are none."""
    trained = set(trained_files(place / "runs" / "one"))
    options = ("-m", "linear", "--weights", place / "runs" / "one", "-e", "2", "-q", "-o")
    code, _, err = capture(place, "train", "images", *options, tmp_path / "half", "--val-split", "0.5")
    val = {one.name for one in (place / "images").iterdir()} - set(trained_files(tmp_path / "half"))
    known = len(val & trained)
    assert 0 < known < len(val)
    warning = f"were trained on {known} of the {len(val)} validation images: the validation accuracy is too high"
    assert (code, err) == (0, f"warning: --weights {place}/runs/one {warning}\n")
    assert warning in " ".join(capture(place, "inspect", tmp_path / "half")[1].split())
    assert json.loads(capture(place, "inspect", tmp_path / "half", "--json")[1])["warning"].endswith(warning)
    assert capture(place, "train", "images", *options, tmp_path / "same", "--val-split", "0.25")[::2] == (0, "")
    (tmp_path / "gone").mkdir()
    shutil.copy(place / "runs" / "one" / "model.safetensors", tmp_path / "gone")
    alone = ("-m", "linear", "--weights", tmp_path / "gone/model.safetensors", "-e", "1", "-q", "-o", tmp_path / "alone")
    assert capture(place, "train", "images", *alone, "--val-split", "0.5")[::2] == (0, "")


def test_folds_warn_of_them_as_one_run(place: Path, tmp_path: Path) -> None:
    """In `inspect`, with the training that is meant and the number of those that have the warning."""
    options = ("-m", "linear", "--weights", place / "runs" / "one", "-e", "1", "-q", "-o", tmp_path / "folds")
    assert capture(place, "train", "images", "--folds", "2", *options)[0] == 0
    known = len(set(trained_files(place / "runs" / "one")) - set(trained_files(tmp_path / "folds" / "fold-2")))
    assert 0 < known < 12
    said = json.loads(capture(place, "inspect", tmp_path / "folds", "--json")[1])["warning"]
    assert said.startswith(f"fold-2: --weights {place}/runs/one were trained on {known} of the 12 validation images: ")
    assert said.endswith("; 2 trainings have this warning")
    alone = json.loads(capture(place, "inspect", tmp_path / "folds/fold-2", "--json")[1])["warning"]
    assert said == f"fold-2: {alone}; 2 trainings have this warning"


@pytest.mark.parametrize("weights", ["DEFAULT", "", "\0", "a" * 300, "/", ".", "gone/model.safetensors", 7, ["x"]])
def test_weights_that_are_of_no_run_here_add_nothing(tmp_path: Path, weights: object) -> None:
    """Published weights, and whatever the records of others may say."""
    records = list(run_records(epochs=2))
    records[0] = replace(records[0], config={"weights": weights}) if isinstance(records[0], RunInfo) else records[0]
    run = write_run(tmp_path / "run", records)
    assert len(trained_digests(run / "model.safetensors") or ()) == 27


@pytest.mark.parametrize("sampler", [None, "balanced"])
def test_only_a_sampler_makes_more_than_the_first_epoch_be_read(tmp_path: Path, sampler: str | None) -> None:
    """It may choose an image late; without one every image is in the first epoch."""
    records = list(run_records(epochs=2))
    (at,) = [number for number, one in enumerate(records) if isinstance(one, Samples)]
    late = records[at]
    assert isinstance(late, Samples)
    late = replace(late, ids=[99], files=["late.png"], labels=[0], splits=["train"], sizes=[1], digests=["ab" * 16])
    records.insert(-1, late)
    if sampler:
        records[0] = replace(records[0], config={"sampler": sampler}) if isinstance(records[0], RunInfo) else records[0]
    run = write_run(tmp_path / "run", [*records[:-1]])
    seen = trained_digests(run / "model.safetensors")
    assert seen is not None
    assert len(seen) == 27 + bool(sampler)
    assert (bytes.fromhex("ab" * 16) in seen) == bool(sampler)


def test_a_run_says_which_model_it_is_of(place: Path, tmp_path: Path) -> None:
    """The records of evaluations and predictions name its file, as it was given, and its epoch."""
    assert capture(place, "evaluate", "one", "images", "-q", "--last", "-o", tmp_path / "evaluated")[0] == 0
    images = sorted((place / "images").iterdir())
    assert capture(place, "predict", "one", *images, "-q", "--records", tmp_path / "predicted")[0] == 0
    with open_run(tmp_path / "evaluated") as run:
        assert (run.info.model["file"], run.info.model["epoch"]) == ("runs/one/model.safetensors", 2)
    with open_run(tmp_path / "predicted") as run:
        assert run.info.model["file"] == "runs/one/best.safetensors"
        assert run.info.model["epoch"] in (1, 2)
    assert "evaluated  runs/one, epoch 2: linear (" in capture(place, "inspect", tmp_path / "evaluated")[1]
    assert "predicted  runs/one, epoch " in capture(place, "inspect", tmp_path / "predicted")[1]
    assert "linear of runs/one, epoch 2" in capture(place, "runs", tmp_path)[1]
    found = {one["name"]: one["origin"] for one in json.loads(capture(place, "runs", tmp_path, "--json")[1])["runs"]}
    assert found["evaluated"] == "runs/one, epoch 2"
    assert capture(place, "runs", "--json")[1].count('"origin": ""') == 1


def test_the_model_of_a_run_is_named_by_its_folder() -> None:
    """A model file that lies elsewhere, or is called otherwise, is named itself; older files do not have their epoch."""
    assert origin_of({"name": "cnn", "parameters": 5}) == ""
    assert origin_of({"file": "runs/one/best.safetensors", "epoch": 3}) == "runs/one, epoch 3"
    assert origin_of({"file": "elsewhere/mine.safetensors", "epoch": 3}) == "elsewhere/mine.safetensors, epoch 3"
    assert origin_of({"file": "model.safetensors"}) == "model.safetensors"
