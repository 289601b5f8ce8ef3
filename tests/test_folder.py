"""A folder becomes images, labels and splits; every entry of it is used or skipped with a reason."""

import os
import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_cli.config import TrainConfig
from capture_cli.errors import CaptureError, DataError, UsageError
from capture_cli.labels import ReadingOptions, Scan
from capture_cli.labels import scan as scan_source
from capture_cli.labels.splits import single_split, stratified_split
from capture_cli.labels.warnings import warnings
from capture_cli.sources.folder import FolderSource


def scan(folder: Path, *, val_split: float = TrainConfig.val_split, **options: Any) -> Scan:
    """Scan a folder as `capture train` does, or as `capture evaluate` where `classes` are given."""
    split = single_split("test") if "classes" in options else stratified_split(val_split)
    classes = options.pop("classes", None)
    with FolderSource(folder) as source:
        return scan_source(source, split=split, reading=ReadingOptions(**options), classes=classes)


def touch(folder: Path, names: Iterable[str]) -> Path:
    """Empty files: a scan opens none."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def labelled(found: Scan) -> dict[str, str]:
    return {file: found.classes[label] for file, label in zip(found.files, found.labels, strict=True)}


def split_of(found: Scan) -> dict[str, str]:
    return dict(zip(found.files, found.splits, strict=True))


def reasons(found: Scan) -> dict[str, str]:
    return {skip.file: skip.reason for skip in found.skipped}


def refusal(folder: Path, kind: type[CaptureError] = DataError, **options: object) -> str:
    """Message and hint of the error that a scan ends with."""
    with pytest.raises(kind) as caught:
        scan(folder, **options)  # type: ignore[arg-type]
    assert caught.value.hint, "every error names the way out"
    return f"{caught.value.message}; {caught.value.hint}"


def test_sub_folders_are_searched_and_classes_are_in_natural_order(tmp_path: Path) -> None:
    """Files by their paths with /, numbers by value; labels are indices into the classes."""
    touch(tmp_path, ["10/1.png", "2/10.JPG", "2/deep/2/9.jpeg", "9/1.webp", "9/2.bmp", "9/3.gif"])
    found = scan(tmp_path)
    assert found.files == ["2/10.JPG", "2/deep/2/9.jpeg", "9/1.webp", "9/2.bmp", "9/3.gif", "10/1.png"]
    assert found.classes == ["2", "9", "10"]
    assert found.labels == [0, 0, 1, 1, 1, 2]
    assert (found.rule.name, found.rule.why) == ("parent", "the images are in 4 subfolders")
    assert found.skipped == []


def test_globs_choose_files(tmp_path: Path) -> None:
    """By path, by name and by folder; what is not chosen is skipped by name, and a pattern without a match is an error."""
    touch(tmp_path, [f"{name}/{i}{old}.png" for name in ("cat", "dog", "fox") for i in range(3) for old in ("", "_old")])
    found = scan(tmp_path, include=["cat", "dog/*"], exclude=["*_old.png"])
    assert labelled(found) == {f"{name}/{i}.png": name for name in ("cat", "dog") for i in range(3)}
    assert Counter(reasons(found).values()) == {"excluded": 12}
    assert "--include cow/* matches none of 18 images, such as 'cat/0.png'" in refusal(tmp_path, include=["cow/*"])


def test_masks_are_skipped_and_can_be_kept(tmp_path: Path) -> None:
    """With the image that each belongs to."""
    touch(tmp_path, [f"{name}/{i}{mask}.png" for name in ("cat", "dog") for i in range(3) for mask in ("", "_mask")])
    found = scan(tmp_path)
    assert ("cat/0_mask.png", "companion", "mask of 0.png") in found.skipped
    assert (len(found.files), len(scan(tmp_path, keep_companions=True).files)) == (6, 12)


def test_one_class_and_files_that_may_hold_labels_are_named(tmp_path: Path) -> None:
    """A folder of one class says so; without any label, a file that may hold them is pointed to."""
    touch(tmp_path / "one", [f"cat/{i}.png" for i in range(12)])
    assert refusal(tmp_path / "one").startswith("only one class: all 12 images are of 'cat' by their names; ")
    touch(tmp_path / "none", [f"image_{i:05d}.jpg" for i in range(12)] + ["imagelabels.mat"])
    assert "; if 'imagelabels.mat' holds the labels, convert to a table; or put the images" in refusal(tmp_path / "none")


def test_similar_names_are_merged_on_request(tmp_path: Path) -> None:
    """Under the most frequent spelling."""
    touch(tmp_path, ["Cat/1.png", "cat/1.png", "cat/2.png", "dog /1.png", "dog/2.png", "dog/3.png"])
    assert scan(tmp_path).classes == ["Cat", "cat", "dog", "dog "]
    assert scan(tmp_path, merge_names=True).classes == ["cat", "dog"]
    touch(
        tmp_path / "split",
        [
            f"{split}/{name}/{i}.png"
            for split, names in (("train", ("Cat", "Dog")), ("val", ("cat", "dog")))
            for name in names
            for i in range(9)
        ],
    )
    assert "; --merge-names ignores case, spaces and Unicode form; the training images have 'Cat', 'Dog'" in refusal(
        tmp_path / "split"
    )
    assert [(c.train, c.val) for c in scan(tmp_path / "split", merge_names=True).per_class()] == [(9, 9), (9, 9)]


def test_other_entries_are_skipped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden entries, links, FIFOs, sockets, folders that look like files, other extensions, run folders."""
    touch(
        tmp_path, ["cat_1.png", "dog_1.png", ".hidden_1.png", ".git/cat_2.png", "notes.txt", "x_1.png/cat_3.png", "cat_4.png\n"]
    )
    touch(tmp_path, ["runs/one/records.jsonl", "runs/one/events.jsonl", "runs/one/inputs/cat_5.png", "runs/records.jsonl"])
    os.mkfifo(tmp_path / "cat_6.png")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("cat_7.png")
    (tmp_path / "cat_8.png").symlink_to("cat_1.png")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "loop").symlink_to(".")
    found = scan(tmp_path)
    assert labelled(found) == {"cat_1.png": "cat", "dog_1.png": "dog"}
    assert reasons(found) == {
        ".hidden_1.png": "hidden",
        ".git/": "hidden",
        "notes.txt": "unsupported-extension",
        "x_1.png/": "not-a-regular-file",
        "cat_4.png\n": "unsupported-extension",
        "runs/one/": "run-folder",
        "runs/records.jsonl": "unsupported-extension",
        "cat_6.png": "not-a-regular-file",
        "cat_7.png": "not-a-regular-file",
        "cat_8.png": "symlink",
        "nowhere": "symlink",
        "loop": "symlink",
    }
    assert [skip.file for skip in found.skipped] == sorted(reasons(found))


def test_a_run_folder_that_is_named_itself_is_searched(tmp_path: Path) -> None:
    """Run folders are skipped only below the folder that was named; images may lie beside the records of their own run."""
    touch(tmp_path, ["records.jsonl", "events.jsonl", "cat_1.png", "dog_1.png"])
    assert scan(tmp_path).classes == ["cat", "dog"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A train is a thing that is photographed; that it may be a split is said."""
    touch(tmp_path, [f"{name}/{i}.png" for name in ("bus", "train") for i in range(2)])
    found = scan(tmp_path)
    assert found.classes == ["bus", "train"]
    (said,) = warnings(found)
    assert "'train' may be splits: here they are classes" in said


def test_folders_called_train_and_test_are_no_classes(tmp_path: Path) -> None:
    """Unless the user says so: what is beside them, such as more images for training, does not make them classes."""
    touch(tmp_path, [f"{name}/{i}.png" for name in ("extra", "test", "train") for i in range(20)])
    with pytest.raises(DataError, match="no label") as caught:
        scan(tmp_path)
    assert "--split-folders ignore" in caught.value.hint
    assert scan(tmp_path, split_folders="ignore").classes == ["extra", "test", "train"]


def test_a_link_to_a_folder_outside_is_not_followed(tmp_path: Path) -> None:
    """Its images are not ours, and the link is named."""
    touch(tmp_path / "outside", ["fox_1.png"])
    touch(tmp_path / "photos", ["cat_1.png", "dog_1.png"])
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "outside")
    found = scan(tmp_path / "photos")
    assert found.classes == ["cat", "dog"]
    assert reasons(found) == {"more": "symlink"}


def test_a_folder_that_cannot_be_listed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its errno; files without any permission are listed all the same, since nothing is opened."""
    touch(tmp_path, ["cat_1.png", "dog_1.png", "shut/cat_2.png"])
    (tmp_path / "cat_1.png").chmod(0)
    (tmp_path / "shut").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        found = scan(Path())
    finally:
        if root:
            os.seteuid(0)
        (tmp_path / "shut").chmod(0o755)
    assert found.files == ["cat_1.png", "dog_1.png"]
    assert [(skip.file, skip.reason, skip.detail) for skip in found.skipped] == [("shut/", "unreadable", "EACCES")]


NAMES = st.binary(min_size=1, max_size=40).map(lambda b: b.translate(None, b"/\0"))


@settings(max_examples=60, deadline=None)
@given(st.sets(NAMES.filter(lambda b: b not in (b"", b".", b"..")), max_size=8))
def test_every_name_is_an_image_or_a_skip_and_can_be_read(names: set[bytes]) -> None:
    """Random bytes as names: each is there once, its path is exactly those bytes, and the source reads the file by it."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        images = {b"cat_1.png", b"dog_2.png"} | {name + b"_7.png" for name in names}
        for name in images | names:
            (folder / os.fsdecode(name)).write_bytes(name)
        found = scan(folder, labels="prefix", unmatched="skip")
        listed = found.files + [skip.file for skip in found.skipped]
        assert sorted(file.encode("utf-8", "surrogateescape") for file in listed) == sorted(images | names)
        with FolderSource(folder) as source:
            for file in listed:
                assert source.read(file) == file.encode("utf-8", "surrogateescape")


def test_similar_names_are_two_files_of_two_classes(tmp_path: Path) -> None:
    """Names that differ only in case or in Unicode normal form are kept apart, with a warning."""
    touch(tmp_path, ["caf\u00e9_1.png", "cafe\u0301_1.png", "Dog_1.png", "dog_1.png", "dog_2.png"])
    found = scan(tmp_path)
    assert set(found.classes) == {"caf\u00e9", "cafe\u0301", "Dog", "dog"}
    said = " ".join(warnings(found))
    assert "differ only in case, spaces or Unicode form: 'Dog', 'dog'" in said
    assert said.count("differ only") == 2


def test_paths_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    """In a locale without UTF-8 Python decodes names otherwise; the records must not differ."""
    touch(tmp_path, ["caf\u00e9_1.png", "dog_1.png", os.fsdecode(b"fox\xff_1.png")])
    code = (
        "import sys; from capture_cli.sources.folder import FolderSource\n"
        "print(ascii(sorted(FolderSource(sys.argv[1]).list().files)))"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    outputs = {
        subprocess.run([sys.executable, "-c", code, tmp_path], env=os.environ | more, capture_output=True, check=True).stdout
        for more in ({"PYTHONUTF8": "1"}, plain)
    }
    assert outputs == {rb"['caf\xe9_1.png', 'dog_1.png', 'fox\udcff_1.png']" + b"\n"}


def test_the_same_names_give_the_same_scan(tmp_path: Path) -> None:
    """In whatever order the files were made."""
    names = [f"{name}/{name}_{i}.png" for name in ("ant", "bee", "caf\u00e9") for i in range(12)] + ["notes.txt", "a.md", ".x"]
    scans = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        touch(folder, random.Random(seed).sample(names, len(names)))
        found = scan(folder)
        scans.append((found.files, found.labels, found.classes, found.splits, found.skipped, found.rule.name))
    assert scans[0] == scans[1] == scans[2]


def test_classes_may_be_given(tmp_path: Path) -> None:
    """For a trained model: its order of classes holds, one class is enough, and every image is of the split `test`."""
    touch(tmp_path, ["cat_1.png", "cat_2.png"])
    found = scan(tmp_path, labels="prefix", classes=["dog", "cat"])
    assert (found.classes, found.labels, found.splits) == (["dog", "cat"], [1, 1], ["test", "test"])
    assert warnings(found) == []
    assert [(c.name, c.test, c.example) for c in found.per_class()] == [("dog", 0, None), ("cat", 2, "cat_1.png")]


def test_classes_that_a_model_does_not_know_are_named(tmp_path: Path) -> None:
    """An error, or skipped where that was asked for; but not all of them."""
    touch(tmp_path, ["cat_1.png", "dog_1.png", "fox_1.png", "fox_2.png"])
    told = refusal(tmp_path, labels="prefix", classes=["cat", "cow"])
    assert told.startswith("3 of 4 images have a label that the model does not know: 'dog', 'fox'; it knows 'cat', 'cow'")
    found = scan(tmp_path, labels="prefix", classes=["cat", "cow"], unmatched="skip")
    assert found.files == ["cat_1.png"]
    assert next((skip.file, skip.reason, skip.detail) for skip in found.skipped) == ("dog_1.png", "unknown-class", "dog")
    assert "4 of 4 images" in refusal(tmp_path, labels="prefix", classes=["cow"], unmatched="skip")


def test_names_that_do_not_fit_are_counted_and_five_are_named(tmp_path: Path) -> None:
    """An error with both ways out; skipped with --unmatched skip."""
    touch(
        tmp_path,
        [f"cat_{i}.png" for i in range(4)] + [f"dog_{i}.png" for i in range(4)] + [f"odd{'x' * i}.png" for i in range(7)],
    )
    told = refusal(tmp_path, labels="prefix")
    assert "the rule prefix finds no label in 7 of 15 images: 'odd.png', 'oddx.png', " in told
    assert "'oddxxxx.png' and 2 more" in told
    assert "--unmatched skip" in told
    assert "--labels field:1 --unmatched skip` (9 classes)" not in told
    found = scan(tmp_path, labels="prefix", unmatched="skip")
    assert len(found.files) == 8
    assert Counter(skip.reason for skip in found.skipped) == {"no-label": 7}
    assert "the rule field:7 finds no label in any of 15 images" in refusal(tmp_path, labels="field:7", unmatched="skip")
    assert "--unmatched perhaps is not valid; choose error or skip" in refusal(tmp_path, UsageError, unmatched="perhaps")


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    """The message names the rule and the one class, the hint the rules that find more."""
    touch(tmp_path, ["a/cat_1.png", "a/cat_2.png", "a/cat_2_3.png"])
    told = refusal(tmp_path, labels="parent")
    assert told.startswith("only one class: the rule parent labels 3 images, all 'a'; choose another rule: ")
    assert "--labels field:2` (2 classes)" in told
    (tmp_path / "b").mkdir()
    touch(tmp_path / "b", ["cat_9.png"])
    assert scan(tmp_path).classes == ["a", "b"]
    touch(tmp_path / "c", ["x.png"])
    assert "put the images of each class into a folder of its own" in refusal(tmp_path / "c", labels="(?P<label>x)")


def test_an_empty_folder_and_one_without_images_are_told_apart(tmp_path: Path) -> None:
    """With what was found instead."""
    told = refusal(tmp_path)
    assert told.startswith(f"'{tmp_path}' is empty; put images into it: .png, .jpg")
    touch(tmp_path, ["a.txt", "b.txt", ".x"])
    (tmp_path / "link.png").symlink_to("a.txt")
    told = refusal(tmp_path)
    assert f"no images in '{tmp_path}'; skipped: 2 unsupported-extension, 1 hidden, 1 symlink, such as " in told
    assert "image names end in .png" in told


def test_no_such_folder_is_wrong_usage(tmp_path: Path) -> None:
    """As a file in its place is."""
    assert "no such folder: '" in refusal(tmp_path / "none", UsageError)
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(tmp_path / "file", UsageError)


def test_a_running_number_taken_for_the_label_is_pointed_out(tmp_path: Path) -> None:
    """Every image a class of its own is allowed (image_3.png is of class 3) and rarely meant."""
    touch(tmp_path, [f"sample_{i:03d}_{'xyz'[i % 3]}.png" for i in range(9)])
    said, unvalidated = warnings(scan(tmp_path, labels="field:2"))
    assert unvalidated == "none of the 9 images is held out for validation: each class has a single one"
    assert said.startswith("every class has a single image: is '000' the label of 'sample_000_x.png', or a running number?")
    assert "--labels field:3` (3 classes)" in said
    assert scan(tmp_path).rule.name == "field:3"


def test_levels_of_folders_that_cross_are_refused(tmp_path: Path) -> None:
    """cat/a and dog/a: the command that the error offers takes cat and dog; asked for, a and b come with a warning."""
    touch(tmp_path, [f"{top}/{below}/{i}.png" for top in ("cat", "dog") for below in "ab" for i in range(2)])
    told = refusal(tmp_path)
    assert told.startswith("2 rules fit equally well: parent (2 classes: a, b); folder:1 (2 classes: cat, dog); choose one: ")
    assert scan(tmp_path, labels="folder:1").classes == ["cat", "dog"]
    (said,) = warnings(scan(tmp_path, labels="parent"))
    assert said.startswith("folders with the same name are one class: 'cat/a', 'dog/a' (and 1 more name); ")


def test_the_example_shows_the_rule_at_work(tmp_path: Path) -> None:
    """The first file, its label and the rule that read it."""
    touch(tmp_path, ["cat_1.png", "dog_1.png"])
    assert scan(tmp_path).example == "cat_1.png -> cat (rule: prefix)"
    assert scan(tmp_path, labels="field:1").example == "cat_1.png -> cat (rule: field:1)"


def test_a_source_is_opened_once_and_may_be_moved(tmp_path: Path) -> None:
    """It stays open between reads, as a folder that is renamed during a run shows, and opens again after `close`."""
    touch(tmp_path / "old", ["cat_1.png"])
    source = FolderSource(tmp_path / "old")
    before = len(list(Path("/dev/fd").iterdir()))
    assert source.list().files == ["cat_1.png"]
    (tmp_path / "old").rename(tmp_path / "new")
    assert [source.read("cat_1.png") for _ in range(3)] == [b""] * 3
    assert len(list(Path("/dev/fd").iterdir())) == before + 1
    source.close()
    source.close()
    assert len(list(Path("/dev/fd").iterdir())) == before
    with pytest.raises(UsageError, match="no such folder"):
        source.read("cat_1.png")
    assert source.location == str(tmp_path / "old")


def test_a_class_called_like_changed_copies_is_said(tmp_path: Path) -> None:
    """Augmented copies that someone wrote beside the originals; where all classes are called so, they are meant."""
    touch(tmp_path / "some", [f"{name}_{i}.png" for name in ("cat", "dog", "aug_0") for i in range(10)])
    assert any("the class 'aug' sounds like altered copies" in text for text in warnings(scan(tmp_path / "some")))
    touch(tmp_path / "digits", [f"{name}/{i}.png" for name in ("0", "1", "ten") for i in range(10)])
    assert not any("altered copies" in text for text in warnings(scan(tmp_path / "digits", labels="parent")))
    touch(tmp_path / "all", [f"{name}/{i}.png" for name in ("rotated", "flipped") for i in range(10)])
    assert not any("altered copies" in text for text in warnings(scan(tmp_path / "all", labels="parent")))
