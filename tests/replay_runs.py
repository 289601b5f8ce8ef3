"""Real runs for the replay tests, each trained once, and a way to falsify copies of them.

def test_x(here: Path) -> None: ...             # a copy of the folder that `train_runs` makes, by the fixture of conftest
rewrite(here / "whole", change)                 # records that verify and say something else
"""

from collections.abc import Callable
from pathlib import Path

from calling import called
from capture_cli.records import Record, decode, encode
from capture_cli.records.chain import GENESIS
from conftest import make_images

VISITS = 120
"""Inputs of a run: 60 images, 2 epochs."""


def train_runs(place: Path) -> Path:
    """Train `whole`, which stores all inputs and has checkpoints, and `grown`: two per batch, and a second epoch later."""
    make_images(place / "images", classes=5, each=12, size=(12, 10), colour=True)
    options = ["-m", "cnn", "-b", "8", "--augment", "flip+crop", "-q"]
    _run(place, "train", "images", *options, "-e", "2", "--inputs", "all", "--checkpoint-every", "10", "-o", "whole")
    _run(place, "train", "images", *options, "-e", "1", "--inputs", "2", "--probs", "top:2", "-o", "grown")
    _run(place, "train", "--resume", "grown", "-e", "2", "-q")
    return place


def _run(place: Path, *args: str) -> None:
    done = called(*args, cwd=place)
    assert done.returncode == 0, done.stderr


def rewrite(run: Path, change: Callable[[Record], Record]) -> None:
    """Change records and rebuild their chain, as anyone with the run folder could."""
    path, chain, lines = run / "records.jsonl", GENESIS, []
    for seq, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        written = encode(change(decode(line)[1]), seq=seq, previous=chain)
        chain = written.chain
        lines.append(written.line)
    path.write_bytes(b"".join(lines))
