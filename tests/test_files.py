"""Complete and durable writes: every byte or an error, and a file that is the old one or the new one."""

import os
import threading
from pathlib import Path

import pytest

from capture_cli.files import write_all, write_atomically


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may take some bytes only: the rest follows in its place, with and without an offset."""
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    with (tmp_path / "a").open("w+b", buffering=0) as file:
        write_all(file.fileno(), b"0123456789")
        write_all(file.fileno(), bytearray(b"abcdefg"), offset=2)
    assert (tmp_path / "a").read_bytes() == b"01abcdefg9"


def test_a_write_that_takes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a loop without end."""
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with (tmp_path / "a").open("wb") as file, pytest.raises(OSError, match="took no bytes"):
        write_all(file.fileno(), b"x")


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    """A pipe that another process made non-blocking gets everything once its reader reads."""
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    data, got = os.urandom(2**20), bytearray()

    def read() -> None:
        while part := os.read(source, 2**16):
            got.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    write_all(sink, data)
    os.close(sink)
    reader.join()
    os.close(source)
    assert bytes(got) == data


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever call fails, the old file is whole and no part of the new one is left."""
    write_atomically(tmp_path, "a", b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path, "a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_the_file_before_is_kept_where_asked(tmp_path: Path) -> None:
    """Under its new name; the first file has none before it."""
    for data in (b"1", b"2", b"3"):
        write_atomically(tmp_path, "a", data, keep_as="before")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"3", "before": b"2"}
