"""`capture labels FOLDER` as it is typed: tables or JSON on stdout, notes on stderr, one line for every mistake."""

import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import pexpect
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """12 images of 2 classes by prefix, and three entries that are no images."""
    folder = tmp_path / "pets"
    touch(folder, [f"{name}_{i:02d}.png" for name in ("cat", "dog") for i in range(6)] + ["README.md", "NOTES.md", ".x"])
    return folder


def touch(folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_the_tables_hold_rule_classes_and_skipped_files(capture: Command, pets: Path) -> None:
    """Every class with its train and val counts and an example; every reason with its count and some names."""
    done = capture("labels", pets, "--val-split", "0.5")
    assert done.returncode == 0
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0].startswith(f"{pets}: 12 images, 2 classes (")
    assert "labels: prefix, the text before the number at the end of the name, because the names end in a number" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert sum(int(count) for name in ("cat", "dog") for count in rows[name][:2]) == 12
    assert rows["cat"][2] == "cat_00.png"
    assert rows["unsupported-extension"] == ["2", "NOTES.md,", "README.md"]
    assert rows["hidden"] == ["1", ".x"]
    assert rows["other"] == ["rules", "classes", "without", "label"]
    assert rows["--labels"] == ["field:2", "6", "0"]


def test_test_images_without_labels_are_counted_and_named(capture: Command, tmp_path: Path) -> None:
    """They are in the total, beside those of known and of other classes; training says so too."""
    touch(tmp_path / "data/train/cat", ["1.png", "2.png"])
    touch(tmp_path / "data/train/dog", ["3.png", "4.png"])
    touch(tmp_path / "data/test", [f"{i}.png" for i in range(5, 10)])
    bare = "5 of them without labels: test/5.png, test/6.png, test/7.png, ..."
    first = capture("labels", "data", "--val-split", 0).stdout.splitlines()[0]
    assert first == f"data: 9 images, 2 classes (4 train, 0 val, 5 test, {bare})"
    touch(tmp_path / "data/test/cat", ["10.png"])
    touch(tmp_path / "data/test/fox", ["11.png", "12.png"])
    first = capture("labels", "data", "--val-split", 0).stdout.splitlines()[0]
    assert first == f"data: 12 images, 2 classes (4 train, 0 val, 8 test, {bare})"
    assert f"8 test images are kept for `capture evaluate`, {bare}" in capture("train", "data", "--val-split", 0).stderr
    assert "without labels" not in capture("labels", "data/test").stdout


def test_the_rule_and_how_to_choose_another_go_to_stderr(capture: Command, pets: Path) -> None:
    """One sentence where data is on stdout; the table says it itself."""
    assert capture("labels", pets).stderr == ""
    for options in (["--files"], ["--json"]):
        done = capture("labels", pets, *options)
        assert done.stderr == (
            "Labels: cat_00.png -> cat (rule: prefix). "
            "Not right? Choose another rule with --labels auto|parent|field:N|suffix|folder:N|REGEX\n"
        )


def test_json_is_one_object_on_stdout(capture: Command, pets: Path) -> None:
    """The same facts, and every skipped file."""
    found = json.loads(capture("labels", pets, "--val-split", "0", "--json").stdout)
    assert found == {
        "folder": str(pets),
        "images": 12,
        "rule": {
            "name": "prefix",
            "meaning": "the text before the number at the end of the name",
            "why": "the names end in a number",
        },
        "other_rules": [
            {"name": "field:1", "classes": 2, "without_label": 0},
            {"name": "field:2", "classes": 6, "without_label": 0},
        ],
        "classes": [
            {"name": "cat", "train": 6, "val": 0, "example": "cat_00.png"},
            {"name": "dog", "train": 6, "val": 0, "example": "dog_00.png"},
        ],
        "split_from": None,
        "skipped": {"unsupported-extension": 2, "hidden": 1},
        "skipped_files": [
            {"file": ".x", "reason": "hidden", "detail": ""},
            {"file": "NOTES.md", "reason": "unsupported-extension", "detail": ""},
            {"file": "README.md", "reason": "unsupported-extension", "detail": ""},
        ],
        "warnings": [],
    }


def test_the_options_reach_the_scan(capture: Command, pets: Path) -> None:
    """A rule of one's own, and skipping what it does not fit."""
    (pets / "odd.png").touch()
    found = json.loads(capture("labels", pets, "--labels", r"_0(?P<label>\d)", "--unmatched", "skip", "--json").stdout)
    assert [c["name"] for c in found["classes"]] == ["0", "1", "2", "3", "4", "5"]
    assert {"file": "odd.png", "reason": "no-label", "detail": r"_0(?P<label>\d)"} in found["skipped_files"]


@pytest.mark.parametrize("rule", ["auto", "parent"])
def test_a_folder_of_one_class_is_told_of_the_one_above(capture: Command, tmp_path: Path, rule: str) -> None:
    """Where most of the folders beside it hold images too; folders of splits are none of classes."""
    for name in ("bag", "boot", "train"):
        touch(tmp_path / "photos" / name, [f"IMG {i}.png" for i in (35, 214, 559)])
    above = "if 'bag' is one class, name the folder that holds all of them: `capture labels photos`; or "
    assert above in capture("labels", "photos/bag", "--labels", rule).stderr
    assert "is one class" not in capture("labels", "photos/train", "--labels", rule).stderr
    touch(tmp_path / "photos/notes", ["a.txt"])
    touch(tmp_path / "photos/more", ["b.txt"])
    assert "is one class" not in capture("labels", "photos/bag", "--labels", rule).stderr


def test_warnings_go_to_stderr(capture: Command, pets: Path) -> None:
    """A class with one image is allowed, with a warning; stdout has the data alone."""
    (pets / "fox_1.png").touch()
    done = capture("labels", pets, "--json")
    assert done.returncode == 0
    assert "warning: 1 class has a single image, used for training and never validated: 'fox'" in done.stderr
    assert json.loads(done.stdout)["warnings"]


@pytest.mark.parametrize(
    ("files", "options", "code", "message", "way_out"),
    [
        (None, [], 2, "no such folder: 'photos'", "name a folder"),
        ([], [], 3, "'photos' is empty", "put images into it"),
        (
            ["a.txt"],
            [],
            3,
            "no images in 'photos'; skipped: 1 unsupported-extension, such as 'a.txt'",
            "image names end in .png",
        ),
        (["records.jsonl"], [], 3, "'photos' is a run, not a folder of images", "`capture inspect photos` reads it"),
        (["cat.png", "dog.png"], [], 3, "no label in the names of 2 images", "like cat_0012.png"),
        (
            ["cat_1.png", "cat_2.png"],
            ["--labels", "prefix"],
            3,
            "only one class",
            "capture labels photos --labels field:2` (2 classes)",
        ),
        (
            ["cat_1.png", "dog_1.png", "x.png"],
            [],
            3,
            "the rule prefix finds no label in 1 of 3 images: 'x.png'",
            "--unmatched skip",
        ),
        (["cat_1.png"], ["--labels", "parnet"], 2, "--labels parnet is neither a rule nor", "parent:N, start, end; a reg"),
        (["cat_1.png"], ["--labels", "labels.xlsx"], 2, "'labels.xlsx' is not a table that", "save it as CSV UTF-8"),
        (["cat_1.png"], ["--labels", "("], 2, "--labels ( is not a regular expression", "(?P<label>...)"),
        (["cat_1.png"], ["--labels", "field:0"], 2, "--labels field:0 is not a rule", "field:2"),
        (["cat_1.png"], ["--unmatched", "maybe"], 2, "--unmatched maybe is not valid", "choose error or skip"),
        (["cat_1.png"], ["--val-split", "1"], 2, "--val-split 1.0 is not valid", "from 0 up to"),
        (["cat_1.png"], ["--val-split", "much"], 2, "--val-split", "capture labels --help"),
        (["cat_1.png"], ["--lables", "prefix"], 2, "--lables", "capture labels --help"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(
    capture: Command, tmp_path: Path, files: list[str] | None, options: list[str], code: int, message: str, way_out: str
) -> None:
    """On stderr, with its exit code, and nothing on stdout."""
    if files is not None:
        touch(tmp_path / "photos", files)
    done = capture("labels", "photos", *options)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert way_out in done.stderr.partition(message)[2]


HOSTILE = [
    b"\x1b]52;c;aGk=\x07_1.png",
    b"\x1b[2J_2.png",
    b"a\nb_3.png",
    b"\xff\xfe_4.png",
    "\u202egpj_5.png".encode(),
    b"\xc2\x9b31m_6.png",
    b"[red]_7.png",
    b":smile:_8.png",
    b"[link=https:x]a_9.png",
]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Names that would steer a terminal: as classes of their own, and as files to skip and to complain of."""
    folder = tmp_path / "hostile"
    touch(folder, [os.fsdecode(name) for name in HOSTILE] + [os.fsdecode(name.replace(b"png", b"txt")) for name in HOSTILE])
    return folder


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in text.replace("\n", ""))


def test_hostile_names_reach_no_output_raw(capture: Command, hostile: Path) -> None:
    """Tables, sentences, warnings and errors hold no control character; markup and emoji codes are shown as they are."""
    for options in ([], ["--json"], ["--labels", "field:7"], ["--labels", "\x1b[2J"]):
        done = capture("labels", hostile, *options)
        assert is_harmless(done.stdout)
        assert is_harmless(done.stderr)
    shown = capture("labels", hostile).stdout
    for text in (
        r"\x1b[2J_2.png",
        r"a\nb_3.png",
        r"\udcff\udcfe",
        r"\u202egpj",
        r"\x9b31m",
        "[red]_7.png",
        ":smile:_8.png",
        "[link=https:x]a",
    ):
        assert text in shown


def test_json_holds_hostile_names_exactly(capture: Command, hostile: Path) -> None:
    """Escaped in the text, exact once parsed, bytes that are not UTF-8 included."""
    found = json.loads(capture("labels", hostile, "--json").stdout)
    assert {os.fsencode(c["example"]) for c in found["classes"]} == set(HOSTILE)


def test_a_terminal_gets_no_control_sequence_from_a_name(hostile: Path) -> None:
    """In a real terminal of 30 columns: the only sequences are colours."""
    child = pexpect.spawn(
        sys.executable, ["-m", "capture_cli", "labels", str(hostile)], dimensions=(40, 30), encoding="utf-8", timeout=60
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    pieces = child.before.replace("\r\n", "\n").split("\x1b[")
    rest = pieces[0] + "".join(piece.partition("m")[2] for piece in pieces[1:])
    assert all(piece.partition("m")[0].replace(";", "").isdigit() for piece in pieces[1:])
    assert is_harmless(rest)


def test_many_classes_are_cut_in_the_table_and_counted(capture: Command, tmp_path: Path) -> None:
    """The JSON has them all."""
    touch(tmp_path / "many", [f"c{i}x_{j}.png" for i in range(205) for j in range(2)])
    lines = capture("labels", "many").stdout.splitlines()
    assert "and 5 more classes: --json has them all" in lines
    assert sum(line.startswith("c") and "x_0.png" in line for line in lines) == 200
    assert len(json.loads(capture("labels", "many", "--json").stdout)["classes"]) == 205


def test_long_names_stay_on_one_line_in_a_pipe(capture: Command, tmp_path: Path) -> None:
    """Only a terminal has a width."""
    name = "x" * 240
    touch(tmp_path / "long", [f"{name}_1.png", "cat_1.png"])
    assert any(
        line.startswith(name) and line.rstrip().endswith(f"{name}_1.png")
        for line in capture("labels", "long").stdout.splitlines()
    )


def test_a_reader_that_has_seen_enough_ends_it_quietly(capture: Command, tmp_path: Path) -> None:
    """`| head -1`: exit code 0 and no complaint, though most of the output has no reader."""
    touch(tmp_path / "many", [f"{'long' * 40}{i}x_{j}.png" for i in range(300) for j in range(2)])
    for options, words in (("", 0), ("--json", 1)):
        line = f"set -o pipefail; {sys.executable} -m capture_cli labels many --labels prefix {options} 2>words | head -c 10"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, len(done.stdout), done.stderr) == (0, 10, "")
        assert (tmp_path / "words").read_text().count("\n") == words


def test_nothing_heavy_is_imported(pets: Path) -> None:
    """No torch, no image library: a look at a folder takes a second, not ten."""
    code = (
        "import sys; from capture_cli.cli import run\n"
        "assert run(['labels', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'torchvision', 'PIL', 'duckdb'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, pets], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


SCALE = """
import resource, sys
from capture_cli.cli import run
assert run(["labels", sys.argv[1]]) == 0
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(used.ru_utime + used.ru_stime, int(peak.split()[1]) // 1024)
"""


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
def test_a_hundred_thousand_images_take_seconds_and_little_memory() -> None:
    """The whole command on 100,000 files in 100 subfolders: within 10 s of processor time and 500 MB."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - on a disk making them takes longer
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for i in range(100):
            (Path(folder) / f"{i}").mkdir()
            at = os.open(f"{folder}/{i}", os.O_RDONLY)
            for j in range(1000):
                os.close(os.open(f"some_picture_{i}_{j:06d}.png", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at))
            os.close(at)
        done = subprocess.run([sys.executable, "-c", SCALE, folder], capture_output=True, text=True, timeout=120)
    assert "100,000 images, 100 classes" in done.stdout, done.stderr
    seconds, megabytes = map(float, done.stdout.splitlines()[-1].split())
    assert seconds < 10
    assert megabytes < 500
