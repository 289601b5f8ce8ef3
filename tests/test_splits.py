"""Splits: the share of each class, a folder for validation, and groups that stay on one side."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from calling import called
from capture_cli.errors import UsageError
from capture_cli.labels import ReadingOptions, Scan
from capture_cli.labels.warnings import warnings
from conftest import make_images
from test_folder import refusal, scan, split_of, touch
from test_layouts import typed


def scanned(folder: Path, share: float = 0.25, **options: str) -> Scan:
    return scan(folder, val_split=share, **options)


def test_adding_a_file_moves_at_most_one_other_of_its_class(tmp_path: Path) -> None:
    """Shares of classes are kept, and nothing else moves; a class that is added moves no image of another."""
    touch(tmp_path, [f"{name}_{i}.png" for name in ("cat", "dog") for i in range(30)])
    splits = split_of(scan(tmp_path))
    for name in [f"cat_{i}.png" for i in range(30, 60)]:
        touch(tmp_path, [name])
        after = split_of(scan(tmp_path))
        moved = [file for file, split in splits.items() if after[file] != split]
        assert len(moved) <= 1
        assert all(file.startswith("cat") for file in moved)
        splits = after
    touch(tmp_path, [f"fox_{i}.png" for i in range(100)])
    after = split_of(scan(tmp_path))
    assert {file: after[file] for file in splits} == splits


def test_every_class_of_two_images_or_more_is_validated(tmp_path: Path) -> None:
    """The share of each class is rounded down or up, to one image at least."""
    touch(tmp_path, [f"{name}{'x' * n}_{i}.png" for name in ("cat", "dog") for n in range(40) for i in range(n + 2)])
    for c in scan(tmp_path).per_class():
        assert abs(c.val - max(1, 0.2 * (c.train + c.val))) < 1
        assert c.train >= 1


def test_splits_are_pinned(tmp_path: Path) -> None:
    """A new version must not move images between splits: these were written down once."""
    touch(tmp_path, [f"cat_{i}.png" for i in range(10)] + [f"dog_{i}.png" for i in range(10)])
    val = [file for file, split in split_of(scan(tmp_path)).items() if split == "val"]
    assert val == ["cat_3.png", "cat_9.png", "dog_5.png", "dog_7.png"]


def test_the_share_of_val_is_what_was_asked_for(tmp_path: Path) -> None:
    """2,000 images: within four standard deviations, and a larger share only adds to a smaller one."""
    touch(tmp_path, [f"{name}_{i}.png" for name in ("cat", "dog") for i in range(1000)])
    previous: set[str] = set()
    for share in (0.0, 0.1, 0.2, 0.5, 0.9):
        found = scan(tmp_path, val_split=share)
        val = {f for f, s in zip(found.files, found.splits, strict=True) if s == "val"}
        assert abs(len(val) - 2000 * share) <= 4 * (2000 * share * (1 - share)) ** 0.5
        assert previous <= val
        previous = val


def test_every_class_keeps_a_training_image(tmp_path: Path) -> None:
    """One alone where val_split would take them all; of the others none is moved."""
    touch(tmp_path, [f"{name}_{i}.png" for name in ("cat", "dog", "fox") for i in range(3)] + ["one_1.png"])
    found = scan(tmp_path, val_split=0.9999999)
    assert [(c.name, c.train, c.val) for c in found.per_class()] == [("cat", 1, 2), ("dog", 1, 2), ("fox", 1, 2), ("one", 1, 0)]
    assert warnings(found) == ["1 class has a single image, used for training and never validated: 'one'"]
    lower = scan(tmp_path, val_split=0.5)
    kept = {f for f, s in zip(found.files, found.splits, strict=True) if s == "train"}
    assert kept <= {f for f, s in zip(lower.files, lower.splits, strict=True) if s == "train"}


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_wrong_usage(tmp_path: Path, share: float) -> None:
    """All for validation leaves nothing to train on."""
    assert f"--val-split {share} is not valid; choose a share from 0 up to" in refusal(tmp_path, UsageError, val_split=share)


def test_split_folders_decide_the_splits(tmp_path: Path) -> None:
    """The class is what is left of the path; test images are skipped with their label, and nothing is divided anew."""
    touch(
        tmp_path, [f"{split}/{name}/{i}.png" for split in ("train", "Val", "test") for name in ("cat", "dog") for i in range(3)]
    )
    found = scan(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert [(c.name, c.train, c.val, c.test) for c in found.per_class()] == [("cat", 3, 3, 3), ("dog", 3, 3, 3)]
    assert split_of(found)["Val/cat/1.png"] == "val"
    assert ("test/cat/0.png", "test-split", "cat") in found.skipped
    assert warnings(found) == []


def test_split_folders_may_be_pooled_or_ignored(tmp_path: Path) -> None:
    """Pooled: divided by hash; ignored: folders like any other."""
    touch(tmp_path, [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(10)])
    assert Counter(scan(tmp_path, split_folders="pool").splits) == {"train": 32, "val": 8}
    assert scan(tmp_path, split_folders="ignore", labels="folder:1").classes == ["test", "train"]
    assert "--split-folders maybe is not valid; choose use, pool or ignore" in refusal(
        tmp_path, UsageError, split_folders="maybe"
    )


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


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("parent", "--group makes only 2 groups of them; choose smaller groups, several for each class"),
        ("png", "--group makes one group of all; choose smaller groups, several for each class"),
    ],
)
def test_groups_that_leave_no_validation_images_are_named(tmp_path: Path, group: str, said: str) -> None:
    """By `labels` and by `train`, which say that groups are the reason; not where no validation is asked for."""
    touch(tmp_path, PATIENTS)
    text = f"none of the 100 images is held out for validation: {said}"
    args = (str(tmp_path), "--labels", "parent", "--group", group)
    code, out, err = typed("labels", *args, "--json")
    assert (code, f"warning: {text}\n" in err) == (0, True)
    assert json.loads(out)["warnings"] == [text]
    assert "held out for validation" not in typed("labels", *args, "--val-split", "0")[2]
    make_images(tmp_path / "images", classes=2)
    trained = called("train", "images", "--group", group.replace("parent", "prefix"), "-m", "linear", "-n", cwd=tmp_path)
    assert f"warning: none of the 16 images is held out for validation: {said}\n" in trained.stderr


def test_classes_that_groups_keep_from_validation_are_named(tmp_path: Path) -> None:
    """Those of a single group, where others have several."""
    touch(tmp_path, [*PATIENTS, *(f"rare/P77_{i}.png" for i in range(5))])
    err = typed("labels", str(tmp_path), "--labels", "parent", "--group", "P[0-9]+")[2]
    assert "warning: 1 class has no validation images, as --group keeps its groups on one side: 'rare'\n" in err
    assert "no validation images" not in typed("labels", str(tmp_path), "--labels", "parent")[2]


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
