"""Call `capture ARGS...` inside the test's process: for commands that only read, which start faster so."""

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
