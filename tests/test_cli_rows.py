"""`capture rows` in real processes and pipes, its output read by jq, csv, pandas and DuckDB."""

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from capture_cli.records import Batch, Numbers
from capture_cli.tables.sql import Table
from conftest import CAPTURE
from runs import chained, run_records, task_records, write_run

COLUMNS = Table(task=None).columns
Capture = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 36 samples and two epochs."""
    return write_run(tmp_path / "run")


def shell(command: str, cwd: Path) -> str:
    """The output of a pipeline in which `capture` is the one under test."""
    script = f'set -o pipefail; capture() {{ {" ".join(CAPTURE)} "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], cwd=cwd, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.usefixtures("run")
def test_a_row_for_every_sample_and_visit(capture: Capture) -> None:
    """JSON Lines have every column in order; stdout has data only, stderr nothing."""
    done = capture("rows", "run")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 * 36
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["phase"] for row in rows} == {"train", "val"}
    assert {row["label"] for row in rows} == {"cat", "dog", "great pyrenees"}
    assert len({(row["epoch"], row["id"]) for row in rows}) == len(rows)


@pytest.mark.usefixtures("run")
def test_a_pipeline_counts_wrong_images(tmp_path: Path) -> None:
    """A pipeline of ordinary tools counts how often each validation image was wrong."""
    found = shell("capture rows run --where \"not correct and phase = 'val'\" | jq -r .file | sort | uniq -c", tmp_path)
    wrong = [json.loads(line) for line in shell("capture rows run", tmp_path).splitlines()]
    names = [row["file"] for row in wrong if not row["correct"] and row["phase"] == "val"]
    assert {line.strip() for line in found.splitlines()} == {f"{names.count(name)} {name}" for name in names}


@pytest.mark.usefixtures("run")
def test_csv_is_read_alike_by_csv_pandas_and_duckdb(capture: Capture, tmp_path: Path) -> None:
    """CSV has a heading and one line per row, with the numbers and booleans of JSON."""
    rows = [json.loads(line) for line in capture("rows", "run").stdout.splitlines()]
    (tmp_path / "rows.csv").write_text(capture("rows", "run", "--format", "csv").stdout)
    by_csv = list(csv.DictReader((tmp_path / "rows.csv").open(newline="")))
    assert [row["file"] for row in by_csv] == [row["file"] for row in rows]
    frame = pd.read_csv(tmp_path / "rows.csv")
    assert list(frame.columns) == list(COLUMNS)
    assert frame.correct.dtype == bool
    assert frame.to_dict("records") == rows
    relation = duckdb.read_csv(str(tmp_path / "rows.csv"))
    assert relation.fetchall() == [tuple(row.values()) for row in rows]
    assert relation.filter("not correct").avg("loss_nats").fetchall()[0][0] > 1


def test_csv_without_rows_has_its_heading(capture: Capture, run: Path) -> None:
    """Without rows the CSV still has its column names."""
    assert capture("rows", run, "--format", "csv", "--where", "false").stdout == ",".join(COLUMNS) + "\n"


def test_names_that_are_not_utf8(capture: Capture, tmp_path: Path) -> None:
    r"""In JSON the odd bytes are `\udcXX`, which Python and jq read; in CSV they are the bytes."""
    names = [b"a\x80.png", b"new\nline.png", b'"quoted", \xff.png', "é.png".encode()]
    write_run(tmp_path / "run", run_records(files=list(map(os.fsdecode, names)), classes=("x", "y"), val_every=0, epochs=1))
    by_json = capture("rows", "run", "--columns", "file", text=False).stdout
    assert by_json.decode("utf-8").isprintable() is False  # the é is UTF-8, the lines end
    assert {os.fsencode(json.loads(line)["file"]) for line in by_json.splitlines()} == set(names)
    by_csv = capture("rows", "run", "--format", "csv", "--columns", "file,id", text=False).stdout
    rows = csv.DictReader(io.StringIO(by_csv.decode("utf-8", "surrogateescape"), newline=""))
    assert {os.fsencode(row["file"]) for row in rows} == set(names)


def test_rows_stream(tmp_path: Path) -> None:
    """The rows of a batch come out of the pipe before the next batch has gone in."""
    lines = chained(run_records(val_every=0))
    with subprocess.Popen([*CAPTURE, "rows", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin
        assert process.stdout
        for line in lines:
            process.stdin.write(line)
            process.stdin.flush()
            record = json.loads(line)
            if record["kind"] == "batch":  # were they held back, this would wait for ever
                rows = [json.loads(process.stdout.readline()) for _ in record["ids"]]
                assert [row["id"] for row in rows] == record["ids"]
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == b""


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    """`| head` is no error, from a file as from a stream that goes on."""
    write_run(tmp_path / "run", run_records(epochs=40, per_class=100))
    script = f"{' '.join(CAPTURE)} rows %s | head -n 2 | wc -l; echo ${{PIPESTATUS[0]}}"
    os.mkfifo(tmp_path / "fifo")
    for source in ("run", "- < run/records.jsonl", "- < fifo"):
        with subprocess.Popen(
            ["bash", "-c", script % source], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            goes_on = (tmp_path / "fifo").open("wb") if "fifo" in source else io.BytesIO()
            with suppress(BrokenPipeError):
                goes_on.write((tmp_path / "run/records.jsonl").read_bytes())
                goes_on.flush()
            said = process.communicate()  # while the stream is still open
            with suppress(BrokenPipeError):
                goes_on.close()
        assert (said[0].split(), said[1]) == (["2", "0"], "")


@pytest.mark.usefixtures("run")
def test_options(capture: Capture) -> None:
    """Columns, a condition and a limit work together."""
    done = capture("rows", "run", "--columns", "loss_nats, file", "--where", "label = 'cat'", "--limit", 3)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    assert all(list(row) == ["loss_nats", "file"] and row["file"].startswith("cat") for row in rows)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "--where", "nope = 1"], 'Referenced column "nope" not found'),
        (["run", "--where", "phase = val"], "(as a text it is written 'val', in single quotes)"),
        (["run", "--where", 'file = "o\'brien.png"'], "(as a text it is written 'o''brien.png', in single quotes)"),
        (["run", "--where", "not"], "the condition ends too early"),
        (["run", "--where", "copy (select 1) to 'x'"], "syntax error"),
        (["run", "--columns", "file,nope"], "no such column: 'nope'; the columns are phase, epoch"),
        (["run", "--columns", ""], "'--columns' is empty"),
        (["run", "--format", "xml"], "no such format: 'xml'; choose jsonl, csv or parquet"),
        (["run", "--format", "xml", "--out", "z.csv"], "no such format: 'xml'; choose jsonl, csv or parquet"),
        (["run", "--out", "run/records.jsonl"], "'run/records.jsonl' exists; name a new file with --out"),
        (["run", "--limit", "-1"], "--limit"),
        (["nope"], "no such run: 'nope'"),
        (["run", "--nope"], "no such option"),
        ([], "missing argument: RUN; usage: capture rows RUN"),
    ],
)
@pytest.mark.usefixtures("run")
def test_wrong_usage(capture: Capture, args: list[str], message: str) -> None:
    """Wrong usage is exit code 2 and one line on stderr that says what is valid."""
    done = capture("rows", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message.lower() in done.stderr.lower()
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("task", [None, "sequence", "multilabel", "regression"])
def test_parquet_has_the_rows_of_jsonl(capture: Capture, tmp_path: Path, task: str | None) -> None:
    """Parquet to a file or to stdout has the values of JSON Lines and the types of the records."""
    records = list(task_records(task, text_ids=False, extra=False) if task else run_records())
    beside = {"n": [1, None, "x", {"y": [2.5]}]}
    if task:
        records = [replace(one, extra=beside) if isinstance(one, Batch | Numbers) else one for one in records]
    write_run(tmp_path / "run", records)
    rows = [json.loads(line) for line in capture("rows", "run").stdout.splitlines()]
    done = capture("rows", "run", "--format", "parquet", "--out", "rows.parquet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "piped.parquet").write_bytes(capture("rows", "run", "--format", "parquet", text=False).stdout)
    for name in ("rows", "piped"):
        relation = duckdb.read_parquet(str(tmp_path / f"{name}.parquet"))
        found = [dict(zip(relation.columns, values, strict=True)) for values in relation.fetchall()]
        assert [list(one) for one in found] == [list(one) for one in rows]
        for one, row in zip(found, rows, strict=True):
            assert json.loads(one.pop("extra", "{}")) == row.get("extra", {})
            for column, value in one.items():
                assert value == (row[column] if isinstance(value, str | None) else pytest.approx(row[column], rel=1e-6))
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        assert (types["id"], types["correct"]) == ("BIGINT", "BOOLEAN")
        assert {types[name] for name in ("p_label", "margin", "loss_nats", "loss") if name in types} == {"FLOAT"}


@pytest.mark.usefixtures("run")
def test_parquet_without_rows_has_its_columns(capture: Capture, tmp_path: Path) -> None:
    """Without rows the Parquet file still has its columns."""
    assert capture("rows", "run", "--format", "parquet", "--where", "false", "--out", "none.parquet").returncode == 0
    relation = duckdb.read_parquet(str(tmp_path / "none.parquet"))
    assert (tuple(relation.columns), relation.fetchall()) == (COLUMNS, [])


def test_parquet_refuses_names_that_are_not_utf8(capture: Capture, tmp_path: Path) -> None:
    """A name that is not UTF-8 is an error that names other formats, and no partial file is left."""
    write_run(tmp_path / "run", run_records(files=[os.fsdecode(b"a\x80.png"), "b.png"], classes=("x", "y"), val_every=0))
    done = capture("rows", "run", "--format", "parquet", "--out", "rows.parquet")
    assert (done.returncode, done.stdout) == (1, "")
    assert "names that are not UTF-8 need --format jsonl or csv" in done.stderr
    assert not (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize("style", ["jsonl", "parquet"])
def test_rows_before_damage_are_in_the_file(capture: Capture, tmp_path: Path, style: str) -> None:
    """Rows before damage stay in the file, and the exit code is 4."""
    lines = chained(run_records(val_every=0))
    place = [number for number, line in enumerate(lines) if b'"kind":"batch"' in line][2]
    lines[place] = lines[place].replace(b'"epoch":0', b'"epoch":1')
    (tmp_path / "damaged.jsonl").write_bytes(b"".join(lines))
    done = capture("rows", "damaged.jsonl", "--format", style, "--out", "rows")
    assert (done.returncode, done.stdout) == (4, "")
    read = duckdb.read_parquet if style == "parquet" else duckdb.read_json
    assert len(read(str(tmp_path / "rows"))) == 2 * 8


def test_damage_ends_the_rows(capture: Capture, tmp_path: Path) -> None:
    """Rows before damage are written; stderr names the line, and the exit code is 4."""
    lines = chained(run_records(val_every=0))
    place = [number for number, line in enumerate(lines) if b'"kind":"batch"' in line][2]
    lines[place] = lines[place].replace(b'"epoch":0', b'"epoch":1')
    (tmp_path / "damaged.jsonl").write_bytes(b"".join(lines))
    done = capture("rows", "damaged.jsonl")
    assert done.returncode == 4
    assert len(done.stdout.splitlines()) == 2 * 8
    assert f"line {place + 1} is not what was written" in done.stderr
    assert f"the {place} lines before it verify" in done.stderr


def test_a_run_in_progress(capture: Capture, tmp_path: Path) -> None:
    """Complete lines count; a missing end line is noted on stderr and is no failure."""
    data = b"".join(chained(run_records(status=None)))
    (tmp_path / "going.jsonl").write_bytes(data[:-100])
    done = capture("rows", "going.jsonl")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2 * 36
    assert "incomplete last line" in done.stderr
    assert "still running or cut off" in done.stderr


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"hello\n"])
def test_a_file_that_is_no_run_is_an_error(capture: Capture, tmp_path: Path, data: bytes) -> None:
    """A file that is no run is an error: empty output would look like a run without rows."""
    (tmp_path / "it.jsonl").write_bytes(data)
    done = capture("rows", "it.jsonl")
    assert (done.returncode, done.stdout) == (4, "")
    assert "it.jsonl" in done.stderr


def test_help_explains_the_margin(capture: Capture) -> None:
    """--help gives the margin's units, sign and edge cases."""
    text = " ".join(capture("rows", "--help").stdout.split())
    assert "Loss and margin are in nats" in text
    assert "null where it is not known" in text


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """A run three times as long takes no more memory, apart from chance."""
    code = "import sys; from capture_cli.cli import run; run(['rows', sys.argv[1]]); "
    # Of this process alone: getrusage would count what the test process had when it started it.
    code += "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) >> 10, file=sys.stderr)"
    records = list(run_records(epochs=2, per_class=2000, batch_size=64, status=None))
    visits = [record for record in records if isinstance(record, Batch)]
    peaks = []
    for times in (20, 60):
        path = write_run(tmp_path / str(times), [*records, *visits * times])
        command = [CAPTURE[0], "-c", code, path]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True, timeout=100)
        peaks.append(int(done.stderr.split()[-1]))
    assert (path / "records.jsonl").stat().st_size > 60 << 20
    assert peaks[1] < 1.4 * peaks[0]
    assert max(peaks) < 600


@pytest.mark.parametrize("more", [(), ("--limit", 1), ("--format", "csv")], ids=str)
def test_stderr_stays_empty(capture: Capture, tmp_path: Path, more: tuple[object, ...]) -> None:
    """For a complete run stderr stays empty, even when libraries shut down."""
    write_run(tmp_path / "run", run_records())
    done = capture("rows", "run", *more)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("run")
def test_the_name_of_the_file_chooses_the_format(capture: Capture, tmp_path: Path) -> None:
    """Also as the whole name; a format or a compression that contradicts it is wrong usage, and writes nothing."""
    for name in ("rows.csv", "rows.parquet", "rows.jsonl"):
        assert capture("rows", "run", "-o", name).returncode == 0
    frames = (pd.read_csv(tmp_path / "rows.csv"), pd.read_parquet(tmp_path / "rows.parquet"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [list(frame.file) for frame in frames] == [[row["file"] for row in rows]] * 2
    assert capture("rows", "run", "-o", ".csv").returncode == 0
    assert (tmp_path / ".csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    for args in (
        ["-o", "x.csv", "--parquet"],
        ["-o", "x.parquet", "--format", "csv"],
        ["-o", "x.csv.gz"],
        ["--format", "jsonl", "--csv"],
    ):
        done = capture("rows", "run", *args)
        assert (done.returncode, done.stdout, list(tmp_path.glob("x.*"))) == (2, "", [])
    assert "capture rows RUN | gzip > x.csv.gz" in capture("rows", "run", "-o", "x.csv.gz").stderr


@pytest.mark.usefixtures("run")
def test_loss_is_another_name_for_loss_nats(capture: Capture, tmp_path: Path) -> None:
    """In columns and conditions, of visits, classes and epochs; in every format."""
    rows = [json.loads(line) for line in capture("rows", "run").stdout.splitlines()]
    asked = capture("rows", "run", "--where", "loss > 1.5", "--columns", "file,loss").stdout.splitlines()
    assert [json.loads(line) for line in asked] == [
        {"file": row["file"], "loss": row["loss_nats"]} for row in rows if row["loss_nats"] > 1.5
    ]
    for per in ("class", "epoch"):
        options = ("rows", "run", "--per", per, "--where", "loss > 0")
        (heads, *lines) = capture(*options, "--columns", "phase,loss,loss_nats", "--csv").stdout.splitlines()
        assert heads == "phase,loss,loss_nats"
        assert lines
        assert all(line.split(",")[1] == line.split(",")[2] for line in lines)
    assert capture("rows", "run", "--columns", "loss", "-o", "loss.parquet").returncode == 0
    assert pd.read_parquet(tmp_path / "loss.parquet").loss.dtype == "float32"


def test_only_columns_of_this_run_are_named(capture: Capture, tmp_path: Path) -> None:
    """With the closest one first; a run of another task has others."""
    write_run(tmp_path / "classes")
    write_run(tmp_path / "numbers", task_records("regression"))
    listed = f"the columns are {', '.join(COLUMNS)}"
    assert (
        f"no such column: 'p_labl'; did you mean p_label? {listed}\n"
        in capture("rows", "classes", "--columns", "p_labl").stderr
    )
    assert f"'targets'; {listed}\n" in capture("rows", "classes", "--columns", "targets").stderr
    assert f"write an SQL condition on {', '.join(COLUMNS)}\n" in capture("rows", "classes", "--where", "los > 1").stderr
    condition = "write an SQL condition on phase, epoch, batch, step, id, file, targets, outputs"
    for where in ("los > 1", "label = 'a' and targets is null"):
        assert condition in capture("rows", "numbers", "--where", where).stderr
