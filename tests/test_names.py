"""Runs by name: paths, names in runs/, `last`, `@2`, and what a typo is told."""

import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from capture_cli.cli import run
from capture_cli.errors import UsageError
from capture_cli.records import RunInfo
from capture_cli.runs import open_run
from capture_cli.runs.names import find_run, run_folders
from runs import run_records, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make runs/: oldest, middle, newest, and a run in a folder of its own; stand beside it."""
    for age, name in enumerate(["newest", "middle", "oldest", "sweep/lr-0.1"]):
        records = write_run(tmp_path / "runs" / name) / "records.jsonl"
        os.utime(records, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "runs" / "oldest" / "model.safetensors").touch()
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_name_stands_for_the_run_in_runs(runs: Path) -> None:
    """A name, a name with a folder, and a path are the same run."""
    assert find_run("middle") == Path("runs/middle") == find_run("runs/middle")
    assert find_run("sweep/lr-0.1") == Path("runs/sweep/lr-0.1")
    assert find_run(str(runs / "middle")) == runs / "middle"


def test_last_is_the_run_that_was_written_to_last(runs: Path) -> None:
    """The numbers count back from it; with a file, only runs that have the file count."""
    assert [one.folder.name for one in run_folders()] == ["newest", "middle", "oldest"]
    assert find_run("last") == find_run("@1") == Path("runs/newest")
    assert find_run("@2") == Path("runs/middle")
    assert find_run("last", having="model.safetensors") == Path("runs/oldest")
    os.utime(runs / "middle" / "records.jsonl")
    assert find_run("last") == Path("runs/middle")


def test_a_path_that_is_a_run_comes_before_a_name(runs: Path, tmp_path: Path) -> None:
    """A run here named `middle` or `last` is meant; an image folder of the name is not."""
    (tmp_path / "oldest").mkdir()
    assert find_run("oldest") == Path("runs/oldest")
    write_run(tmp_path / "middle")
    write_run(tmp_path / "last")
    assert find_run("middle") == Path("middle")
    assert find_run("last") == Path("last")


def test_a_run_that_a_path_hides_is_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not where the path is written as one, or where there is nothing else of the name."""
    write_run(tmp_path / "middle")
    write_run(tmp_path / "alone")
    said = {}
    for name in ("middle", "./middle", "alone", "newest", "runs/middle", str(tmp_path / "middle")):
        assert run(["inspect", name, "--json"]) == 0
        said[name] = capsys.readouterr().err
    assert said.pop("middle") == "middle is ./middle; there is runs/middle too\n"
    assert set(said.values()) == {""}


def test_a_folder_without_runs_hides_none(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of options `sweep` beside `runs/sweep`, or one called `last`; one that holds runs comes first."""
    for name in ("sweep", "last", "oldest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "options.toml").touch()
    assert find_run("sweep") == Path("runs/sweep")
    assert find_run("last") == Path("runs/newest")
    assert run(["runs", "sweep", "--json"]) == 0
    found = capsys.readouterr()
    assert ([one["path"] for one in json.loads(found.out)["runs"]], found.err) == (["runs/sweep/lr-0.1"], "")
    with open_run("oldest") as opened:
        assert opened.folder == Path("runs/oldest")
    for inside, path in (("mine", "mine"), ("deeper", "deeper/mine")):
        shutil.rmtree(tmp_path / "sweep")
        write_run(tmp_path / "sweep" / path)
        assert find_run("sweep") == Path("sweep")
        assert run(["runs", "sweep"]) == 0
        found = capsys.readouterr()
        assert inside in found.out + found.err
        assert "sweep is ./sweep; there is runs/sweep too\n" in found.err


def test_runs_that_are_all_in_folders_are_pointed_at(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `last` and `@N`, and by the list."""
    more = "more runs in runs/sweep: capture runs runs/sweep"
    with pytest.raises(UsageError, match=f"runs/ has 3 runs; @1 is the last one; {more}"):
        find_run("@4")
    for name in ("newest", "middle", "oldest"):
        shutil.rmtree(runs / name)
    with pytest.raises(UsageError, match=f"there is no run in runs/ for 'last'; {more}"):
        find_run("last")
    assert run(["runs"]) == 0
    assert capsys.readouterr().err == f"there are no runs in runs; {more}\n"


def test_python_takes_the_words_too(runs: Path, tmp_path: Path) -> None:
    """As the command line does: a path comes before a name."""
    for name, path in (
        ("middle", "runs/middle"),
        ("last", "runs/newest"),
        ("@2", "runs/middle"),
        ("runs/middle", "runs/middle"),
    ):
        with open_run(name) as opened:
            assert opened.folder == Path(path)
    with pytest.raises(UsageError, match=r"no such run: 'midle'; did you mean middle\?"):
        open_run("midle")
    write_run(tmp_path / "middle")
    with open_run("middle") as opened:
        assert opened.folder == Path("middle")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("midle", "no such run: 'midle'; did you mean middle?"),
        ("runs/midle", "did you mean runs/middle?"),
        ("lst", "did you mean last?"),
        ("@4", "'@4' is not valid: runs/ has 3 runs; @1 is the last one"),
        ("@0", "'@0' is not valid; @1 is the last run, @2 the one before it"),
        ("../middle", "no such run: '../middle'"),
        ("quite different", "a run is a folder that `capture train` made"),
    ],
)
def test_a_typo_is_told_the_closest_name(runs: Path, text: str, message: str) -> None:
    """One line with the way out."""
    with pytest.raises(UsageError) as error:
        find_run(text)
    assert message in str(error.value)


def test_without_runs_the_way_to_make_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`last` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no run in runs/ for 'last'; `capture train FOLDER` makes one"):
        find_run("last")


@pytest.mark.parametrize(
    "words",
    ["inspect {} --json", "rows {} --limit 1", "verify {}", "suspects {} --json", "diff {} middle", "replay {}", "log {}"],
)
def test_every_reading_command_takes_the_words(runs: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`last` is read, and `lst` is refused with the closest name."""
    asked = run(words.format("last").split())
    assert "no such run" not in capsys.readouterr().err
    assert asked in (0, 1, 2, 3)
    assert run(words.format("lst").split()) == 2
    assert "no such run: 'lst'; did you mean last?" in capsys.readouterr().err


def test_the_commands_that_use_a_model_take_the_words(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`last` is the last run with a model, or for --resume with options."""
    assert run(["evaluate", "last", "images"]) == 2
    assert "runs/oldest/model.safetensors" in capsys.readouterr().err
    assert run(["train", "--resume", "last"]) == 2
    assert "there is no run with config.toml in runs/ for 'last'" in capsys.readouterr().err


def test_evaluations_are_not_counted_where_trainings_are_meant(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`diff @2 last` after an evaluation compares the last two trainings; what was taken is named on stderr."""
    records = [
        replace(one, config={"weights_digest": "0" * 32}) if isinstance(one, RunInfo) else one for one in run_records(epochs=1)
    ]
    path = write_run(runs / "evaluation", records) / "records.jsonl"
    assert find_run("last") == Path("runs/evaluation")
    assert run(["diff", "@2", "last"]) == 0
    assert capsys.readouterr().err == "@2 is runs/middle\nlast is runs/newest\n"
    assert run(["suspects", "last", "--json"]) == 0
    assert "last is runs/newest\n" in capsys.readouterr().err
    assert run(["inspect", "last", "--json"]) == 0
    assert capsys.readouterr().err == "last is runs/evaluation\n"
    assert run(["diff", "middle", "evaluation"]) == 1
    assert run(["suspects", "@4"]) == 2
    assert "'@4' is not valid: runs/ has 3 trainings" in capsys.readouterr().err
    assert run(["diff", "@0", "middle"]) == 2
    assert (
        capsys.readouterr().err == "capture: '@0' is not valid; @1 is the last run, @2 the one before it; see `capture runs`\n"
    )
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert run(["diff", "@1", "last"]) == 0
    assert capsys.readouterr().err == "@1 is runs/newest\nlast is runs/newest\n"
