"""What looks wrong in a folder is said, with the way on: subjects on both sides of the split, annotations of objects."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from capture_cli.errors import DataError
from capture_cli.labels import ReadingOptions, scan
from capture_cli.labels.splits import stratified_split
from capture_cli.labels.warnings import warnings
from capture_cli.sources.folder import FolderSource
from test_layouts import typed


@pytest.mark.parametrize("form", ["{subject}/{label}/{i}.png", "{label}/{subject}_{i}.png"])
def test_subjects_on_both_sides_are_warned_of(tmp_path: Path, form: str) -> None:
    """With a command that keeps them together; not where the subjects are the classes."""
    data = tmp_path / "data"
    for i in range(60):
        file = data / form.format(subject=f"patient{i % 6:03}", label=("cat", "dog")[i // 6 % 2], i=i)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = scan(FolderSource(str(data)), split=stratified_split(0.2))
    (warning,) = (text for text in warnings(found) if "patient" in text)
    assert "images of one patient are in both train and val" in warning
    (args,) = re.findall("`capture (.*)`", warning)
    code, out, _ = typed(*shlex.split(args), "--json")
    assert (code, json.loads(out)["warnings"]) == (0, [])
    people = scan(
        FolderSource(str(data)), split=stratified_split(0.2), reading=ReadingOptions(labels=".*(?P<label>patient[0-9]+)")
    )
    assert people.classes == [f"patient{i:03}" for i in range(6)]
    assert not any("both train and val" in text for text in warnings(people))


def warned(folder: Path, *args: str) -> str:
    """What `capture labels` says on stderr of a folder that it understands."""
    code, _, err = typed("labels", str(folder), *args)
    assert code == 0, err
    return err


def advised(text: str, name: str) -> list[str]:
    """The arguments of the command `capture NAME ...` in a text."""
    (args,) = re.findall(f"`capture ({name} [^`]*)`", text)
    return shlex.split(args)


def make(folder: Path, files: dict[str, str]) -> Path:
    """Files with their text; images are empty."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_subjects_in_some_paths_are_enough(tmp_path: Path) -> None:
    """As in the chest X-rays, where only the ill ones name a person; a few stray names are not."""
    ill = {f"train/PNEUMONIA/person{i // 3}_virus_{i}.jpeg": "" for i in range(90)}
    well = {f"train/NORMAL/IM-{i:04}-0001.jpeg": "" for i in range(90)}
    folder = make(tmp_path / "chest", ill | well)
    said = warned(folder)
    assert "images of one person are in both train and val" in said
    assert warned(Path(advised(said, "labels")[1]), *advised(said, "labels")[2:]) == ""
    assert warned(make(tmp_path / "stray", well | dict(list(ill.items())[:9]))) == ""


@pytest.mark.parametrize("column", ["lesion_id", "Patient ID", "subject", "localization"])
def test_subjects_in_a_table_are_warned_of(tmp_path: Path, column: str) -> None:
    """By the name of the column, with the command that keeps them together."""
    rows = [f"I_{i:04},{'mel' if i % 4 < 2 else 'nv'},S{i // 2:03}" for i in range(120)]
    table = "\n".join([f"image_id,dx,{column}", *rows])
    folder = make(tmp_path / "ham", {f"I_{i:04}.jpg": "" for i in range(120)} | {"t.csv": table})
    said = warned(folder, "--labels", "t.csv")
    if column == "localization":
        assert said == ""
        return
    assert f"images of one {column.split('_')[0].split()[0].lower()} are in both train and val" in said
    args = advised(said, "labels")
    assert args[2:] == ["--labels", "t.csv", "--group", column]
    assert warned(folder, *args[2:]) == ""


def test_a_table_with_the_labels_of_validation_images_is_named(tmp_path: Path) -> None:
    """As in Tiny ImageNet: with the columns, and a command that evaluates by it."""
    nets = ("n01443537", "n01629819")
    files = {f"train/{nets[i % 2]}/images/{nets[i % 2]}_{i}.JPEG": "" for i in range(20)}
    files |= {f"val/images/val_{i}.JPEG": "" for i in range(10)}
    files["val/val_annotations.txt"] = "".join(f"val_{i}.JPEG\t{nets[i % 2]}\t0\t0\t6{i % 3}\t62\n" for i in range(10))
    folder = make(tmp_path / "tiny", files)
    code, _, err = typed("labels", str(folder))
    table = f"{folder}/val/val_annotations.txt"
    assert (code, f"'{table}' has labels of the others: after the training, `capture evaluate last {folder}" in err) == (
        3,
        True,
    )
    args = advised(err, "evaluate")
    assert args == ["evaluate", "last", str(folder), "--labels", f"{table}:1,2"]
    found = scan(FolderSource(args[2]), split=stratified_split(0), reading=ReadingOptions(labels=args[4]), classes=nets)
    assert [nets[label] for label in found.labels] == [nets[i % 2] for i in range(10)]


@pytest.mark.parametrize("header", ["Width,ClassId,Path", "Width,Klasse,Path"])
def test_a_table_with_the_labels_of_test_images_is_named(tmp_path: Path, header: str) -> None:
    """As in GTSRB, when it is trained and when it is evaluated; sizes are no labels, nor is one value in all rows."""
    files = {f"Train/{i % 4}/{i % 4:05}_{i:05}.png": "" for i in range(40)} | {f"Test/{i:05}.png": "" for i in range(20)}
    rows = [f"{28 + i % 3},{i % 4},Test/{i:05}.png" for i in range(20)]
    constant = "id,label\n" + "".join(f"{i:05},1\n" for i in range(20))
    folder = make(tmp_path / "gtsrb", {**files, "Test.csv": "\n".join([header, *rows]), "sample.csv": constant})
    table = f"{folder}/Test.csv" + ":Path,Klasse" * ("Klasse" in header)
    said = warned(folder)
    assert f"'{folder}/Test.csv' has labels of the test images; after the training: " in said
    assert advised(said, "evaluate") == ["evaluate", "last", str(folder), "--labels", table]
    with pytest.raises(DataError, match=re.escape(f"a table has their labels: --labels {table}")):
        scan(
            FolderSource(str(folder)),
            split=stratified_split(0),
            reading=ReadingOptions(labels="parent"),
            classes=["0", "1", "2", "3"],
        )


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        (
            {"meta/train.txt": "pie/{i}", "meta/test.txt": "pie/{i}", "meta/classes.txt": "pie"},
            "'meta/test.txt', 'meta/train.txt'",
        ),
        ({"images.txt": "{i} pie/{i}.jpg", "train_test_split.txt": "{i} 1"}, "'train_test_split.txt'"),
        ({"train_log.txt": "epoch {i} loss"}, ""),
        ({"list.txt": "{i} 1 2"}, ""),
    ],
)
def test_lists_of_splits_are_named(tmp_path: Path, lists: dict[str, str], named: str) -> None:
    """As in Food-101 and CUB, where they name images; not where folders tell the splits."""
    images = {f"images/{('pie', 'sushi')[i % 2]}/{i}.jpg": "" for i in range(1000, 1040)}
    texts = {name: "\n".join(line.format(i=i) for i in range(1000, 1040, 2)) for name, line in lists.items()}
    said = warned(make(tmp_path / "food", images | texts))
    assert said.startswith(f"warning: {named} may tell the splits of these images") if named else said == ""
    told = {f"{split}/{name}": "" for name in images for split in ("train", "val")}
    assert warned(make(tmp_path / "told", told | texts)) == ""


def test_the_lines_of_the_docs_make_tables(tmp_path: Path) -> None:
    """Of the labels and splits that come with Tiny ImageNet, Food-101 and CUB-200."""
    page = (Path(__file__).parent.parent / "docs/labels.md").read_text("utf-8").partition("## Official labels")[2]
    lines = "\n".join(one for one in re.findall("```text\n(.*?)```", page, re.S)[0].split("\n\n") if " > " in one)
    files = {f"tiny/train/n0{i % 2}/images/n0{i % 2}_{i}.JPEG": "" for i in range(8)}
    files |= {f"tiny/val/images/val_{i}.JPEG": "" for i in range(4)}
    files["tiny/val/val_annotations.txt"] = "".join(f"val_{i}.JPEG\tn0{i % 2}\t0\t0\t62\t62\n" for i in range(4))
    dishes = [f"{('pie', 'sushi')[i % 2]}/{1000 + i}" for i in range(12)]
    files |= {f"food-101/images/{dish}.jpg": "" for dish in dishes}
    files |= {"food-101/meta/train.txt": "\n".join(dishes[:8]), "food-101/meta/test.txt": "\n".join(dishes[8:])}
    birds = [f"00{1 + i % 2}.Bird/Bird_{i:04}_7.jpg" for i in range(12)]
    files |= {f"cub/images/{bird}": "" for bird in birds}
    files["cub/images.txt"] = "".join(f"{i} {bird}\n" for i, bird in enumerate(birds, 1))
    files["cub/train_test_split.txt"] = "".join(f"{i} {int(i > 4)}\n" for i in range(1, 13))
    make(tmp_path, files)
    subprocess.run(["bash", "-euc", lines], cwd=tmp_path, check=True, timeout=60)
    counts = {}
    for name, folder in (("tiny", "tiny"), ("food", "food-101"), ("cub", "cub")):
        code, out, err = typed("labels", f"{tmp_path}/{folder}", "--labels", f"{tmp_path}/{name}.csv", "--json")
        assert (code, err.count("\n")) == (0, 1), err  # the rule alone, no warning
        counts[name] = [sum(one.get(split, 0) for one in json.loads(out)["classes"]) for split in ("train", "val", "test")]
    assert counts == {"tiny": [8, 4, 0], "food": [6, 2, 4], "cub": [6, 2, 4]}


def test_a_text_file_is_a_table_if_it_is_asked_for(tmp_path: Path) -> None:
    """With blanks, tabs or commas between its columns; it is found where names hold no label, unlike records of a run."""
    files = {f"jpg/{i}.jpg": "" for i in range(1000, 1020)}
    files["list.txt"] = "".join(f"jpg/{i}.jpg  {i % 2} 0 0 \n" for i in range(1000, 1020))
    files["mine.jsonl"] = "".join(f'{{"seq":{i},"kind":"batch","label":"{i % 2}"}}\n' for i in range(1000, 1020))
    folder = make(tmp_path / "flat", files)
    code, _, err = typed("labels", str(folder))
    assert (code, f"use `capture labels {folder} --labels {folder}/list.txt:1,2`" in err, "jsonl" in err) == (3, True, False)
    code, out, _ = typed("labels", str(folder), "--labels", "list.txt:1,2", "--json")
    assert (code, [one["name"] for one in json.loads(out)["classes"]]) == (0, ["0", "1"])


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("labels/train/{}.txt", "0 0.5 0.5 0.2 0.2\n", "YOLO boxes"),
        ("instances_train2017.json", "{}", "COCO annotations"),
        ("annotations/{}.xml", "<annotation><object></object></annotation>", "Pascal VOC annotations"),
        ("captions/{}.txt", "a red boot\n", ""),
    ],
)
def test_object_detection_is_told(tmp_path: Path, file: str, text: str, name: str) -> None:
    """Boxes are no labels of whole images; texts that hold none are not taken for them."""
    for i in range(20):
        for path, content in ((f"images/train/{i:06}.png", ""), (file.format(f"{i:06}"), text)):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
    code, _, err = typed("labels", str(tmp_path))
    assert code == 3
    assert ("this looks like object detection" in err, name in err) == (bool(name), True)
