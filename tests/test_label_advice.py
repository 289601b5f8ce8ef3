"""What looks wrong in a folder is said, with the way on: subjects on both sides of the split, annotations of objects."""

import json
import re
import shlex
from pathlib import Path

import pytest

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
