"""Call `capture ARGS...` inside the test's process, where torch and the rest are loaded once for all tests.

done = called("train", "images", "-o", "run", cwd=tmp_path)         # as subprocess.run would return it
call = Caller(tmp_path, monkeypatch, capsys)
done = call("inspect", "run")                                       # code, out, err
"""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from capture_cli.cli import run


class Said(NamedTuple):
    """The end of a command."""

    code: int
    out: str
    err: str


class Caller:
    """Calls commands in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(folder)
        self._capsys = capsys

    def __call__(self, *args: object) -> Said:
        """Run one command line."""
        self._capsys.readouterr()
        code = run([str(one) for one in args])
        return Said(code, *self._capsys.readouterr())


def called(*args: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command line in a folder, with `env` added to the environment; what it changes in the process is undone."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", write_through=True) for _ in range(2))
    before = threads()
    words = [str(one) for one in args]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        code = run(words)
    if before and before != threads():
        sys.modules["torch"].set_num_threads(before)
    said = (stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, code, *said)


def threads() -> int | None:
    """Return how many threads torch computes with, if it is loaded."""
    return sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
