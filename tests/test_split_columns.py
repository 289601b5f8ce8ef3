"""Columns of label tables that tell splits: followed, or refused where a value names no split; never dropped in silence."""

import json
from pathlib import Path

import pytest

from calling import called
from test_layouts import typed

NAMES = [f"{i}.png" for i in range(12)]


def told(folder: Path, header: str, cells: list[str], *, columns: str = "") -> tuple[int, list[str], str]:
    """Label twelve images by a table with one cell more a row; return the exit code, their splits and stderr."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in NAMES:
        (images / name).touch()
    rows = [f"{name},{'ab'[i % 2]},{cells[i * len(cells) // 12]}" for i, name in enumerate(NAMES)]
    (folder / "t.csv").write_text("\n".join([header, *rows]))
    table = f"{folder / 't.csv'}{columns}"
    code, out, err = typed("labels", str(images), "--labels", table, "--files")
    lines = [json.loads(line) for line in out.splitlines()]
    lines.sort(key=lambda line: NAMES.index(line["file"]))
    return code, [line.get("split", line.get("skipped")) for line in lines], err


@pytest.mark.parametrize("column", ["split", "Usage", "data_split", "SplitName"])
@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("TRAIN", "train"),
        ("training set", "train"),
        ("val2017", "val"),
        (" dev ", "val"),
        ("valid", "val"),
        ("Test", "test"),
        ("test_1", "test"),
        ("unused", "excluded"),
        ("Ignore", "excluded"),
        ("unlabeled", "unlabelled"),
    ],
)
def test_words_that_tell_a_split(tmp_path: Path, column: str, value: str, split: str) -> None:
    """In any case, with numbers and words such as `set`; the last four images have the value."""
    code, found, _ = told(tmp_path, f"file,label,{column}", ["train", "val", value])
    assert (code, found) == (0, ["train"] * 4 + ["val"] * 4 + [split] * 4)


@pytest.mark.parametrize("column", ["split", "Subset", "partition", "set", "usage"])
@pytest.mark.parametrize("value", ["tset", "Validierung", "not_train", "PublicTest", "train/val", "2", "NaN"])
def test_a_value_that_names_no_split_is_refused(tmp_path: Path, column: str, value: str) -> None:
    """One row is enough; the error names the column, the value, an image, and the words to write."""
    cells = ["train"] * 8 + ["val"] * 2 + [value, "test"]
    code, _, err = told(tmp_path, f"file,label,{column}", cells)
    assert code == 3
    assert (
        f"the column `{column}` of '{tmp_path / 't.csv'}' has '{value}', which names no split, in the row of '10.png'; " in err
    )
    assert "write train, val, test or unused there, or rename the column" in err
    assert err.count("\n") == 1
    assert told(tmp_path, "file,label,other", cells)[0] == 0  # as the error says


def test_several_values_that_name_no_split_are_counted(tmp_path: Path) -> None:
    """Numbers in a column called `split` are no splits, even if all are; training stops as `labels` does."""
    code, _, err = told(tmp_path, "file,label,split", ["0", "1", "2"])
    assert (code, "has '0', '1', '2', which name no split, in 12 rows, such as that of '0.png'" in err) == (3, True)
    trained = called("train", "images", "--labels", "t.csv", "-m", "linear", "-o", "run", cwd=tmp_path)
    assert (trained.returncode, "which name no split" in trained.stderr) == (3, True)
    assert not (tmp_path / "run").exists()


def test_a_column_of_any_name_tells_splits_by_its_values(tmp_path: Path) -> None:
    """All of them, `train` among them; a column that the user names for labels tells none."""
    code, found, _ = told(tmp_path, "file,label,phase", ["train", "val", "test"])
    assert (code, found) == (0, ["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    code, found, _ = told(tmp_path, "file,label,phase", ["train", "val", "other"])
    assert (code, "test" in found) == (0, False)
    code, found, _ = told(tmp_path, "file,label,split", ["train", "sedan", "bus"], columns=":file,split")
    assert (code, set(found)) == (0, {"train", "val"})


@pytest.mark.parametrize(
    ("header", "cells", "warned"),
    [
        ("file,label,is_valid", ["True", "False"], True),
        ("file,label,test", ["0", "1"], True),
        ("file,label,partition", ["0", "1", "2"], True),
        ("file,label,set", ["A", "B"], True),
        ("file,label,phase", ["early", "late"], False),
        ("file,number,set", ["A", "B"], False),  # here it is the label
    ],
)
def test_columns_that_may_tell_splits_are_named(tmp_path: Path, header: str, cells: list[str], warned: bool) -> None:
    """With their values and the way to follow them; a column of labels is not named."""
    columns = ":file,set" if "number" in header else ""
    code, _, err = told(tmp_path, header, cells, columns=columns)
    name = header.rpartition(",")[2]
    assert (code, f"warning: the column `{name}` of '{tmp_path / 't.csv'}' may tell splits, and is not used" in err) == (
        0,
        warned,
    )
    assert ("write train, val and test into a column `split`" in err) == warned


def test_one_hot_columns_tell_no_splits(tmp_path: Path) -> None:
    """A class may be called `train`."""
    (tmp_path / "images").mkdir()
    rows = [f"{name},{i % 2},{1 - i % 2}" for i, name in enumerate(NAMES)]
    for name in NAMES:
        (tmp_path / "images" / name).touch()
    (tmp_path / "t.csv").write_text("\n".join(["file,train,bus", *rows]))
    code, _, err = typed("labels", str(tmp_path / "images"), "--labels", str(tmp_path / "t.csv"))
    assert (code, "may tell splits" in err) == (0, False)


def test_rows_without_a_split_are_counted(tmp_path: Path) -> None:
    """They are trained on where the column tells validation images; blanks are no value."""
    code, found, err = told(tmp_path, "file,label,split", ["train", " ", "val"])
    assert (code, found) == (0, ["train"] * 8 + ["val"] * 4)
    assert "4 images have no split in the column `split` and count as training images: '4.png', '5.png', " in err
    assert "have no split" not in told(tmp_path, "file,label,split", ["train", "train", "val"])[2]


def test_two_splits_for_one_image_are_refused(tmp_path: Path) -> None:
    """The last row does not win."""
    told(tmp_path, "file,label,split", ["train", "val"])
    with (tmp_path / "t.csv").open("a") as file:
        file.write("\n0.png,a,test\n")
    code, _, err = typed("labels", str(tmp_path / "images"), "--labels", str(tmp_path / "t.csv"))
    assert (code, "gives '0.png' two splits: 'train' and 'test'; keep one row per image" in err) == (3, True)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["test"], "the column `split` of '{table}' has no image to train on; write train into rows to train on"),
        (["val", "test"], "the column `split` of '{table}' has no image to train on; write train into rows to train on"),
        (["unused"], "'{table}' skips all its images: '0.png' is 'unused'; take that out of rows to be used"),
    ],
)
def test_a_table_without_images_to_train_on_is_told(tmp_path: Path, cells: list[str], said: str) -> None:
    """The labels are not missing."""
    code, _, err = told(tmp_path, "file,label,split", cells)
    assert (code, said.format(table=tmp_path / "t.csv") in err) == (3, True)
