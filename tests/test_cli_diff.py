"""`capture diff` on the command line: real runs, pipes, exit codes and hostile names."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest

from calling import called
from capture_cli.records import Batch, RunInfo
from conftest import CAPTURE, Capture, make_images
from runs import chained, run_records, write_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real runs: `one` and `same` have the same options, `other` an additional image and another learning rate."""
    place = tmp_path_factory.mktemp("trained")
    make_images(place / "images")
    shutil.copytree(place / "images", place / "more")
    shutil.copy(place / "more" / "ant_000.png", place / "more" / "ant_100.png")
    for name, folder, options in (("one", "images", []), ("same", "images", []), ("other", "more", ["--lr", "0.05"])):
        args = ["train", folder, "-m", "linear", "-e", "2", "-b", "8", "-q", *options, "-o", name]
        done = called(*args, cwd=place)
        assert done.returncode == 0, done.stderr
    return place


def test_two_equal_trainings_are_equal(trained: Path, capture: Capture) -> None:
    """The same options and files give one line and exit code 0. A file and its folder are the same run."""
    done = capture("diff", "one", "same", cwd=trained)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("equal: one and same, ")
    assert capture("diff", "one/records.jsonl", "one", cwd=trained).returncode == 0


def test_differences_between_two_trainings_are_named(trained: Path, capture: Capture) -> None:
    """The option, the counts and listing of the files and the added image are named. The exit code is 1."""
    done = capture("diff", "one", "other", "--json", cwd=trained)
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert (found["equal"], found["relation"]) == (False, "differ")
    told = {change["name"]: (change["a"], change["b"]) for change in found["run"]}
    assert told["config.lr"][1] == 0.05
    assert sum(b - a for name, (a, b) in told.items() if name in ("images.train", "images.val")) == 1
    assert {"folder", "images.listing_digest"} <= told.keys()
    assert not {name for name in told if name.startswith(("versions", "device", "threads", "classes", "model", "recipe"))}
    assert found["files"]["only_b"] == {"count": 1, "first": ["ant_100.png"]}
    assert found["files"]["split"]["count"] == found["files"]["bytes"]["count"] == 0
    assert (found["first_difference"]["a"]["kind"], found["first_difference"]["a"]["seq"]) == ("run", 0)
    assert found["predictions"]["phase"] == "val"
    assert found["predictions"]["both"] > 0
    text = capture("diff", "one", "other", cwd=trained)
    assert text.returncode == 1
    first, *lines = text.stdout.splitlines()
    a, b, n = (found["measures"][name] for name in ("accuracy_a", "accuracy_b", "images"))
    assert first.startswith(f"val accuracy {a:.3f} in A, {b:.3f} in B, over {n} images in both; p = ")
    assert "different: one and other diverge at line 1, run, in config.lr" in lines


def test_every_row_is_a_line_in_a_pipe(tmp_path: Path, capture: Capture) -> None:
    """It is plain aligned text in a fixed order. Nothing is shortened or escaped."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", run_records(seed=1, folder="photos/" + "x" * 200))
    done = capture("diff", "a", "b")
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    records = ["different: ", "first difference: run", "first batch that differs: batch (train, epoch 0, batch 0)"]
    assert in_order(lines, ["val accuracy ", "A  ", "B  ", "setting", "val, epoch 1", *records])
    (folder,) = [line.split() for line in lines if line.startswith("folder ")]
    assert folder == ["folder", "photos", "photos/" + "x" * 200]


def in_order(lines: list[str], starts: list[str]) -> bool:
    """Tell if the first lines that start so come in this order."""
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in starts]
    return places == sorted(places)


def test_without_flips_there_is_no_test_of_them(tmp_path: Path, capture: Capture) -> None:
    """The first line says that nothing flipped, not that chance may do it."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", run_records(folder="elsewhere"))
    first = capture("diff", "a", "b").stdout.splitlines()[0]
    assert first.endswith(", over 9 images in both; no image is right in one of them alone")


@pytest.mark.parametrize("change", [{}, {"threads": 2}, {"versions": {"torch": "3.0"}}])
def test_a_difference_that_nobody_set_comes_first(tmp_path: Path, capture: Capture, change: dict[str, Any]) -> None:
    """Of runs with the same options and images, where they diverge says more than what became of their predictions."""
    write_run(tmp_path / "a")
    head, *records = run_records()
    assert isinstance(head, RunInfo)
    (at, *_) = [number for number, one in enumerate(records) if isinstance(one, Batch)]
    records[at] = replace(records[at], loss=9.0)
    write_run(tmp_path / "b", [replace(head, **change), *records])
    lines = capture("diff", "a", "b").stdout.splitlines()
    first = "first batch that differs: " if change else "first difference: batch"
    assert lines[0].startswith("different: a and b diverge at line ")
    assert in_order(lines, ["different: ", "A  ", "B  ", first, *(["setting"] if change else []), "val, epoch 1"])


def test_the_limit_holds(tmp_path: Path, capture: Capture) -> None:
    """--limit 1 lists one image for each direction and one class. All are counted."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", run_records(seed=1))
    found = json.loads(capture("diff", "a", "b", "--limit", "1", "--json").stdout)["predictions"]
    assert len(found["right_to_wrong"]["first"]) == 1 < found["right_to_wrong"]["count"]
    text = capture("diff", "a", "b", "--limit", "1").stdout
    assert f"and {found['right_to_wrong']['count'] - 1} more images" in text


def test_one_of_the_runs_may_come_through_a_pipe(tmp_path: Path, capture: Capture) -> None:
    """`-` is stdin for either run. For both it is wrong usage."""
    write_run(tmp_path / "a")
    text = (tmp_path / "a" / "records.jsonl").read_text()
    assert capture("diff", "-", "a", input=text).returncode == 0
    assert capture("diff", "a", "-", input=text[: len(text) // 2]).stdout.startswith("B is a prefix of A: ")
    both = capture("diff", "-", "-", input=text)
    assert (both.returncode, both.stdout) == (2, "")
    assert "stdin can be only one" in both.stderr
    best = capture("diff", "a", "-", "--epoch", "best", input=text)
    assert (best.returncode, best.stdout) == (2, "")
    assert "stdin can be read only once; save the records to a file, and name that" in best.stderr


@pytest.mark.parametrize("args", [["diff", "a"], ["diff", "a", "nowhere"], ["diff", "a", "a", "--limit", "-1"]], ids=" ".join)
def test_wrong_usage(tmp_path: Path, capture: Capture, args: list[str]) -> None:
    """It is exit code 2 and one line on stderr, with nothing on stdout."""
    write_run(tmp_path / "a")
    done = capture(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("capture: ")
    assert len(done.stderr.splitlines()) == 1


def test_damage_is_exit_code_4(tmp_path: Path, capture: Capture) -> None:
    """The part before it is compared. Stderr and the JSON name the file and the line."""
    lines = chained(run_records())
    write_run(tmp_path / "a")
    (tmp_path / "b.jsonl").write_bytes(b"".join([*lines[:5], *lines[6:]]))
    done = capture("diff", "a", "b.jsonl")
    assert done.returncode == 4
    assert done.stdout.startswith("undecided: 5 lines of a and b.jsonl are equal")
    assert "b.jsonl: line 6" in done.stderr
    found = json.loads(capture("diff", "a", "b.jsonl", "--json").stdout)
    assert (found["relation"], found["equal"], found["a"]["error"]) == ("undecided", False, None)
    assert "line 6" in found["b"]["error"]


def test_hostile_names_reach_no_terminal(tmp_path: Path, capture: Capture) -> None:
    """Escape sequences, markup and bytes that are not UTF-8 are shown escaped in file, class and option names."""
    bad = "cat\x1b]52;c;aGk=\x07[red]\udcff"
    classes = [bad, "dog"]
    files = [f"{bad}_{number}.png" for number in range(12)]

    def other() -> list[object]:
        records: list[object] = []
        for record in run_records(classes=classes, files=files):
            if isinstance(record, RunInfo):
                record = replace(record, config={**record.config, bad: bad})
            elif isinstance(record, Batch):
                record = replace(record, losses=record.losses * 2, preds=1 - record.labels)
            records.append(record)
        return records

    write_run(tmp_path / "a", run_records(classes=classes, files=files))
    write_run(tmp_path / "b", other())  # type: ignore[arg-type]
    done = capture("diff", "a", "b")
    assert (done.returncode, done.stderr) == (1, "")
    assert not set(done.stdout) & {"\x1b", "\x07", "\udcff"}
    assert r"cat\x1b]52;c;aGk=\x07[red]\udcff_" in done.stdout
    found = json.loads(capture("diff", "a", "b", "--json").stdout)
    assert found["run"][-1] == {"name": f"config.{bad}", "a": None, "b": bad}
    assert found["first_batch"]["files"]["first"][0]["file"] in files


def test_a_terminal_folds_what_is_long(tmp_path: Path) -> None:
    """No line is wider than the terminal. Long names fold over several lines."""
    name = "photo-" + "0123456789" * 9
    files = [f"cat/{name}-{number}.png" for number in range(12)]
    write_run(tmp_path / "a", run_records(files=files))
    write_run(tmp_path / "b", run_records(files=files, seed=1))
    child = pexpect.spawn(
        CAPTURE[0], [*CAPTURE[1:], "diff", "a", "b"], cwd=str(tmp_path), dimensions=(50, 80), encoding="utf-8", timeout=60
    )
    output = child.read()
    child.close()
    assert child.exitstatus == 1
    assert "right to wrong" in output
    plain = [line for line in output.splitlines() if "\x1b" not in line]
    assert max(map(len, plain)) <= 80


def test_the_reader_of_its_output_may_go(tmp_path: Path) -> None:
    """`| head` ends the command quietly."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", run_records(seed=1))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*CAPTURE, "diff", "a", "b"], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60, check=False
    )
    os.close(write)
    assert done.stderr == b""


def test_it_needs_no_torch(tmp_path: Path, capture: Capture) -> None:
    """The command works without torch and starts at once."""
    trap = tmp_path / "trap" / "torch"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise ImportError('nobody asked for torch')\n")
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", run_records(seed=1))
    before = os.times().children_user
    done = capture("diff", "a", "b", env={"PYTHONPATH": str(tmp_path / "trap")})
    assert (done.returncode, done.stderr) == (1, "")
    assert os.times().children_user - before < 10


def test_the_exit_codes_are_in_the_help(capture: Capture) -> None:
    """Authors of scripts find them there."""
    text = " ".join(capture("diff", "--help").stdout.split())
    for promise in ("0 if the runs are equal", "1 if they differ", "4 if the records of one do not verify"):
        assert promise in text
