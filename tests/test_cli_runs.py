"""`capture runs`: a table of runs, and the removal of some."""

import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.cells import cell_len

from capture_cli import Recorder
from capture_cli.cli import run
from capture_cli.journal import Journal
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import listing
from capture_cli.runs.listing import listed
from capture_cli.runs.names import Place, place_of, run_folders
from capture_cli.views.terminal import runs as view
from conftest import CAPTURE, make_images
from runs import run_records, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make three runs (a, b of two epochs; c, cut off in its third), the newest first, and one in a folder of its own.

    The clock stands still 5 seconds after the newest.
    """
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for age, (name, seed, lr) in enumerate([("a", 0, 0.1), ("b", 1, 0.01), ("c", 2, 0.1), ("sweep/d", 3, 0.1)]):
        records = list(run_records(seed=seed, epochs=3 if name == "c" else 2, status=None if name == "c" else "completed"))
        assert isinstance(records[0], RunInfo)
        records[0] = replace(records[0], config={**records[0].config, "lr": lr, "epochs": 3})
        file = write_run(tmp_path / "runs" / name, records) / "records.jsonl"
        os.utime(file, (now - 60 * age - 5, now - 60 * age - 5))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def _json(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    assert run(["runs", *args, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["runs"]
    return found


def test_the_table_shows_what_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, best accuracy, the options that differ, age, size and state; a model that is equal is above the table."""
    assert run(["runs"]) == 0
    title, _, head, first, _, third = capsys.readouterr().out.splitlines()[:6]
    assert title.endswith("; all cnn")
    assert head.split() == ["run", "best", "accuracy", "epoch", "seed", "lr", "written", "size", "state"]
    best = max(one.accuracy for one in listed_run(runs / "a").epochs if one.phase == "val" and one.accuracy)
    assert first.split()[:4] == ["@1", "a", f"{best:.3f}", "val"]
    assert "  5 s ago  " in first
    assert first.endswith("completed")
    assert third.endswith("cut off, epoch 2 of 3")


def listed_run(folder: Path) -> listing.ListedRun:
    """Look at one run folder."""
    place = place_of(folder)
    assert place
    return listed(place)


def test_what_is_equal_in_some_runs_only_is_a_column(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where `--limit` hides the run that differs: the title speaks of all."""
    assert run(["runs", str(runs / "a"), str(runs / "b")]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("; all cnn, completed")
    assert run(["runs", "--limit", "2"]) == 0
    title, _, head = capsys.readouterr().out.splitlines()[:3]
    assert title.endswith("; all cnn")
    assert head.endswith("state")


def test_recorders_without_a_model_have_no_name_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the state is all that they share, the title says that alone."""
    for name in ("a", "b"):
        Recorder(tmp_path / name).close()
    assert run(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("; all completed")


def test_columns_are_chosen(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of --sort and --where, in the order given; one that no run has is refused, with the list."""
    assert run(["runs", "--columns", "name, lr,age,accuracy", "--limit", "1"]) == 0
    head, row = capsys.readouterr().out.splitlines()[2:4]
    best = listed_run(runs / "a").best
    assert head.split() == ["name", "lr", "age", "accuracy"]
    assert row.split() == ["a", "0.1", "5", "s", "ago", f"{best.accuracy:.3f}" if best else ""]
    assert run(["runs", "--columns", "colour"]) == 2
    assert "--columns colour is not valid; choose name, path, age, " in capsys.readouterr().err
    for other in ("--json", "--rm"):
        assert run(["runs", str(runs / "a"), "--columns", "name", other]) == 2
        assert run(["runs", str(runs / "a"), "--csv", other]) == 2
    assert (runs / "a").exists()


def test_csv_has_every_column(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the values of the JSON, in the order that was asked for; without runs there is the header alone."""
    assert run(["runs", "runs", "sweep", "--csv", "--sort", "name"]) == 0
    rows = list(csv.DictReader(io.StringIO(text := capsys.readouterr().out)))
    assert "\r" not in text
    as_json = _json(capsys, "runs", "sweep", "--sort", "name")
    assert [(row["path"], int(row["bytes"]), row["lr"]) for row in rows] == [
        (one["path"], one["bytes"], json.dumps(one["options"]["lr"])) for one in as_json
    ]
    assert [float(row["accuracy"]) for row in rows] == [one["best"]["accuracy"] for one in as_json]
    assert [round(float(row["age"])) for row in rows] == [5, 65, 125, 185]
    assert run(["runs", "--csv", "--columns", "lr,name", "--limit", "1"]) == 0
    assert capsys.readouterr().out == "lr,name\n0.1,a\n"
    Path("none").mkdir()
    assert run(["runs", "none", "--csv", "--where", "accuracy > 0", "--columns", "name,accuracy"]) == 0
    said = capsys.readouterr()
    assert said.out == "name,accuracy\n"
    assert "there are no runs in none" in said.err


def test_options_that_differ_come_before_the_age(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have a column where there is room for little else."""
    found = [listed_run(runs / one) for one in "ab"]
    view.show_runs(found, where="runs", places=[1, 2], options=["seed", "lr"], now=0.0, width=44)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[2].split() == ["run", "best", "accuracy", "epoch", "seed", "lr"]
    assert lines[-1] == "no room for size, written"


def test_runs_in_a_folder_are_pointed_at(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep in runs/sweep is not lost."""
    assert run(["runs"]) == 0
    assert "more runs in runs/sweep: capture runs runs/sweep" in capsys.readouterr().out
    assert [one["name"] for one in _json(capsys, "sweep")] == ["d"]
    assert [one["name"] for one in _json(capsys, "runs/b", "last")] == ["a", "b"]


def test_inspect_of_a_folder_of_runs_lists_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same table; other commands say where to look."""
    assert run(["inspect", "runs"]) == 0
    assert run(["runs"]) == 0
    inspected, listed_there = capsys.readouterr().out.split("runs: 3 runs")[1:]
    assert inspected == listed_there
    assert run(["verify", "runs"]) == 2
    assert "no records.jsonl in 'runs'; it holds runs: see `capture runs runs`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ((), "abc"),
        (("--sort", "name", "--reverse"), "cba"),
        (("--sort", "lr"), "bac"),
        (("--where", "lr = 0.1 and state = 'completed'"), "a"),
        (("--where", "age > 30"), "bc"),
        (("--limit", "2"), "ab"),
    ],
)
def test_sorting_and_filtering(runs: Path, args: tuple[str, ...], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By any column and any option."""
    assert "".join(str(one["name"]) for one in _json(capsys, *args)) == names


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--sort nothing", "--sort nothing is not valid; choose name, path, age"),
        ("--where colour=1", "write an SQL condition on name, path, age"),
        ("--where accuracy>", "--where 'accuracy>': the condition ends too early; write an SQL condition on name, path, age"),
        ("--sort acc", "--sort acc is not valid; did you mean accuracy?"),
        ("--where 1;drop", "--where"),
        ("nowhere", "no such run: 'nowhere'"),
        ("--yes", "--yes is only valid with --rm"),
        ("--rm", "--rm names no run"),
        ("--rm a", "--rm asks first, and stdin is not a terminal; add --yes"),
        ("--rm a images -y", "'images' is not a run folder"),
        ("--rm runs/sweep -y", "'runs/sweep' is not a run folder"),
        ("--rm link -y", "'runs/link' is a link"),
        ("--rm a b -y", "'runs/b' also holds 'notes.txt', which capture did not write"),
    ],
)
def test_what_is_refused_changes_nothing(runs: Path, args: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line, and every run is still there."""
    make_images(runs.parent / "images", each=1)
    (runs / "link").symlink_to(runs / "a")
    (runs / "b" / "notes.txt").touch()
    before = sorted(runs.parent.rglob("*"))
    assert run(["runs", *args.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(runs.parent.rglob("*")) == before


def test_files_of_records_are_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder that is named, or by their names; they have no number, and other lines of JSON are no run."""
    lines = (runs / "b" / "records.jsonl").read_bytes()
    for name in ("mine.jsonl", "runs/mine.jsonl"):
        Path(name).write_bytes(lines)
    Path("other.jsonl").write_text('{"seq": 1}\n')
    (found,) = _json(capsys, ".")
    assert (found["name"], found["path"], found["state"], found["bytes"]) == (
        "mine.jsonl",
        "mine.jsonl",
        "completed",
        len(lines),
    )
    assert found["best"] == _json(capsys, "b")[0]["best"]
    assert [one["name"] for one in _json(capsys, "mine.jsonl", "b")] == ["mine.jsonl", "b"]
    assert run(["runs"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sorted(row[0] for row in rows if row and row[0][0] == "@") == ["@1", "@2", "@3"]
    assert any(row[:1] == ["mine.jsonl"] for row in rows)
    assert run(["runs", "--rm", "mine.jsonl", "-y"]) == 2
    assert "'mine.jsonl' is a file, and --rm removes run folders" in capsys.readouterr().err
    assert Path("mine.jsonl").exists()


def test_a_run_is_removed_whole(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With everything in its folder, by any of its names; the others stay."""
    (runs / "a" / "inputs").mkdir()
    for name in (
        "inputs/pack",
        "events.jsonl",
        "config.toml",
        "model.safetensors",
        "best.safetensors",
        ".model.safetensors.part",
    ):
        (runs / "a" / name).touch()
    assert run(["runs", "--rm", "last", "sweep/d", "--yes"]) == 0
    assert "removed 2 runs" in capsys.readouterr().err
    assert [place.folder.name for place in run_folders(runs)] == ["b", "c"]
    assert not (runs / "a").exists()


def test_runs_are_removed_by_a_condition(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those in the folders that are named; each is shown, and where none fulfils it nothing happens."""
    assert run(["runs", "runs", "--where", "lr > 5", "--rm", "--yes"]) == 0
    assert "no run fulfils --where 'lr > 5'; nothing was removed" in capsys.readouterr().err
    assert run(["runs", "runs", "--where", "lr = 0.1", "--rm"]) == 2
    assert [place.folder.name for place in run_folders(runs)] == ["a", "b", "c"]
    assert run(["runs", "runs", "--where", "lr = 0.1", "--rm", "--yes"]) == 0
    assert "runs/a: completed" in (said := capsys.readouterr().err)
    assert "removed 2 runs" in said
    assert [place.folder.name for place in run_folders(runs)] == ["b"]
    assert (runs / "sweep" / "d").exists()


@pytest.mark.parametrize("sort", ["accuracy", "loss"])
def test_runs_without_validation_come_after_the_others(runs: Path, sort: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Their figures are of the training images: the best of all is no rival."""
    records = [
        replace(one, loss=0.0, **({"accuracy": 1.0} if one.accuracy is not None else {})) if isinstance(one, Epoch) else one
        for one in run_records(val_every=0)
    ]
    write_run(runs / "trained", records)
    for order in ([], ["--reverse"]):
        assert [one["name"] for one in _json(capsys, "--sort", sort, *order)][-1] == "trained"


def test_a_long_value_takes_no_room_from_other_columns(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a column is too long for the terminal, all others are shown that fit."""
    found = [listed_run(runs / one) for one in "ab"]
    for one in found:
        assert one.info
        long = replace(one.info, folder="/a/long/folder/of/images" * 3, model={"name": one.folder.name})
        object.__setattr__(one, "info", long)
    view.show_runs(found, where="runs", places=[1, 2], options=["folder", "seed", "lr"], now=0.0, width=80)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert {"model", "seed", "lr", "epoch"} <= set(lines[2].split())
    assert "folder" in lines[-1]
    assert "model" not in lines[-1]


def test_a_run_that_is_written_is_not_removed(runs: Path) -> None:
    """The lock of its records, held by another process, protects it; it is shown as running."""
    with Journal.create(runs / "b" / "records.jsonl", force=True):
        shown = subprocess.run([*CAPTURE, "runs", "b"], capture_output=True, text=True, check=True)
        assert "running" in shown.stdout
        done = subprocess.run([*CAPTURE, "runs", "--rm", "a", "b", "-y"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'runs/b' is being written; stop the run first" in done.stderr
    assert (runs / "a" / "records.jsonl").exists()


def test_it_asks_first(runs: Path) -> None:
    """On a terminal, naming each run; anything but yes removes nothing."""
    for typed, left in ((b"n\n", True), (b"y\n", False)):
        parent, child = pty.openpty()
        os.write(parent, typed)
        done = subprocess.run([*CAPTURE, "runs", "--rm", "a"], stdin=child, capture_output=True, text=True, check=False)
        os.close(parent)
        os.close(child)
        assert "runs/a: completed, best accuracy" in done.stderr
        assert (runs / "a").exists() is left, done.stderr


def test_the_epochs_are_found_by_the_events(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the end too, at the places that the events of the run name; a place that is not right is passed over."""
    whole = listed_run(runs / "a")
    data = (runs / "a" / "records.jsonl").read_bytes()
    with (runs / "a" / "events.jsonl").open("wb") as events:
        for one in whole.epochs:
            end = (
                data.index(b"\n", data.index(b'"kind":"epoch","phase":"%b","epoch":%d,' % (one.phase.encode(), one.epoch))) + 1
            )
            events.write(orjson.dumps({"event": "epoch", "phase": one.phase, "epoch": one.epoch, "records_bytes": end}) + b"\n")
        for wrong in (-5, 10, 2**70, "x", None, len(data) + 1):
            events.write(json.dumps({"event": "epoch", "phase": "val", "epoch": 0, "records_bytes": wrong}).encode() + b"\n")
            events.write(b'{"event":"start"}\n')
    monkeypatch.setattr(listing, "_END_BYTES", 400)
    monkeypatch.setattr(listing, "TAIL_BYTES", 400)
    again = listed_run(runs / "a")
    assert sorted(again.epochs, key=_key) == sorted(whole.epochs, key=_key)
    assert not again.epochs_omitted
    (runs / "a" / "events.jsonl").unlink()
    last = listed_run(runs / "a")
    assert last.epochs_omitted
    assert len(last.epochs) < len(whole.epochs)


def _key(one: Epoch) -> tuple[int, str]:
    return one.epoch, one.phase


def test_training_names_the_places(tmp_path: Path) -> None:
    """The events of `capture train` say where every epoch record ends."""
    images = make_images(tmp_path / "images")
    out = tmp_path / "run"
    assert run(["train", str(images), "-m", "linear", "-e", "3", "-q", "-o", str(out)]) == 0
    data = (out / "records.jsonl").read_bytes()
    ends = [event["records_bytes"] for event in map(orjson.loads, (out / "events.jsonl").open()) if event["event"] == "epoch"]
    assert [b'"kind":"epoch"' in data[:end].splitlines()[-1] for end in ends] == [True] * 6


def test_added_epochs_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their run record is between the records of the first epochs and the others, far from both ends of a longer run."""
    images = make_images(tmp_path / "images")
    out = tmp_path / "run"
    assert run(["train", str(images), "-m", "linear", "-e", "2", "-q", "-o", str(out)]) == 0
    for epochs in (3, 4):
        assert run(["train", "--resume", str(out), "-e", str(epochs), "-q"]) == 0
        monkeypatch.setattr(listing, "_END_BYTES", 400)
        assert listed_run(out).options["epochs"] == listed_run(out).last_epoch == epochs
    data = (out / "records.jsonl").read_bytes()
    assert b'"kind":"run"' not in data[-400:]
    assert data.count(b'"kind":"run"') == 3


def test_the_files_of_several_ranks_are_one_run(runs: Path) -> None:
    """Their epochs are added up; the state is the worst."""
    alone = listed_run(runs / "a")
    shutil.copy(runs / "c" / "records.jsonl", runs / "a" / "records-rank1.jsonl")
    both = listed_run(runs / "a")
    assert (alone.state, both.state) == ("completed", "cut off")
    sizes = {(one.phase, one.epoch): one.n for one in alone.epochs}
    assert all(one.n == 2 * sizes[one.phase, one.epoch] for one in both.epochs if (one.phase, one.epoch) in sizes)


@pytest.mark.parametrize(
    ("content", "state"),
    [(b"", "cut off"), (b"not records\n", "damaged"), (b'{"seq":0,"kind":"end"}\n', "damaged"), (b'{"seq":0', "cut off")],
)
def test_a_folder_that_is_hardly_a_run_is_listed(tmp_path: Path, content: bytes, state: str) -> None:
    """It has a row like the others."""
    (tmp_path / "records.jsonl").write_bytes(content)
    found = listed(Place(tmp_path, 0.0))
    assert (found.state, found.info, found.best) == (state, None, None)
    assert bool(found.problem) is (state == "damaged")


@pytest.mark.parametrize("width", [120, 60, 30, 12])
def test_a_name_is_never_broken(runs: Path, capsys: pytest.CaptureFixture[str], width: int) -> None:
    """Other columns give way, and are named; without room for even the name, the terminal breaks the line."""
    name = "20261201-021653-evaluate-cnn-2"
    (runs / "a").rename(runs / name)
    view.show_runs(
        [listed_run(runs / one) for one in (name, "b")],
        where="runs",
        places=[1, 2],
        options=["seed", "lr"],
        now=0.0,
        width=width,
    )
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert sum(name in line for line in out.splitlines()) == 1
    assert ("no room for size, written" in out) == (30 < width < 100)
    assert all(cell_len(line) <= width for line in out.splitlines()[1:]) == (width > 30)
