"""Lines of a run in chunks, read ahead in a thread."""

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from capture_cli.errors import CaptureError
from capture_cli.runs import open_run
from capture_cli.runs import reading as reader
from capture_cli.runs.reading import Reading
from runs import run_records, write_run
from test_runs_reading import read, small


def test_chunks_are_the_same_lines(tmp_path: Path) -> None:
    """Read ahead in a thread, in pieces of any size, the lines and their ending are the same."""
    folder = write_run(tmp_path / "run")
    lines, ending = read(folder)
    for size in (1, 5_000, 1 << 30):
        with open_run(folder) as run:
            assert [line for chunk in run.chunks(size) for line in chunk] == lines
        assert run.ending == ending


def test_chunks_say_when_nothing_is_waiting() -> None:
    """An empty chunk comes before the wait for a pipe on which nothing comes."""
    lines = small()
    source, sink = os.pipe()
    with closing(Reading(source, "pipe")) as run:
        os.write(sink, lines[0])
        chunks = reader.read_ahead(run.line_blocks(), 1 << 20)
        seen = next(chunks) or next(chunks)
        assert [line.data + b"\n" for line in seen] == lines[:1]
        assert next(chunks) == []
        os.close(sink)
        assert [line for chunk in chunks for line in chunk] == []


def test_chunks_leave_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has seen enough can stop: the threads that read ahead end too."""
    folder = write_run(tmp_path / "run", run_records(epochs=30, per_class=60))
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 4096)  # far more blocks than may wait
    others = set(threading.enumerate())  # of earlier tests: some may end meanwhile
    with open_run(folder) as run:
        chunks = run.chunks(1)
        while not next(chunks):
            pass
        time.sleep(0.2)  # as much has been read ahead as may wait, and the thread stands still
        ahead = set(threading.enumerate()) - others
        chunks.close()
        assert ahead
        for thread in ahead:
            thread.join(timeout=10)
        assert not any(thread.is_alive() for thread in ahead)


def test_an_error_while_reading_ahead_reaches_the_reader(tmp_path: Path) -> None:
    """What goes wrong in the thread is raised where the lines are taken."""
    reading = Reading(os.open(tmp_path, os.O_RDONLY), "it")
    with closing(reading) as run, pytest.raises(CaptureError, match="'it' cannot be read any further"):
        list(reader.read_ahead(run.line_blocks(), 1))
