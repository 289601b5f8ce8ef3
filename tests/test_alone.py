"""Tests in several processes: those marked `alone` run while no other does."""

import fcntl
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from conftest import pytest_runtest_protocol


class Running:
    """A test of a process of `pytest -n`, in a thread that waits for its turn."""

    def __init__(self, root: Path, *, alone: bool) -> None:
        config = SimpleNamespace(workerinput={}, rootpath=root)
        self._protocol = pytest_runtest_protocol(SimpleNamespace(config=config, get_closest_marker=lambda _: alone or None))
        self.begun, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        next(self._protocol)
        self.begun.set()
        self._end.wait()
        next(self._protocol, None)

    def end(self) -> None:
        """End the test, and return when it has made way for others."""
        self._end.set()
        self._thread.join(timeout=60)


def taken(file: Path) -> bool:
    """Return whether somebody has locked it."""
    with file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_test_that_is_alone_waits_and_is_waited_for(tmp_path: Path) -> None:
    """Others run at a time; while one waits to be alone, none begins, and none does until it is done."""
    for name in ("pyproject.toml", "Makefile"):
        (tmp_path / name).touch()
    first, second = Running(tmp_path, alone=False), Running(tmp_path, alone=False)
    assert first.begun.wait(60)
    assert second.begun.wait(60)
    alone = Running(tmp_path, alone=True)
    while not taken(tmp_path / "pyproject.toml"):
        time.sleep(0.01)
    first.end()
    assert not alone.begun.wait(0.2)
    late = Running(tmp_path, alone=False)
    assert not late.begun.wait(0.2)
    second.end()
    assert alone.begun.wait(60)
    assert not late.begun.wait(0.2)
    alone.end()
    assert late.begun.wait(60)
    late.end()
