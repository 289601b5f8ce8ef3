"""Table files as spreadsheet programs write them: encodings, separators, titles. Class names are text, never broken bytes."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from test_layouts import typed

NAMES = [f"Bild {i:03}.png" for i in range(8)]
TEXT = "Datei;Klasse\r\n" + "".join(f"{name};{('grün', 'weiß')[i % 2]}\r\n" for i, name in enumerate(NAMES))


def labelled(folder: Path, table: str | bytes, *, name: str = "t.csv", columns: str = "") -> tuple[int, list[str], str]:
    """Write a table and label eight images by it; return the exit code, the classes and the error or the warnings."""
    for one in NAMES:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / one).touch()
    (folder / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    code, out, err = typed("labels", str(folder / "images"), "--labels", f"{folder / name}{columns}", "--json")
    if code:
        assert err.count("\n") == 1
        return code, [], err
    found = json.loads(out)
    return code, [one["name"] for one in found["classes"]], "; ".join(found["warnings"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt"])
def test_encodings_that_say_what_they_are(tmp_path: Path, encoding: str, name: str) -> None:
    """UTF-8, with a byte order mark or without, and UTF-16 with one, parted as its ending says."""
    text = TEXT if name == "t.csv" else TEXT.replace(";", "\t")
    assert labelled(tmp_path, text.encode(encoding), name=name) == (0, ["grün", "weiß"], "")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_other_encodings_are_refused_with_the_command_that_converts(tmp_path: Path, encoding: str) -> None:
    """The error shows the text as Windows-1252 would have it; what the command writes is read."""
    code, _, err = labelled(tmp_path, TEXT.encode(encoding))
    assert (code, f"the table '{tmp_path / 't.csv'}' is not UTF-8; in Windows-1252 it would say 'grün'; " in err) == (3, True)
    command = err.split("`")[1]
    assert shlex.split(command)[-2:] == [">", "labels.csv"]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)  # noqa: S602 - as a user would
    assert labelled(tmp_path, (tmp_path / "labels.csv").read_bytes())[:2] == (0, ["grün", "weiß"])


def test_names_of_images_that_are_not_utf_8_in_a_table(tmp_path: Path) -> None:
    """Refused where the files have other names, as the labels are; a file that has such a name on disk is found."""
    names = [name.replace("Bild", "Bär") for name in NAMES]
    table = "file,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))
    code, _, err = labelled(tmp_path, table.encode("cp1252"))
    assert (code, "is not UTF-8; in Windows-1252 it would say 'Bär 000.png'" in err) == (3, True)
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/" + name.encode("cp1252"))).touch()
    assert labelled(tmp_path, table.encode("cp1252"))[:2] == (0, ["a", "b"])


def test_utf_16_without_a_mark_is_refused(tmp_path: Path) -> None:
    """As is anything else that holds zeros."""
    code, _, err = labelled(tmp_path, TEXT.encode("utf-16-le"))
    assert (code, "it is binary, or UTF-16 without a byte order mark; save it as CSV UTF-8" in err) == (3, True)


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_line_that_says_what_parts_the_cells(tmp_path: Path, first: str) -> None:
    """It is no header and no row, and the columns can be named."""
    assert labelled(tmp_path, first + TEXT, columns=":Datei,Klasse") == (0, ["grün", "weiß"], "")
    assert labelled(tmp_path, first + TEXT) == (0, ["grün", "weiß"], "")


def test_cells_that_are_empty_to_the_end(tmp_path: Path) -> None:
    """Columns without a name and a value, and rows without a value, are none."""
    padded = TEXT.replace("\r\n", ";;\r\n") + ";;;\r\n"
    assert labelled(tmp_path, padded) == (0, ["grün", "weiß"], "")


@pytest.mark.parametrize(
    "title", ["Labels of Müller, 3.5.;\n", "Labels, of Müller, 3.5.\n", "Labels of Müller\n", "Labels;;\n"]
)
def test_a_title_above_the_header_is_told(tmp_path: Path, title: str) -> None:
    """To name the columns would not help."""
    code, _, err = labelled(tmp_path, title + TEXT)
    assert code == 3
    assert "header line" in err
    assert "FILE_COLUMN" not in err
    assert ("is a title, take it out" in err) == any(mark in title for mark in ",;")


def test_commas_in_the_cells_of_the_first_rows(tmp_path: Path) -> None:
    """What the first lines have equally often parts the cells."""
    table = "Datei;Klasse, hell\n" + "".join(f"{name};{'ab'[i % 2]}, {','[: i % 2]}\n" for i, name in enumerate(NAMES))
    assert labelled(tmp_path, table)[:2] == (0, ["a,", "b, ,"])


@pytest.mark.parametrize("name", ["t.xlsx", "t.ODS", "t.json", "t.parquet", "t.xls:file,label"])
def test_files_that_other_programs_read(tmp_path: Path, name: str) -> None:
    """They are no pattern; the error says what to save."""
    (tmp_path / "images").mkdir()
    code, _, err = typed("labels", str(tmp_path / "images"), "--labels", name)
    assert (code, err) == (
        2,
        f"capture: '{name.partition(':')[0]}' is not a table that capture reads; save it as CSV UTF-8 with a header line, "
        "such as file,label, and a row per image\n",
    )


def test_a_column_of_labels_without_any(tmp_path: Path) -> None:
    """The names are right then, and so are the columns."""
    code, _, err = labelled(tmp_path, "file,label\n" + "".join(f"{name},\n" for name in NAMES))
    assert (code, f"the column label of '{tmp_path / 't.csv'}' is empty for all images; fill it in" in err) == (3, True)
