"""Labels in tables: read by `--labels FILE.csv`, written by `capture labels --files`, counted where they do not fit."""

import csv
import json
from pathlib import Path
from unicodedata import normalize

import pytest

from calling import called
from capture_cli.errors import DataError, UsageError
from capture_cli.labels.filters import choose_files
from capture_cli.labels.tables import Matched, match, parse_table, read_table
from conftest import make_images
from test_layouts import typed

FILES = [f"train/{name}.png" for name in ("1", "2", "cat/3", "4")]


def matched(folder: Path, text: str, *, name: str = "t.csv", columns: str = "") -> Matched:
    """Write a table and match it with FILES."""
    (folder / name).write_text(text, "utf-8")
    wanted = parse_table(f"{name}{columns}")
    assert wanted is not None
    return match(read_table(wanted, str(folder)), FILES)


def test_a_table_is_told_from_a_rule() -> None:
    """By its extension; the columns stand behind a colon, and may be quoted."""
    assert parse_table("prefix") is None
    assert parse_table("a/b.CSV") == ("a/b.CSV", None, None)
    assert parse_table("b.tsv:dx") == ("b.tsv", None, "dx")
    assert parse_table('b.jsonl:id,"the label, as given"') == ("b.jsonl", "id", "the label, as given")
    with pytest.raises(UsageError, match="is not valid"):
        parse_table("b.csv:a,b,c")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("file,label\ntrain/1.png,a\ntrain/2.png,b\n", "t.csv"),
        ("id,label\n1,a\n2,b\n", "t.csv"),
        ("label;image\na;1.png\nb;2.png\n", "t.csv"),
        ("\ufeffimage_id\tlabel\n1\ta\n2\tb\n", "t.tsv"),
        ("path,class\n./data/train/1.png,a\ndata\\train\\2.png,b\n", "t.csv"),
        ('{"file": "1.png", "label": "a"}\n\n{"file": "2.png", "label": "b", "note": 7}\n', "t.jsonl"),
        ("id,a,b,age\n1,1,0,30\n2,0,1,40\n", "t.csv"),
        ("id,a,b\n1,1.0,0.0\n2,0.0,1.0\n", "t.csv"),
    ],
    ids=["paths", "ids", "semicolons", "tabs", "other folders", "JSON Lines", "one-hot", "one-hot floats"],
)
def test_rows_are_matched_with_files(tmp_path: Path, text: str, name: str) -> None:
    """By path, by name, by name without extension, whatever the columns are called and in whatever order."""
    assert matched(tmp_path, text, name=name).labels == {"train/1.png": "a", "train/2.png": "b"}


def test_columns_can_be_named(tmp_path: Path) -> None:
    """Where several may be meant the error lists them; a name that is not there is an error too."""
    text = "id,age,sex\n1,30,f\n2,30,m\n3,40,f\n4,40,m\n"
    assert matched(tmp_path, text, columns=":id,sex").labels["train/cat/3.png"] == "f"
    with pytest.raises(UsageError, match=r"the label column of 't.csv' is not clear: age, sex") as caught:
        matched(tmp_path, text)
    assert "--labels t.csv:age or --labels t.csv:sex" in caught.value.hint
    with pytest.raises(UsageError, match=r"has no column 'colour'; its columns are id, age, sex"):
        matched(tmp_path, text, columns=":colour")


def test_rows_without_a_file_and_labels_that_contradict(tmp_path: Path) -> None:
    """Extra rows are listed; two labels for one file are an error, as is a table that names nothing."""
    assert matched(tmp_path, "id,label\n1,a\n9,b\n").extra == ["9"]
    assert matched(tmp_path, "id,label,skipped\n1,a,\n9,b,\nnotes.txt,,unsupported-extension\n").extra == ["9"]
    with pytest.raises(DataError, match=r"gives 'train/1.png' two labels: 'a' and 'b'"):
        matched(tmp_path, "id,label\n1,a\n1.png,b\n")
    with pytest.raises(DataError, match=r"no row of 't.csv' has a label for an image: 'x' in the column id"):
        matched(tmp_path, "id,label\nx,a\ny,b\n")


@pytest.mark.parametrize("text", ["", "file\n1\n", "a,a\n1,2\n", "file,label\n", "\x00,\n"])
def test_what_is_no_table_is_an_error(tmp_path: Path, text: str) -> None:
    """One line, with what a table looks like."""
    with pytest.raises(DataError) as caught:
        matched(tmp_path, text)
    assert "header line" in caught.value.hint


def test_what_labels_prints_labels_reads(tmp_path: Path) -> None:
    """Through CSV and through JSON Lines: the same classes, splits and skipped files, also after an edit."""
    folder = tmp_path / "data"
    for name in ("cat", "dog"):
        for i in range(6):
            for file in (f"{name}/{i}.png", f"test/{name}/{i}.png"):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).touch()
    (folder / "cat" / "0_mask.png").touch()
    first = typed("labels", str(folder), "--files")[1]
    lines = [json.loads(line) for line in first.splitlines()]
    assert {"file": "cat/0_mask.png", "skipped": "companion", "detail": "mask of 0.png"} in lines
    assert {"file": "test/dog/5.png", "label": "dog", "split": "test"} in lines
    for form in ("csv", "jsonl"):
        table = tmp_path / f"labels.{form}"
        table.write_text(typed("labels", str(folder), "--files", "--format", form)[1])
        again = [json.loads(line) for line in typed("labels", str(folder), "--files", "--labels", str(table))[1].splitlines()]
        assert [one for one in again if "label" in one] == [one for one in lines if "label" in one]
        assert [one["file"] for one in again] == [one["file"] for one in lines]
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    edited = [{**row, "label": "fox"} if row["file"] == "cat/3.png" else row for row in rows if row["file"] != "cat/4.png"]
    with (tmp_path / "labels.csv").open("w") as file:
        table_file = csv.DictWriter(file, list(rows[0]))
        table_file.writeheader()
        table_file.writerows(edited)
    code, out, err = typed("labels", str(folder), "--labels", str(tmp_path / "labels.csv"), "--json")
    assert code == 0
    assert "warning: 1 image has no label in" in err
    assert [one["name"] for one in json.loads(out)["classes"]] == ["cat", "dog", "fox"]


def test_names_without_labels_become_a_table_to_fill_in(tmp_path: Path) -> None:
    """--files works where no rule does: an empty column to write labels into."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(12):
        (folder / f"IMG_{i:04d}.JPG").touch()
    code, out, _ = typed("labels", str(folder), "--files", "--format", "csv")
    assert code == 0
    assert out.splitlines()[:2] == ["file,label,split,skipped", "IMG_0000.JPG,,,no-label"]
    filled = [line.replace(",,,", f",{'ab'[i % 2]},,") for i, line in enumerate(out.splitlines())]
    (tmp_path / "labels.csv").write_text("\n".join(filled))
    assert typed("labels", str(folder), "--labels", str(tmp_path / "labels.csv"))[0] == 0


@pytest.mark.parametrize("text", ["train/1.png,a\ntrain/2.png,b\n", "1.png;a\n2.png;b\n", "1,a\n2,b\n"])
def test_a_table_without_column_names_is_understood(tmp_path: Path, text: str) -> None:
    """Its first line names an image: it is a row. A word is a column name, though there may be an image of that name."""
    found = matched(tmp_path, text)
    assert found.labels == {"train/1.png": "a", "train/2.png": "b"}
    assert not found.has_header
    (tmp_path / "named.csv").write_text("image,label\nimage.png,a\n1.png,b\n")
    wanted = parse_table("named.csv")
    assert wanted is not None
    assert match(read_table(wanted, str(tmp_path)), ["image.png", "1.png"]).labels == {"image.png": "a", "1.png": "b"}


NUMBERED = [f"{number}.png" for number in range(6)]


@pytest.mark.parametrize(
    ("first", "rows", "columns", "is_header"),
    [
        ("0,1", ["0,bag", "1,cat", "2,bag"], "", True),  # pandas names columns so
        ("0,1", ["0.png,bag", "1.png,cat"], "", True),
        ("0,1", ["0,1", "1,0", "2,1"], "", True),
        ("0,1", ["1,bag", "2,cat"], "", True),
        ("0,1", ["1,0", "2,1"], "", False),
        ("0,1", ["1,0", "2,1"], ":0,1", True),
        ("1,bag", ["2,cat", "3,bag"], ":1,2", False),
        ("1,2", ["2,2", "3,3"], ":2", False),
        ("5,label", ["1,bag", "2,cat"], "", True),
        ("5,label", ["1,bag", "2,label"], "", False),
        ("5,bag", ["1,cat", "2,cat"], "", False),
        ("5,bag", ["5,bag", "2,cat"], "", False),
    ],
)
def test_a_header_that_may_be_the_name_of_an_image(
    tmp_path: Path, first: str, rows: list[str], columns: str, is_header: bool
) -> None:
    """A line that only names columns makes no class and contradicts no row; a line like the others is a row."""
    path = tmp_path / "t.csv"
    path.write_text("\n".join([first, *rows]))
    wanted = parse_table(f"{path}{columns}")
    assert wanted is not None
    found = match(read_table(wanted, str(tmp_path)), NUMBERED)
    lines = rows if is_header else [first, *rows]
    assert found.labels == {line.split(",")[0].removesuffix(".png") + ".png": line.split(",")[1] for line in lines}
    assert found.has_header == is_header


def test_a_group_in_a_table_without_column_names(tmp_path: Path) -> None:
    """It is named by its number; a value of its first row is an error that lists the columns."""
    make_images(tmp_path / "images", classes=2)
    files = sorted(path.name for path in (tmp_path / "images").iterdir())
    (tmp_path / "t.csv").write_text("\n".join(f"{file},{file[:3]},g{i // 2}" for i, file in enumerate(files)))
    assert called("labels", "images", "--labels", "t.csv:1,2", "--group", "3", cwd=tmp_path).returncode == 0
    wrong = called("labels", "images", "--labels", "t.csv:1,2", "--group", "g0", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "capture: 't.csv' has no column 'g0'; its columns are 1, 2, 3\n")


def test_a_column_of_splits_is_followed_and_said(tmp_path: Path) -> None:
    """By `labels`, and by `train` before it begins; what it leaves open is drawn, and that is said too."""
    make_images(tmp_path / "images", classes=2)
    files = sorted(path.name for path in (tmp_path / "images").iterdir())
    for name, splits in (("whole", ["train", "train", "val"]), ("part", ["train", "train", "test"])):
        rows = [f"{file},{file[:3]},{splits[i % 3]}" for i, file in enumerate(files)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,label,Usage", *rows]))
    shown = called("labels", "images", "--labels", "whole.csv", cwd=tmp_path).stdout
    assert shown.startswith(f"images: {len(files)} images, 2 classes (")
    assert "\nsplit: from the column `Usage` of 'whole.csv'\n" in shown
    shown = called("labels", "images", "--labels", "part.csv", cwd=tmp_path).stdout
    assert shown.startswith(f"images: {len(files)} images, 2 classes (")
    assert "\nsplit: from the column `Usage` of 'part.csv'; val is drawn from every class\n" in shown
    trained = called("train", "images", "--labels", "whole.csv", "-m", "linear", "-e", 1, "-o", "run", cwd=tmp_path)
    assert "val, from the column `Usage` of 'whole.csv'\n" in trained.stderr


def test_an_evaluation_says_which_of_its_images_the_table_has_for_training(tmp_path: Path) -> None:
    """All are evaluated; what the table says of them is no reason for that."""
    make_images(tmp_path / "images", classes=2)
    files = sorted(path.name for path in (tmp_path / "images").iterdir())
    rows = [f"{file},{file[:3]},{'val' if i % 4 == 3 else 'train'}" for i, file in enumerate(files)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows]))
    options = ("-m", "linear", "-e", 1, "-q", "-o", "run")
    assert called("train", "images", "--labels", "t.csv", *options, cwd=tmp_path).returncode == 0
    said = called("evaluate", "run", "images", "--split", "all", cwd=tmp_path).stderr
    val = len(files) // 4
    assert f"\nImages: {len(files)} test, of which 't.csv' has {len(files) - val} as train and {val} as val\n" in said


def test_test_images_of_classes_without_training_images_are_counted(tmp_path: Path) -> None:
    """In the total of `labels`, and in a warning that names the classes."""
    for split, classes in (("train", "ab"), ("test", "abz")):
        for name in classes:
            make_images(tmp_path / "images" / split / name, classes=1, each=4)
    done = called("labels", "images", cwd=tmp_path)
    assert done.stdout.startswith("images: 20 images, 2 classes (6 train, 2 val, 12 test)\n")
    assert "warning: 4 test images are of a class that no training image has: 'z'\n" in done.stderr


def test_a_val_split_that_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    """A table, folders or --val decide, and the error says which; a share that was not asked for is no error."""
    for split in ("train", "val"):
        make_images(tmp_path / "images" / split, classes=2, each=4)
    files = [f"{split}/{path.name}" for split in ("train", "val") for path in (tmp_path / "images" / split).iterdir()]
    rows = [f"{file},{file.rpartition('/')[2][:3]},{file.partition('/')[0]}" for file in files]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows]))
    for command, options, said in (
        (("labels", "images"), ("--labels", "t.csv"), "the column `split` of 't.csv' tells which images are for validation"),
        (
            ("train", "images", "-n"),
            (),
            "folders or names tell which images are for validation; drop it, or add --split-folders",
        ),
        (("labels", "images/train"), ("--val", "images/val"), "--val-split 0.5 and --val both say which images are held out"),
    ):
        assert called(*command, *options, cwd=tmp_path).returncode == 0
        wrong = called(*command, *options, "--val-split", 0.5, cwd=tmp_path)
        assert (wrong.returncode, said in wrong.stderr) == (2, True)


@pytest.mark.parametrize("cell", ["NaN", "nan", "N/A", "null", "None", "-", "?"])
def test_cells_that_mean_no_label_are_named(tmp_path: Path, cell: str) -> None:
    """They are classes, with a warning that names their images; empty cells are skipped, as the warning says."""
    make_images(tmp_path / "data", classes=2, each=4)
    files = sorted(one.name for one in (tmp_path / "data").iterdir())
    table = tmp_path / "t.csv"

    def told(value: str) -> tuple[list[str], list[str]]:
        labels = ["a", "b", "a", "b", "a", "b", value, value]
        table.write_text("file,label\n" + "".join(f"{f},{one}\n" for f, one in zip(files, labels, strict=True)))
        found = json.loads(typed("labels", str(tmp_path / "data"), "--labels", str(table), "--json")[1])
        return [one["name"] for one in found["classes"]], found["warnings"]

    classes, (warning,) = told(cell)
    assert cell in classes
    assert f"'{cell}' in '{table}' is a class of 2 images: '{files[6]}', '{files[7]}'" in warning
    assert "empty these cells" in warning
    assert told("")[0] == ["a", "b"]
    assert told("c")[1] == []


def test_classes_like_masks_in_a_table_are_skipped_by_their_rows(tmp_path: Path) -> None:
    """--exclude takes paths, and these names are not in them."""
    make_images(tmp_path / "data", classes=2, each=4)
    rows = [f"{one.name},{'hat' if i % 2 else 'mask'}\n" for i, one in enumerate(sorted((tmp_path / "data").iterdir()))]
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(rows))
    err = typed("labels", str(tmp_path / "data"), "--labels", str(tmp_path / "t.csv"))[2]
    assert "classes called like masks: 'mask'; take their rows out of the table to skip them" in err


@pytest.mark.parametrize("name", ["Bild.png", "fotos\\bild.PNG", "UNTER/BILD", " unter/bild.png"])
def test_names_that_differ_in_case_are_told(tmp_path: Path, name: str) -> None:
    """The columns are right then: the names are not."""
    wanted = parse_table("t.csv")
    assert wanted is not None
    (tmp_path / "t.csv").write_text(f"file,label\n{name},a\n")
    with pytest.raises(DataError, match=r"differ in upper and lower case or spaces: '.*', 'Unter/Bild.PNG'"):
        match(read_table(wanted, str(tmp_path)), ["Unter/Bild.PNG", "o.png"])


@pytest.mark.parametrize(("table", "disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
@pytest.mark.parametrize("written", ["Größe/ä.png", "fotos\\Größe\\ä.png", "ä.png", "ä", "./Größe/ä.png"])
def test_names_in_another_unicode_form_are_found(tmp_path: Path, table: str, disk: str, written: str) -> None:
    """As macOS and others write them: by path, by name, without extension; in --include too."""
    wanted = parse_table("t.csv")
    assert wanted is not None
    (tmp_path / "t.csv").write_text(f"file,label\n{normalize(table, written)},a\n", "utf-8")
    file = normalize(disk, "Größe/ä.png")
    assert match(read_table(wanted, str(tmp_path)), [file, "o.png"]).labels == {file: "a"}
    assert choose_files([file, "o.png"], include=[normalize(table, "Größe/*")], exclude=[])[0] == [file]


def test_two_files_that_differ_in_their_unicode_form(tmp_path: Path) -> None:
    """Each has its row; a row in a third form names both."""
    files = ["\u00e4\u00f6.png", "a\u0308o\u0308.png"]
    wanted = parse_table("t.csv")
    assert wanted is not None
    (tmp_path / "t.csv").write_text(f"file,label\n{files[0]},a\n{files[1]},b\n", "utf-8")
    assert match(read_table(wanted, str(tmp_path)), files).labels == dict(zip(files, "ab", strict=True))
    (tmp_path / "t.csv").write_text("file,label\n\u00e4o\u0308.png,a\n", "utf-8")
    with pytest.raises(DataError, match="names 2 images"):
        match(read_table(wanted, str(tmp_path)), files)
