"""`capture verify` in real processes: a run verifies, or the first bad line is named."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import CAPTURE
from runs import chained, run_records, write_run

Capture = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_that_verifies(capture: Capture, tmp_path: Path) -> None:
    """One line gives the number of lines by kind, the ending, and the chain that equal runs share."""
    folder = write_run(tmp_path / "run")
    last = json.loads((folder / "records.jsonl").read_bytes().splitlines()[-1])
    done = capture("verify", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "run/records.jsonl: 20 lines verify (1 run, 1 skip, 1 samples, 12 batch, 4 epoch, 1 end), "
        f"sealed, completed, chain {last['chain']}\n"
    )


@pytest.mark.parametrize("status", ["completed", "interrupted", "failed"])
def test_a_run_is_sealed_however_it_ended(capture: Capture, tmp_path: Path, status: str) -> None:
    """Any end line seals the records, however the training ended."""
    write_run(tmp_path / "run", run_records(status=status))
    done = capture("verify", "run")
    assert done.returncode == 0
    assert f"sealed, {status}" in done.stdout


def test_equal_runs_have_equal_chains(capture: Capture, tmp_path: Path) -> None:
    """Different runs have different chains."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_run(tmp_path / name, run_records(seed=seed))
    chains = [json.loads(capture("verify", name, "--json").stdout)["chain"] for name in "abc"]
    assert chains[0] == chains[1] != chains[2]


def test_from_stdin(tmp_path: Path) -> None:
    """Records from a pipe are checked like a file."""
    folder = write_run(tmp_path / "run")
    data = (folder / "records.jsonl").read_bytes()
    done = subprocess.run([*CAPTURE, "verify", "-"], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith(b"stdin: 20 lines verify")


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (lambda lines: [*lines[:4], lines[4].replace(b"0", b"1", 1), *lines[5:]], 5, "line 5"),
        (lambda lines: [*lines[:4], *lines[5:]], 5, "a line is missing, doubled or moved"),
        (lambda lines: [*lines[:5], lines[4], *lines[5:]], 6, "a line is missing, doubled or moved"),
        (lambda lines: [*lines[:4], lines[4].replace(b"cat", b"dog"), *lines[5:]], 5, "is not what was written"),
        (lambda lines: [*lines[:4], b"\n", *lines[4:]], 5, "is not a capture record"),
        (lambda lines: [*lines, b"and more\n"], 21, "line 21"),
        (lambda lines: lines[1:], 1, "line 1"),
        (lambda lines: lines[:-1], None, "not sealed: no end line: still running or cut off; its 19 lines verify"),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], None, "not sealed: skipped an incomplete last line"),
        (lambda lines: lines[:1], None, "its one line verifies"),
        (lambda lines: lines[:0], None, "no records"),
    ],
)
def test_runs_that_do_not_verify(
    capture: Capture, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int | None, reason: str
) -> None:
    """The exit code is 4, and one line on stderr names the line and the reason. --json prints the same as data."""
    (tmp_path / "run.jsonl").write_bytes(b"".join(change(chained(run_records()))))
    done = capture("verify", "run.jsonl")
    assert (done.returncode, done.stdout) == (4, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    as_json = capture("verify", "run.jsonl", "--json")
    assert (as_json.returncode, as_json.stderr) == (4, done.stderr)
    answer = json.loads(as_json.stdout)
    assert (answer["verified"], answer["line"]) == (False, line)
    assert answer["reason"] in done.stderr


def test_json_has_it_all(capture: Capture, tmp_path: Path) -> None:
    """It has the state, the counts and the number of bytes that verify."""
    lines = chained(run_records())
    (tmp_path / "run.jsonl").write_bytes(b"".join(lines)[:-7])
    answer = json.loads(capture("verify", "run.jsonl", "--json").stdout)
    assert (answer["state"], answer["status"], answer["lines"]) == ("torn", None, 19)
    assert answer["bytes"] == sum(map(len, lines[:-1]))
    assert answer["counts"] == {"run": 1, "skip": 1, "samples": 1, "batch": 12, "epoch": 4}


def test_wrong_usage(capture: Capture) -> None:
    """A missing run is wrong usage, not damage."""
    done = capture("verify", "nope")
    assert done.returncode == 2
    assert "no such run: 'nope'" in done.stderr


def test_several_runs_have_a_line_each(capture: Capture, tmp_path: Path) -> None:
    """One that does not verify stops none of the others; the exit code is the highest, whatever the order."""
    for name, seed in (("a", 0), ("c", 1)):
        write_run(tmp_path / "runs" / name, run_records(seed=seed))
    damaged = write_run(tmp_path / "runs" / "b") / "records.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b"cat", b"dog", 1))
    (tmp_path / "runs" / "notes").mkdir()
    names = [f"runs/{name}" for name in ("a", "b", "notes", "c")]
    done = capture("verify", *names)
    assert done.returncode == 4
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["runs/a/records.jsonl", "runs/c/records.jsonl"]
    assert ["runs/b/records.jsonl: line" in done.stderr, "no records.jsonl in 'runs/notes'" in done.stderr] == [True, True]
    assert done.stderr.count("\n") == 2
    as_json = capture("verify", *names, "--json")
    answers = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [(one["run"], one["verified"]) for one in answers] == list(zip(names, (True, False, False, True), strict=True))
    assert (as_json.returncode, as_json.stderr) == (4, done.stderr)
    assert capture("verify", "runs/a", "runs/notes", "runs/c").returncode == 2
    assert capture("verify", "runs/a", "runs/c").returncode == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("run run --repair new.jsonl", "--repair new.jsonl is for one run, and 2 are given; repair them one by one"),
        ("- run -", "stdin can be only one of the runs"),
        ("run nope", "no such run: 'nope'"),
    ],
)
def test_wrong_usage_of_several_runs(capture: Capture, tmp_path: Path, args: str, said: str) -> None:
    """It is said before a run is read."""
    write_run(tmp_path / "run")
    done = capture("verify", *args.split())
    assert (done.returncode, done.stdout, said in done.stderr) == (2, "", True)


class TestRepair:
    """`--repair` saves the lines that verify and changes nothing else."""

    def test_the_lines_before_the_damage_are_saved(self, capture: Capture, tmp_path: Path) -> None:
        """The new file has the first lines, byte for byte. The damaged file is unchanged."""
        path = write_run(tmp_path / "r") / "records.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        damaged = b"".join([*lines[:4], lines[4].replace(b"0.", b"1.", 1), *lines[5:]])
        path.write_bytes(damaged)
        done = capture("verify", path, "--repair", "saved.jsonl")
        assert done.returncode == 0
        assert "line 5" in done.stderr
        assert (tmp_path / "saved.jsonl").read_bytes() == b"".join(lines[:4])
        assert path.read_bytes() == damaged

    def test_a_run_that_was_cut_off_keeps_its_whole_lines(self, capture: Capture, tmp_path: Path) -> None:
        """The torn last line is not saved."""
        path = write_run(tmp_path / "r") / "records.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-2]) + lines[-2][:20])
        assert capture("verify", path, "--repair", "saved.jsonl").returncode == 0
        assert (tmp_path / "saved.jsonl").read_bytes() == b"".join(lines[:-2])

    def test_a_run_that_verifies_needs_no_repair(self, capture: Capture, tmp_path: Path) -> None:
        """No file is written, and the exit code is 0."""
        path = write_run(tmp_path / "r") / "records.jsonl"
        done = capture("verify", path, "--repair", "saved.jsonl")
        assert (done.returncode, "nothing to repair" in done.stderr) == (0, True)
        assert not (tmp_path / "saved.jsonl").exists()

    def test_nothing_is_overwritten(self, capture: Capture, tmp_path: Path) -> None:
        """Existing files, above all the run itself, stay as they are. No file is left if no line verifies."""
        path = write_run(tmp_path / "r") / "records.jsonl"
        before = path.read_bytes()
        assert capture("verify", path, "--repair", path).returncode == 2
        assert path.read_bytes() == before
        (tmp_path / "none.jsonl").write_bytes(b"no record\n")
        assert capture("verify", "none.jsonl", "--repair", "saved.jsonl").returncode == 4
        assert not (tmp_path / "saved.jsonl").exists()
