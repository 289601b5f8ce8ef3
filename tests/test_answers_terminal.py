"""Answers on a terminal: the shaded matrix, and pictures of flips and suspects; a pipe gets text alone."""

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pexpect
import pytest

from calling import Caller
from capture_cli.preprocessing import Recipe
from capture_cli.records import Record, RunInfo
from conftest import CAPTURE, make_images
from runs import run_records, write_run
from terminal import Screen


def shown(folder: Path, *args: str, columns: int = 120) -> Screen:
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    env.pop("NO_COLOR", None)
    screen = Screen(columns=4096)  # commands are left for the terminal to wrap
    command = [*CAPTURE, *args]
    screen.feed(
        pexpect.spawn(
            command[0], command[1:], cwd=str(folder), env=env, dimensions=(60, columns), encoding="utf-8", timeout=60
        ).read()
    )
    return screen


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs over real images."""
    files = sorted(make_images(tmp_path / "images").iterdir())
    digests = [blake2b(one.read_bytes(), digest_size=16).hexdigest() for one in files]
    recipe = Recipe(height=8, width=8, channels=1).to_dict()

    def records(seed: int) -> Iterator[Record]:
        classes, names = ("ant", "bee", "cat"), [one.name for one in files]
        for one in run_records(classes=classes, files=names, digests=digests, folder="images", seed=seed, epochs=3 - 2 * seed):
            yield replace(one, recipe=recipe) if isinstance(one, RunInfo) else one

    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", records(seed))
    return tmp_path


def test_the_matrix_is_shaded(runs: Path, call: Caller) -> None:
    """Backgrounds of two colours on a terminal; counts alone in a pipe, and nothing where it would not fit."""
    screen = shown(runs, "inspect", "run0", "--worst", "0")
    assert "label \\ pred" in screen.text
    assert len([style for style in screen.styles if "48;2;" in style]) >= 2
    piped = call("inspect", "run0").out
    assert "label \\ pred" in piped
    assert "\x1b" not in piped
    assert "label \\ pred" not in shown(runs, "inspect", "run0", "--worst", "0", columns=30).text


@pytest.mark.parametrize("args", [("diff", "run0", "run1"), ("suspects", "run0", "--top", "3")])
def test_pictures_are_shown_on_a_terminal(runs: Path, call: Caller, args: tuple[str, ...]) -> None:
    """Of the images that flipped, and of the suspects; --folder says where they are now."""
    assert "▀" in shown(runs, *args).text
    assert "▀" not in call(*args).out
    (runs / "images").rename(runs / "moved")
    assert "--folder" in shown(runs, *args).text
    assert "▀" in shown(runs, *args, "--folder", "moved").text
