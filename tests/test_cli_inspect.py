"""`capture inspect` in real processes: tables, JSON for json and jq, pictures in a real terminal."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pexpect
import pytest

from capture_cli.records import Batch, Record, RunInfo
from conftest import CAPTURE, make_images
from runs import chained, run_records, write_run
from terminal import Screen

Capture = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 120 samples, three epochs."""
    return write_run(tmp_path / "run", run_records(per_class=40, epochs=3))


def on_terminal(tmp_path: Path, *args: str, columns: int = 100, colour: str = "truecolor") -> Screen:
    """The output of `capture inspect ARGS` on a terminal that fails at any control sequence except colours."""
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": colour}
    env.pop("NO_COLOR", None)
    command = [*CAPTURE, "inspect", *args]
    shown = pexpect.spawn(
        command[0], command[1:], cwd=str(tmp_path), env=env, dimensions=(60, columns), encoding="utf-8", timeout=60
    ).read()
    screen = Screen(columns=4096)  # commands are left for the terminal to wrap
    screen.feed(shown)
    return screen


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the rows below the line that begins with `heading`, down to an empty line."""
    lines = iter(text.splitlines())
    for line in lines:
        if re.match(heading, line.strip()):
            break
    return [re.split(r"\s{2,}", line.strip()) for line in _until_empty(lines)]


def _until_empty(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line:
            return
        yield line


def test_only_usable_images_are_counted(capture: Capture, images: Path) -> None:
    """A file that could not be decoded is counted once, as skipped."""
    for name in ("ant_001.png", "bee_001.png"):
        (images / name).write_bytes(b"no image")
    assert capture("train", images, "-m", "linear", "-e", "1", "--device", "cpu", "-q", "-o", "r").returncode == 0
    header = capture("inspect", "r").stdout
    assert "22 images of 3 classes" in header
    assert "skipped: 2 not-an-image" in header


@pytest.mark.usefixtures("run")
def test_a_run_at_a_glance(capture: Capture) -> None:
    """The header, a row for each epoch and class, the confusions and the worst samples are shown."""
    done = capture("inspect", "run")
    assert (done.returncode, done.stderr) == (0, "")
    lesson, header, *_ = done.stdout.split("\n\n")
    assert "label looks wrong (a guess: few epochs), first cat_0004.png: labelled cat, probably dog.\n" in lesson
    for part in (
        "sealed, completed",
        "cnn (12,345 parameters)",
        "photos: 120 images of 3 classes (90 train, 30 val)",
        "1 truncated",
    ):
        assert part in header
    for part in ("cat, dog, great pyrenees", "batch_size 8", "torch 2.15.0", "cpu, 1 thread"):
        assert part in header
    answer = json.loads(capture("inspect", "run", "--json").stdout)
    epochs = table(done.stdout, "epoch  train loss")
    assert [row[0] for row in epochs] == ["0", "1", "* 2"]
    for row, one in zip(epochs, answer["epochs"], strict=True):
        sums = [one["train"]["loss"], one["train"]["accuracy"], one["val"]["loss"], one["val"]["accuracy"]]
        assert row[1:] == [*(f"{value:.3f}" for value in sums), "120"]
    classes = table(done.stdout, "class ")
    assert [row[:2] for row in classes] == [["cat", "10"], ["dog", "10"], ["great pyrenees", "10"]]
    pairs = table(done.stdout, "label ")
    assert sum(int(row[2]) for row in pairs) == sum(int(row[2]) for row in classes)
    worst = table(done.stdout, "highest loss")
    assert [row[1] for row in worst] == [one["file"] for one in answer["phase"]["worst"]]


@pytest.mark.usefixtures("run")
def test_json_has_it_all(tmp_path: Path, capture: Capture) -> None:
    """It is one object with the same numbers as the rows."""
    answer = json.loads(capture("inspect", "run", "--json").stdout)
    rows = [json.loads(line) for line in capture("rows", "run", "--where", "phase = 'val' and epoch = 2").stdout.splitlines()]
    assert (answer["state"], answer["status"], answer["error"]) == ("sealed", "completed", None)
    assert (answer["folder"], answer["model"]["name"], answer["samples"]) == ("photos", "cnn", {"train": 90, "val": 30})
    assert answer["skipped"] == {"truncated": 1}
    phase = answer["phase"]
    assert (phase["phase"], phase["epoch"], phase["n"]) == ("val", 2, 30)
    assert phase["correct"] == sum(row["correct"] for row in rows)
    by_class = {one["name"]: one["recall"] for one in phase["classes"]}
    assert by_class == {
        name: sum(row["correct"] for row in rows if row["label"] == name) / 10 for name in ("cat", "dog", "great pyrenees")
    }
    worst = [{name: one[name] for name in rows[0]} for one in phase["worst"]]
    expected = sorted(rows, key=lambda row: -row["loss_nats"])[:8]
    assert [one | {"margin": 0} for one in worst] == [row | {"margin": 0} for row in expected]
    jq = ["jq", "-r", ".phase.classes[] | [.name, .recall] | @tsv"]
    text = subprocess.run(jq, input=json.dumps(answer), capture_output=True, text=True, check=True).stdout
    assert len(text.splitlines()) == 3


@pytest.mark.usefixtures("run")
def test_the_suggested_commands_work(capture: Capture, tmp_path: Path) -> None:
    """Each can be copied into a shell, even if the path of the run needs quoting."""
    odd = tmp_path / "a run's $HOME"
    (tmp_path / "run").rename(odd)
    text = capture("inspect", odd.name).stdout
    commands = text.split("next:\n")[1].splitlines()
    answer = json.loads(capture("inspect", odd.name, "--json").stdout)
    assert commands == answer["commands"]
    assert len(commands) == 3
    shown = [line[2:] for line in text.splitlines() if line.startswith("  capture")]
    assert shown == [one["command"] for one in answer["lesson"]]
    for command in [*commands, *shown]:
        script = f'set -o pipefail; capture() {{ {shlex.join(CAPTURE)} "$@"; }}; {command}'
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout, command


@pytest.mark.usefixtures("run")
def test_a_run_may_come_through_a_pipe(capture: Capture, tmp_path: Path) -> None:
    """The output is the same for a folder, a file and stdin."""
    records = tmp_path / "run" / "records.jsonl"
    answers = [json.loads(capture("inspect", name, "--json").stdout) for name in ("run", "run/records.jsonl")]
    with records.open("rb") as file:
        answers.append(json.loads(capture("inspect", "-", "--json", stdin=file).stdout))
    for one in answers:
        del one["run"], one["commands"]
        for finding in one["lesson"]:
            del finding["command"]
    assert answers[0] == answers[1] == answers[2]
    with records.open("rb") as file:
        assert "capture rows RUN" in capture("inspect", "-", stdin=file).stdout


def test_a_run_that_is_still_going(capture: Capture, tmp_path: Path) -> None:
    """The header says so, and the phase under way is shown beside the complete ones."""
    data = b"".join(chained(list(run_records(epochs=3, per_class=40))[:-9]))
    (tmp_path / "going.jsonl").write_bytes(data[:-10])
    done = capture("inspect", "going.jsonl")
    assert done.returncode == 0
    assert "skipped an incomplete last line: still running or cut off" in done.stdout
    assert "val, epoch 1: " in done.stdout
    last = table(done.stdout, "epoch  train loss")[-1]
    assert last[0] == "2"
    assert last[1].startswith("(")
    assert last[-1].endswith("so far")
    answer = json.loads(capture("inspect", "going.jsonl", "--json").stdout)
    assert (answer["state"], answer["status"]) == ("torn", None)
    assert [(one["phase"], one["epoch"]) for one in answer["under_way"]] == [("train", 2)]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_damage_is_reported_and_the_part_before_it_is_shown(capture: Capture, tmp_path: Path, as_json: list[str]) -> None:
    """The exit code is 4, stderr names the line, and nothing after it is used."""
    lines = chained(run_records(epochs=3, per_class=40))
    place = [number for number, line in enumerate(lines) if b'"kind":"epoch"' in line][3] + 1
    lines[place] = lines[place].replace(b"0.", b"1.", 1)
    (tmp_path / "damaged.jsonl").write_bytes(b"".join(lines))
    done = capture("inspect", "damaged.jsonl", *as_json)
    assert done.returncode == 4
    assert f"line {place + 1} is not what was written" in done.stderr
    assert "not trusted" in done.stderr
    if as_json:
        answer = json.loads(done.stdout)
        assert (answer["state"], answer["lines"], len(answer["epochs"]), answer["phase"]["epoch"]) == ("damaged", place, 2, 1)
        assert f"line {place + 1}" in answer["error"]
    else:
        assert "damaged: line" in done.stdout
        assert [row[0] for row in table(done.stdout, "epoch  train loss")] == ["0", "* 1"]


def test_an_impossible_record_is_reported_too(capture: Capture, tmp_path: Path) -> None:
    """Every batch of the shown phase is read, so it is found even if the chain holds."""
    records = list(run_records())
    place = max(number for number, one in enumerate(records) if isinstance(one, Batch))
    batch = records[place]
    assert isinstance(batch, Batch)
    records[place] = replace(batch, labels=batch.labels + 99)
    write_run(tmp_path / "run", records)
    done = capture("inspect", "run")
    assert done.returncode == 4
    assert f"run/records.jsonl: line {place + 1}: in this batch record labels are outside the 3 classes" in done.stderr


def test_a_run_with_only_a_header(capture: Capture, tmp_path: Path) -> None:
    """A run has no batch in its first seconds."""
    write_run(tmp_path / "run", list(run_records())[:1])
    done = capture("inspect", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no end line: still running or cut off" in done.stdout
    assert "capture rows run --limit 5" in done.stdout


@pytest.mark.usefixtures("run")
def test_one_image(capture: Capture) -> None:
    """`--sample` shows its visits, which are its rows."""
    done = capture("inspect", "run", "--sample", "dog_0002.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "label dog, split val" in done.stdout
    answer = json.loads(capture("inspect", "run", "--sample", "dog_0002.png", "--json").stdout)
    rows = [json.loads(line) for line in capture("rows", "run", "--where", "file = 'dog_0002.png'").stdout.splitlines()]
    assert [one | {"margin": 0} for one in answer["visits"]] == [row | {"margin": 0} for row in rows]
    shown = table(done.stdout, "phase  epoch")
    assert [row[:2] for row in shown] == [[row["phase"], str(row["epoch"])] for row in rows]
    assert [("wrong" in row) for row in shown] == [not row["correct"] for row in rows]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            "0011.png",
            "3 images end in '0011.png': 'cat_0011.png', 'dog_0011.png', 'great pyrenees_0011.png'; give the whole path",
        ),
        ("dog_11.png", "no image 'dog_11.png' among the 120 of this run; did you mean 'dog_0011.png'"),
    ],
)
@pytest.mark.usefixtures("run")
def test_an_ambiguous_image(capture: Capture, sample: str, message: str) -> None:
    """The exit code is 2, and the error lists candidates."""
    done = capture("inspect", "run", "--sample", sample)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("args", [["--worst", "-1"], ["--limit", "0"], ["--worst", "x"], ["--nope"]])
@pytest.mark.usefixtures("run")
def test_wrong_usage(capture: Capture, args: list[str]) -> None:
    """It is one line and exit code 2."""
    done = capture("inspect", "run", *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


NASTY = [
    os.fsdecode(name)
    for name in (
        b"\x1b[2Jclear.png",
        b"\x1b]52;c;aGk=\x07clip.png",
        b"new\nline.png",
        b"\xff\x80raw.png",
        "\u202egnp.exe".encode(),
        b"[bold]markup[/bold] :smile:.png",
        b"a" * 240 + b".png",
        "日本語😀.png".encode(),
    )
]


def nasty_run() -> Iterator[Record]:
    for record in run_records(files=NASTY, classes=("\x1b[31mred", "[/]", "'; drop"), val_every=0, folder="\x1b]0;title\x07"):
        yield replace(record, model={"name": "\x1b[5m", "parameters": "many"}) if isinstance(record, RunInfo) else record


def test_names_are_hostile(capture: Capture, tmp_path: Path) -> None:
    """In a pipe every name is whole, on one line, without control characters. In JSON it is exact."""
    write_run(tmp_path / "run", nasty_run())
    done = capture("inspect", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.isprintable() for line in done.stdout.splitlines())
    for text in ("a" * 240 + ".png", r"new\nline.png", "[bold]markup[/bold] :smile:.png", "日本語😀.png", r"\x1b[2Jclear.png"):
        assert text in done.stdout
    answer = json.loads(capture("inspect", "run", "--json").stdout)
    assert {one["file"] for one in answer["phase"]["worst"]} <= set(NASTY)
    for name in NASTY:
        shown = capture("inspect", "run", "--sample", name)
        assert shown.returncode == 0, shown.stderr
        assert all(line.isprintable() for line in shown.stdout.splitlines())


def test_names_that_the_encoding_lacks(capture: Capture, tmp_path: Path) -> None:
    """They are escaped if stdout is ASCII."""
    write_run(tmp_path / "run", run_records(files=["日本.png", "b.png"], classes=("é", "x"), val_every=0))
    done = capture("inspect", "run", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u65e5\u672c.png" in done.stdout


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_names_are_hostile_on_a_terminal_too(tmp_path: Path, columns: int) -> None:
    """No control sequence except colours reaches the terminal, however narrow it is."""
    write_run(tmp_path / "run", nasty_run())
    screen = on_terminal(tmp_path, "run", columns=columns)
    assert "epoch" in screen.text
    assert all(line.isprintable() for line in screen.lines)


def pictured_run(tmp_path: Path, *, folder: str = "images", run: str = "run") -> Path:
    """Write a run on real image files, with their digests."""
    images = make_images(tmp_path / "images", classes=3, each=12, colour=True)
    files = sorted(path.name for path in images.iterdir())
    digests = [blake2b((images / file).read_bytes(), digest_size=16).hexdigest() for file in files]
    return write_run(tmp_path / run, run_records(files=files, digests=digests, folder=folder))


def test_the_worst_have_pictures_on_a_terminal(tmp_path: Path) -> None:
    """They are half blocks in colour if the image files have not changed. A pipe gets none."""
    pictured_run(tmp_path)
    screen = on_terminal(tmp_path, "run")
    assert screen.text.count("▀" * 8) >= 8 * 4
    assert any(style.startswith("38;2;") for style in screen.styles)
    assert "without a picture" not in screen.text
    assert "▀" in on_terminal(tmp_path, "run", "--sample", "ant_003.png").text
    piped = subprocess.run([*CAPTURE, "inspect", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout
    assert "▀" not in piped
    assert "\x1b" not in piped


def test_a_picture_is_of_the_file_that_was_trained_on(tmp_path: Path) -> None:
    """A file that changed, is missing or became a link is not shown, and a note says why."""
    pictured_run(tmp_path)
    answer = json.loads(
        subprocess.run([*CAPTURE, "inspect", "run", "--json"], cwd=tmp_path, capture_output=True, timeout=60).stdout
    )
    first, second, third = (one["file"] for one in answer["phase"]["worst"][:3])
    (tmp_path / "images" / first).write_bytes((tmp_path / "images" / second).read_bytes())
    (tmp_path / "images" / second).unlink()
    (tmp_path / "images" / third).rename(tmp_path / "elsewhere.png")
    (tmp_path / "images" / third).symlink_to(tmp_path / "elsewhere.png")
    text = on_terminal(tmp_path, "run", "--worst", "4", columns=200).text
    assert "1 without a picture: the file has changed since the run" in text
    assert "1 without a picture: the file is not there" in text
    assert "1 without a picture: symlink" in text
    assert "▀" in text


def test_where_the_images_are(tmp_path: Path) -> None:
    """They are in the recorded folder, else in the folder of events.jsonl, else in --folder."""
    pictured_run(tmp_path, folder="not/here")
    note = "no pictures: the folder 'not/here' of this run is not here; --folder PATH says where its images are now"
    assert note in on_terminal(tmp_path, "run", columns=200).text
    assert "▀" in on_terminal(tmp_path, "run", "--folder", "images").text
    start = json.dumps({"event": "start", "folder_absolute": str(tmp_path / "images")})
    (tmp_path / "run" / "events.jsonl").write_text(f"not json\n[]\n{start}\n")
    assert "▀" in on_terminal(tmp_path, "run").text


def test_a_thousand_classes(capture: Capture, tmp_path: Path) -> None:
    """The tables stay short and say how much is not shown. The JSON has everything."""
    classes = [f"class {number}" for number in range(1000)]
    write_run(tmp_path / "run", run_records(classes=classes, per_class=3, top_k=10, epochs=1, batch_size=256))
    done = capture("inspect", "run")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) < 75
    assert "20 of 1,000 classes, those of the lowest recall; --limit 1000 shows all" in done.stdout
    assert re.search(r"and [\d,]+ more pairs", done.stdout)
    assert len(table(done.stdout, "class ")) == 21
    phase = json.loads(capture("inspect", "run", "--json").stdout)["phase"]
    assert len(phase["classes"]) == 1000
    assert phase["confusions_omitted"] > 0


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Three times as many epochs need no more memory."""
    code = "import sys; from capture_cli.cli import run; run(['inspect', sys.argv[1]]); "
    # Of this process alone: getrusage would count what the test process had when it started it.
    code += "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) >> 10, file=sys.stderr)"
    peaks = []
    for epochs in (5, 15):
        path = write_run(tmp_path / str(epochs), run_records(epochs=epochs, per_class=1500, batch_size=64))
        command = [CAPTURE[0], "-c", code, path]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True, timeout=100)
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] < peaks[0] + 8
