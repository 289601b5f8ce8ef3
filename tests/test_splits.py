"""Splits: a folder for validation, and groups that stay on one side."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from capture_cli.errors import UsageError
from capture_cli.labels import ReadingOptions, Scan, scan
from capture_cli.labels.splits import stratified_split
from capture_cli.sources.folder import FolderSource
from conftest import make_images
from test_layouts import typed


def touch(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def scanned(folder: Path, share: float = 0.25, **options: str) -> Scan:
    with FolderSource(folder) as source:
        return scan(source, split=stratified_split(share), reading=ReadingOptions(**options))  # type: ignore[arg-type]


PATIENTS = [
    f"{name}/P{patient:02d}_{i}.png" for name in ("ill", "well") for patient in range(20) for i in range(1 + patient % 4)
]


@pytest.mark.parametrize("group", ["P[0-9]+", "(?P<group>P[0-9]+)_", "/(P[0-9]+)_", "field:1"])
def test_a_group_stays_on_one_side(tmp_path: Path, group: str) -> None:
    """By what a regular expression matches, by its group, or by a rule; each class keeps about its share."""
    found = scanned(touch(tmp_path, PATIENTS), group=group, labels="parent")
    sides = defaultdict(set)
    for file, split in zip(found.files, found.splits, strict=True):
        sides[file.partition("/")[2].partition("_")[0]].add(split)
    assert {len(splits) for splits in sides.values()} == {1}
    assert 0.1 < found.splits.count("val") / len(found.files) < 0.4


def test_a_column_of_the_table_groups(tmp_path: Path) -> None:
    """--group patient, where the label table has a column of this name."""
    names = [f"{i:03d}.png" for i in range(40)]
    lines = [f"{name},{'ab'[i % 2]},p{i // 4}" for i, name in enumerate(names)]
    touch(tmp_path / "data", names)
    (tmp_path / "t.csv").write_text("\n".join(["file,label,patient", *lines]))
    found = scanned(tmp_path / "data", labels=str(tmp_path / "t.csv"), group="patient")
    sides = defaultdict(set)
    for file, split in zip(found.files, found.splits, strict=True):
        sides[int(file[:3]) // 4].add(split)
    assert {len(splits) for splits in sides.values()} == {1}
    assert set(found.splits) == {"train", "val"}


def test_groups_that_match_nothing_or_are_no_pattern_are_errors(tmp_path: Path) -> None:
    """Before any work, with an example."""
    touch(tmp_path, PATIENTS)
    code, _, err = typed("labels", str(tmp_path), "--group", "case_[0-9]+")
    assert code == 3
    assert "--group case_[0-9]+ finds no group in any of 100 images, such as 'ill/P00_0.png'; give a regular expression" in err
    with pytest.raises(UsageError, match=r"--group \( is not a regular expression"):
        ReadingOptions(group="(")


def test_groups_in_both_splits_of_folders_are_reported(tmp_path: Path) -> None:
    """Folders decide, and the leak is named."""
    touch(
        tmp_path,
        [f"{split}/{name}/P{p}_{i}.png" for split in ("train", "val") for name in "ab" for p in range(2) for i in range(3)],
    )
    err = typed("labels", str(tmp_path), "--group", "P[0-9]+")[2]
    assert "warning: 2 groups are in both train and val: 'P0', 'P1'" in err


@pytest.mark.parametrize("places", [("data/train", "data/val"), ("data", "data/extra/held"), ("one", "two")])
def test_a_folder_for_validation(tmp_path: Path, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the training images, in their folder, or anywhere; records name files below the folder that holds both."""
    monkeypatch.chdir(tmp_path)
    main, val = places
    make_images(Path(main), classes=2)
    for name in ("ant", "bee"):
        make_images(Path(val) / name, classes=1, each=3)
        for file in (Path(val) / name).iterdir():
            file.rename(Path(val) / f"{name}_{file.stem[4:]}.png")
        (Path(val) / name).rmdir()
    code, _, err = typed("train", main, "--val", val, "-m", "linear", "-e", "1", "-q", "-o", "run")
    assert code == 0, err
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    assert records[0]["images"] | {"listing_digest": ""} == {"train": 16, "val": 6, "listing_digest": ""}
    assert not Path(records[0]["folder"]).is_absolute()
    samples = [file for one in records if one["kind"] == "samples" for file in one["files"]]
    assert all((Path(records[0]["folder"]) / file).is_file() for file in samples)
    assert Counter(split for one in records if one["kind"] == "samples" for split in one["splits"]) == {"train": 16, "val": 6}
    assert typed("replay", "run", "--folder", records[0]["folder"])[0] == 0
    code, _, err = typed("train", "--resume", "run", main, "--val", val, "-e", "2", "-q")
    assert code == 0, err


def test_a_folder_for_validation_that_cannot_be_meant(tmp_path: Path) -> None:
    """Missing, empty, or the training folder itself."""
    make_images(tmp_path / "data", classes=2)
    (tmp_path / "empty").mkdir()
    for val, text in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "no images in --val"),
        (tmp_path, "holds the training"),
    ):
        code, _, err = typed("labels", str(tmp_path / "data"), "--val", str(val))
        assert code in (2, 3)
        assert text in err
