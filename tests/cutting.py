"""Runs inside the process that end dead after so many records, as if killed.

call = trainer(tmp_path, monkeypatch)
call("images", "-e", "2", "-o", "cut", cut_after=7)         # -9
call("--resume", "cut")                                     # 0
assert kept(Path("cut")) == kept(Path("whole"))
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from capture_cli.cli import run as run_command
from capture_cli.journal import Journal
from capture_cli.records import Record
from conftest import make_images

Trainer = Callable[..., int]
OPTIONS = ("-m", "linear", "-b", "4", "--device=cpu", "--augment=flip+crop")
KEPT = ("records.jsonl", "model.safetensors", "best.safetensors", "inputs/pack-00000.bin", "inputs/flight.bin")


class Cut(BaseException):
    """Stands in for a kill: nothing is sealed, and nothing more is written."""


def kept(run: Path) -> dict[str, bytes]:
    """Return the files in which equal runs agree."""
    return {name: (run / name).read_bytes() for name in KEPT if (run / name).exists()}


def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Make a function that calls `capture train ARGS` (or another command) beside `images/` with 24 images."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    append = Journal.append

    def call(*args: object, cut_after: int | None = None, command: str = "train", quiet: bool = True) -> int:
        appended = 0

        def counted(journal: Journal, record: Record) -> None:
            nonlocal appended
            append(journal, record)
            appended += 1
            if appended == cut_after:
                raise Cut

        defaults = OPTIONS if command == "train" and "--resume" not in args else ()
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", counted)
            try:
                return run_command([command, *defaults, *["-q"] * (quiet and command == "train"), *map(str, args)])
            except Cut:
                return -9

    return call
