"""Compressed runs are read like others: gzip and Zstandard, from files and pipes, cut off or damaged."""

import gzip
import os
import random
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from capture_cli.errors import UsageError
from capture_cli.runs import Ending, Line, open_run
from capture_cli.runs import reading as reader
from capture_cli.runs.reading import Reading
from conftest import CAPTURE
from runs import chained, run_records, write_run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd.compress}
each_format = pytest.mark.parametrize("kind", COMPRESS)


@pytest.fixture(scope="module")
def data() -> bytes:
    """A run as it is written."""
    return b"".join(chained(run_records(per_class=6, epochs=3)))


def read(path: Path) -> tuple[list[Line], Ending]:
    with open_run(path) as run:
        return list(run.lines()), run.ending


def text(lines: list[Line]) -> bytes:
    return b"".join(line.data + b"\n" for line in lines)


@each_format
def test_a_compressed_file_is_the_run_that_was_compressed(tmp_path: Path, data: bytes, kind: str) -> None:
    """Whatever it is called, and whatever parts it was compressed in."""
    for number, parts in enumerate(([data], [data[:700], data[700:]], [data, b""])):
        path = tmp_path / f"run-{number}"
        path.write_bytes(b"".join(map(COMPRESS[kind], parts)))
        lines, ending = read(path)
        assert text(lines) == data
        assert (ending.state, ending.status, ending.bytes) == ("sealed", "completed", len(data))


@each_format
def test_larger_files_than_a_chunk(tmp_path: Path, kind: str) -> None:
    """Lines go on from chunk to chunk, and `chunks` reads ahead as of any file."""
    data = b"".join(chained(run_records(per_class=1500, epochs=4)))
    assert len(data) > 2 << 20
    (tmp_path / "it").write_bytes(COMPRESS[kind](data))
    assert text(read(tmp_path / "it")[0]) == data
    with open_run(tmp_path / "it") as run:
        assert text([line for chunk in run.chunks(1000) for line in chunk]) == data


@each_format
def test_every_cut_is_a_run_that_was_cut_off(tmp_path: Path, data: bytes, kind: str) -> None:
    """Compressed data that end early are a file that is not whole yet, not a damaged one."""
    packed = COMPRESS[kind](data)
    states = set()
    for cut in range(0, len(packed), 31):
        (tmp_path / "it").write_bytes(packed[:cut])
        lines, ending = read(tmp_path / "it")
        assert data.startswith(text(lines))
        states.add(ending.state)
    assert states - {"sealed"} == {"unsealed", "torn"} if kind == "gz" else states == {"unsealed"}


@each_format
def test_damage_shows_nothing_that_was_not_written(tmp_path: Path, data: bytes, kind: str) -> None:
    """500 times: bytes overwritten, cut out or put in; never an error other than that the file is damaged or cut off."""
    packed = COMPRESS[kind](data)
    draw = random.Random(1)
    damaged = 0
    for _ in range(500):
        start = draw.randrange(len(packed))
        changed = packed[:start] + draw.randbytes(draw.choice((1, 3, 50))) + packed[start + draw.choice((0, 1, 3, 50)) :]
        (tmp_path / "it").write_bytes(changed)
        lines, ending = read(tmp_path / "it")
        assert data.startswith(text(lines))
        assert (ending.state == "damaged") == bool(ending.reason)
        damaged += ending.state == "damaged"
    assert damaged > 250


@each_format
def test_a_pipe_may_be_compressed(data: bytes, kind: str) -> None:
    """Also where it brings one byte at a time."""
    source, sink = os.pipe()

    def feed() -> None:
        packed = COMPRESS[kind](data)
        for start in range(50):
            os.write(sink, packed[start : start + 1])
        os.write(sink, packed[50:])
        os.close(sink)

    thread = threading.Thread(target=feed)
    thread.start()
    with closing(Reading(source, "pipe")) as reading:
        assert text([line for block in reading.line_blocks() for line in block]) == data
    thread.join()
    assert reading.ending.state == "sealed"


@pytest.mark.parametrize("junk", [b"(", b"(\xb5/", b"\x1f", b"\x1f\x8b", b"\x1f\x8bjunk", b"(\xb5/\xfdjunk", b"(hello\n"])
def test_what_only_begins_like_compressed_data_is_no_run(tmp_path: Path, junk: bytes) -> None:
    """Half a magic number, and a whole one with anything behind it."""
    (tmp_path / "it").write_bytes(junk)
    lines, ending = read(tmp_path / "it")
    assert lines == []
    assert ending.error("it") is not None


@each_format
def test_a_decompression_bomb_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Little data that become very much are one line that is too long."""
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 2 << 20)
    (tmp_path / "it").write_bytes(COMPRESS[kind](bytes(200 << 20)))
    tracemalloc.start()
    lines, ending = read(tmp_path / "it")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (lines, ending.state) == ([], "damaged")
    assert "line 1 is longer than 2 MB" in ending.reason
    assert peak < 30 << 20  # 16 MB of it is what `line_blocks` warms up with


@each_format
def test_a_compressed_file_is_followed_from_its_beginning_only(tmp_path: Path, data: bytes, kind: str) -> None:
    """There is no place in it to go back to, and that is said."""
    (tmp_path / "it").write_bytes(COMPRESS[kind](data))
    run = open_run(tmp_path / "it")
    assert list(run.follow())
    with pytest.raises(UsageError, match="is compressed and has no place to resume from"):
        list(run.follow(run.cursor))


def outputs(args: list[str], path: Path, folder: Path) -> Iterator[tuple[int, str]]:
    """What a command says of a file by its name, and through a pipe."""
    for name, stdin in ((str(path), None), ("-", path.open("rb"))):
        command = [*CAPTURE, *args[:1], name, *args[1:]]
        done = subprocess.run(command, stdin=stdin, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout.replace(f'"run": "{name}"', '"run": "RUN"').replace(str(path), "RUN").replace("stdin", "RUN")
        yield done.returncode, said or done.stderr


@each_format
def test_commands_read_compressed_runs(tmp_path: Path, kind: str) -> None:
    """`gzip`ped or `zstd`ed, a run says the same; damaged it ends with exit code 4."""
    whole = write_run(tmp_path / "run") / "records.jsonl"
    packed = tmp_path / f"run.jsonl.{kind}"
    packed.write_bytes(COMPRESS[kind](whole.read_bytes()))
    for args in (["inspect", "--json"], ["verify"], ["rows"]):
        expected, piped = outputs(args, whole, tmp_path)
        assert expected == piped
        assert list(outputs(args, packed, tmp_path)) == [expected, expected]
    middle = packed.stat().st_size // 2
    packed.write_bytes(packed.read_bytes()[:middle] + b"\xff" * 100 + packed.read_bytes()[middle + 100 :])
    for code, said in outputs(["verify"], packed, tmp_path):
        assert code == 4
        assert re.search("line [0-9]+ (cannot be decompressed: |is not what was written)", said)
