"""The run folder is renamed or removed at random moments, and another folder takes its name."""

import os
import random
import shutil
import time
from pathlib import Path

from benchmarks.reliability.world import (
    RECORDS,
    Done,
    Reference,
    Result,
    capture,
    ended,
    kill,
    make_images,
    reference,
    start,
    warm,
)

OPTIONS = ("images", "-m", "linear", "-e", "6", "-b", "2", "--device=cpu", "--inputs=all", "--checkpoint-every=3")
PRECIOUS = "checkpoint.safetensors"


def figure(place: Path, result: Result, *, large: bool) -> None:
    """300 runs, or 12: renamed, renamed and killed and resumed, removed."""
    warm()
    draw, wanted = random.Random(4), 300 if large else 12
    make_images(place / "images", count=24, broken=1)
    ref = reference(place, OPTIONS)
    kinds = [0, 0, 0]
    while result.tried < wanted:
        kind = result.tried % 3
        here = place / f"case-{result.tried}"
        here.mkdir()
        (here / "images").symlink_to(place / "images")
        if _one(here, ref, draw, result, kind):
            result.tried += 1
            kinds[kind] += 1
        shutil.rmtree(here)
    result.note = (
        f"{kinds[0]} runs renamed, {kinds[1]} renamed, killed and resumed, {kinds[2]} removed; another folder took the name"
    )


def _one(here: Path, ref: Reference, draw: random.Random, result: Result, kind: int) -> bool:
    """Disturb one run; return whether it was still going on."""
    pid = start(["train", *ref.options, "-o", "run", "-q"], here)
    moment = draw.uniform(0, ref.seconds)
    time.sleep(moment)
    case = f"{('renamed', 'renamed and killed', 'removed')[kind]} after {moment:.3f} s"
    try:
        (here / "run").rename(here / "moved")
    except OSError:  # it has not begun to write
        kill(pid, here)
        return False
    (here / "run").mkdir()
    (here / "run" / PRECIOUS).write_text("precious")
    if kind == 1:
        time.sleep(draw.uniform(0, ref.seconds / 2))
        kill(pid, here)
        if (here / "moved" / "model.safetensors").exists() or not (here / "moved" / "config.toml").exists():
            return False  # over, or not begun
        done: Done | None = capture(["train", "--resume", "moved", "-q", "--checkpoint-every=3"], here)
    elif kind == 2:
        _remove(here / "moved")
        done = ended(pid, here)
    else:
        done = ended(pid, here)
    result.expect(done is not None, f"{case}: hung")
    if done is None:
        kill(pid, here)
    elif kind == 2:
        result.expect(done.code in (0, 1) and "bug in capture" not in done.stderr, f"{case}: {done}")
        result.expect(done.code == 0 or "removed" in done.stderr, f"{case}: it does not say so: {done}")
        result.expect("kept" not in done.stderr, f"{case}: claims that records are kept: {done}")
    else:
        result.expect(done.code == 0, f"{case}: {done}")
        result.expect(not (what := ref.difference(here / "moved")), f"{case}: {what} not as undisturbed")
    names = os.listdir(here / "run")  # noqa: PTH208
    result.expect(names == [PRECIOUS] and (here / "run" / PRECIOUS).read_text() == "precious", f"{case}: run/ holds {names}")
    return True


def _remove(folder: Path) -> None:
    """Remove a folder in which files are still made, its records first: a run that ends meanwhile has none."""
    (folder / RECORDS).unlink(missing_ok=True)
    for _ in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
