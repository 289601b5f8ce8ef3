"""The corrected table of a run trains again on the same splits, and `capture evaluate` reads it for the test images."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from calling import called
from conftest import make_images

SPLITS = {"train": 20, "test": 6}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train` and `test`, two runs of it, one with folds, and their corrected tables."""
    folder = tmp_path_factory.mktemp("corrected")
    for split, each in SPLITS.items():
        make_images(folder / "images" / split, classes=3, each=each)
    for name, options in (("run", ["-e", 3]), ("folds", ["-e", 1, "--folds", 2])):
        assert called("train", "images", "-m", "linear", "-q", "-o", name, *options, cwd=folder).returncode == 0
        assert called("suspects", name, "--labels-out", f"{name}.csv", cwd=folder).returncode == 0
    return folder


def splits_of(table: Path) -> Counter[str]:
    with table.open(newline="") as rows:
        return Counter(row["split"] for row in csv.DictReader(rows))


def test_the_table_of_a_run_has_its_splits(trained: Path) -> None:
    """Drawn, or told by folders, the test images too; training by it, the same images are for validation."""
    drawn = called("labels", "images", "--json", cwd=trained).stdout
    again = called("labels", "images", "--labels", "run.csv", "--json", cwd=trained).stdout
    sides = [
        {split: sum(one[split] for one in json.loads(text)["classes"]) for split in ("train", "val", "test")}
        for text in (drawn, again)
    ]
    assert sides[0] == sides[1] == splits_of(trained / "run.csv")
    records = map(json.loads, (trained / "run/records.jsonl").read_text().splitlines())
    samples = [one for one in records if one["kind"] == "samples"]
    recorded = {file: split for one in samples for file, split in zip(one["files"], one["splits"], strict=True)}
    with (trained / "run.csv").open(newline="") as rows:
        assert recorded.items() <= {row["file"]: row["split"] for row in csv.DictReader(rows)}.items()


def test_the_table_of_folds_keeps_the_test_images_apart(trained: Path) -> None:
    """The others have no split, for each was held out once."""
    assert splits_of(trained / "folds.csv") == {"": 60, "test": 18}


def test_evaluate_reads_the_table_that_the_model_was_trained_with(trained: Path) -> None:
    """Its test images, without an option; a table that has changed, or gone, is named."""
    trained_by = called("train", "images", "--labels", "run.csv", "-m", "linear", "-e", 1, "-q", "-o", "again", cwd=trained)
    assert trained_by.returncode == 0
    assert called("evaluate", "again", "images", "-q", cwd=trained).stdout.endswith("images 18\n")
    make_images(trained / "others", classes=3, each=2)
    others = called("evaluate", "again", "others", "-q", cwd=trained)
    assert others.returncode == 2  # though the names of the images are in the table
    assert "came from the table 'run.csv', which is of other images; name a table of these" in others.stderr
    table = trained / "run.csv"
    table.write_text(table.read_text() + "\n")
    changed = called("evaluate", "again", "images", "-q", cwd=trained)
    assert changed.returncode == 2
    assert "the table 'run.csv', which has changed since; use it as it is with --labels run.csv" in changed.stderr
    assert called("evaluate", "again", "images", "-q", "--labels", "run.csv", cwd=trained).returncode == 0
    table.rename(trained / "moved.csv")
    assert "'run.csv', which is not here; name where it is now" in called("evaluate", "again", "images", cwd=trained).stderr
