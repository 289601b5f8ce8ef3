"""Records of an older version: every command refuses them by name, and changes nothing.

format_1.jsonl is a whole run as version 1 of the format wrote it.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import make_images

Capture = Callable[..., subprocess.CompletedProcess[str]]
OLD = Path(__file__).with_name("format_1.jsonl")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run folder with these records, beside the images of another run."""
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(OLD, folder / "records.jsonl")
    make_images(tmp_path / "small")
    (folder / "config.toml").write_text('folder = "small"\nmodel = "linear"\nepochs = 1\ndevice = "cpu"\n')
    (folder / "checkpoint.safetensors").write_bytes(b"a checkpoint of that version")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "inspect old",
        "inspect old --json",
        "inspect old --sample bag_0001.png",
        "suspects old",
        "rows old",
        "rows old --where correct",
        "rows old/records.jsonl",
        "diff old old",
        "replay old",
        "verify old",
        "verify old --repair saved.jsonl",
        "log old --mlflow sqlite:///mlflow.db",
        "train --resume old",
        "train --resume old --epochs 2",
    ],
)
def test_an_older_run_is_refused_by_name(capture: Capture, old: Path, command: str) -> None:
    """Exit code 4, the version at fault, the way out, and not a byte is written."""
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    done = capture(*command.split())
    assert done.returncode == 4, done.stderr
    assert "written by an older version of capture (record format 1; this version reads format 2)" in done.stderr
    assert "or train again" in done.stderr
    assert "damaged" not in done.stderr
    assert not (old.parent / "saved.jsonl").exists()
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
