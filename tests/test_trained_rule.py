"""A model keeps the rule that its labels were read by, and later commands use it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from capture_cli.models.saved import read
from conftest import make_images
from test_layouts import typed


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on `3_0.png`, which is a 3 by the rule prefix; return the run."""
    folder = tmp_path_factory.mktemp("digits")
    for file in sorted(make_images(folder / "images").iterdir()):
        name, number = file.stem.split("_")
        file.rename(file.with_name(f"{'abc'.index(name[0])}_{int(number)}.png"))
    code, _, err = typed("train", str(folder / "images"), "-m", "linear", "-e", "1", "-q", "-o", str(folder / "run"))
    assert code == 0, err
    return folder / "run"


def test_the_rule_is_in_the_model_and_in_the_records(digits: Path) -> None:
    """As --labels takes it."""
    assert read(digits / "model.safetensors")[0].labels == "prefix"
    with (digits / "records.jsonl").open() as records:
        assert json.loads(records.readline())["label_rule"] == "prefix"


def test_evaluate_reads_labels_by_the_rule_of_the_model(digits: Path, tmp_path: Path) -> None:
    """Ten pictures of one class: by their names alone, they would be of ten."""
    make_images(tmp_path / "only", classes=1)
    for i, file in enumerate(sorted((tmp_path / "only").iterdir())):
        file.rename(tmp_path / "only" / f"2_{i}.png")
    code, _, err = typed("evaluate", str(digits), str(tmp_path / "only"), "-q", "-o", str(tmp_path / "ev"))
    assert code == 0, err
    records = map(json.loads, (tmp_path / "ev" / "records.jsonl").read_text().splitlines())
    assert {label for one in records if one["kind"] == "samples" for label in one["labels"]} == {2}


def test_a_folder_that_contradicts_the_rule_is_refused(digits: Path, tmp_path: Path) -> None:
    """The hint names the rule that finds the classes of the model there."""
    make_images(tmp_path / "named" / "2", classes=1)
    code, _, err = typed("evaluate", str(digits), str(tmp_path / "named"), "-q", "-o", str(tmp_path / "ev"))
    assert code == 3
    assert "have a label that the model does not know: 'ant'; here the classes of the model are found by --labels parent" in err
    done = typed("evaluate", str(digits), str(tmp_path / "named"), "-q", "-o", str(tmp_path / "ev"), "--labels", "parent")
    assert done[0] == 0


def test_test_folders_are_left_alone_and_pointed_to(tmp_path: Path) -> None:
    """Training says how many there are and how to evaluate them, and that command takes them alone."""
    for split, each in (("train", 8), ("val", 2), ("test", 3)):
        make_images(tmp_path / "data" / split, classes=2, each=each)
    code, _, err = typed("train", str(tmp_path / "data"), "-m", "linear", "-e", "1", "-o", str(tmp_path / "run"))
    assert code == 0, err
    assert "Images: 16 train, 4 val, from folders or names; 6 test images are kept for `capture evaluate`" in err
    command = re.search(r"6 test images were not used; evaluate them with: capture (.+)", err)
    assert command
    code, out, err = typed(*shlex.split(command[1]), "-q", "-o", str(tmp_path / "ev"))
    assert code == 0, err
    assert "images 6" in out
    assert typed(*shlex.split(command[1]), "--split", "all", "-q", "-o", str(tmp_path / "all"))[1].endswith("images 26\n")
    assert typed(*shlex.split(command[1]), "--split", "some")[0] == 2


def test_split_words_in_names_are_read_alike_in_training_and_evaluation(tmp_path: Path) -> None:
    """`train_ant_000.png` is an ant, and so is `test_ant_000.png`."""
    for file in make_images(tmp_path / "data", classes=2).iterdir():
        file.rename(file.with_name(f"{'test' if file.stem.endswith(('0', '1')) else 'train'}_{file.name}"))
    code, _, err = typed("train", str(tmp_path / "data"), "-m", "linear", "-e", "1", "-q", "-o", str(tmp_path / "run"))
    assert code == 0, err
    code, out, err = typed("evaluate", str(tmp_path / "run"), str(tmp_path / "data"), "-q", "-o", str(tmp_path / "ev"))
    assert code == 0, err
    assert "images 4" in out


def test_the_screen_before_training_names_what_is_skipped(digits: Path, tmp_path: Path) -> None:
    """Rule, classes, images, inputs, and skipped files by reason with names; nothing of it with --quiet."""
    make_images(tmp_path / "data", classes=2)
    (tmp_path / "data" / "notes.txt").touch()
    args = ["train", str(tmp_path / "data"), "-m", "linear", "-e", "1", "-o", str(tmp_path / "run"), "--force"]
    err = typed(*args)[2]
    assert err.splitlines()[:5] == [
        f"Labels: ant_000.png -> ant (rule: prefix). Not right? Try `capture labels {tmp_path / 'data'}` or --labels",
        "2 classes: ant, bee",
        "Images: 13 train, 3 val; val is drawn from every class: --val-split SHARE changes how many, --val FOLDER takes others",
        "Skipped: 1 unsupported-extension (notes.txt)",
        "Inputs: 8x8, grey; all images have this size. Other choices: --img-size, --resize",
    ]
    assert "Labels" not in typed(*args, "-q")[2]
