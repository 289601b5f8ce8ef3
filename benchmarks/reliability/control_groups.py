"""Memory limits of nested control groups: pixels that would not fit are read from disk, and the records are the same."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.world import Result, capture, make_images, reference, warm

MODEL = '''"""A small model for large inputs."""
from torch import nn


def net(classes, channels, height, width):
    """Logits [B, classes]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(channels * 16, classes))
'''
OPTIONS = (
    *("images", "-m", "net.py:net", "-e", "1", "-b", "2", "--img-size=512", "--device=cpu", "--no-cache"),
    *("--workers=0", "--resize=stretch"),
)
IMAGES = 480
"""A quarter of 1 MB of pixels each; batches of them are small beside the limits, or these would be too tight for some."""
LEAST, MOST = 90, 180
"""Limits in MB: less than the pixels and what a training takes beside them, and more than the latter."""


def figure(place: Path, result: Result, *, large: bool) -> None:
    """60 runs, or 4, in groups up to three deep, of which one or more have a limit."""
    warm()
    draw = random.Random(5)
    make_images(place / "images", count=IMAGES)
    (place / "net.py").write_text(MODEL)
    with _groups(3) as groups:
        if not groups:
            result.missing = "control groups with a limit of memory need root and a memory controller"
            return
        ref = reference(place, OPTIONS)
        for number in range(60 if large else 4):
            limited = [group for group in groups if draw.random() < 0.5] or [draw.choice(groups)]
            limits = {group: draw.randint(LEAST, MOST) for group in limited}
            for group in groups:
                _limit(group, limits.get(group))
            case = f"run {number} in {len(groups)} nested groups with the limits {[limits.get(group) for group in groups]} MB"
            inner = groups[-1]
            enter = lambda: (inner / "cgroup.procs").write_text(str(os.getpid()))  # noqa: B023, E731 - called in this turn
            done = capture(["train", *OPTIONS, "-o", "run", "-q", "--force"], place, before=enter)
            result.tried += 1
            killed = " by the kernel" if done.code == -signal.SIGKILL else ""
            result.expect(done.code == 0, f"{case}: ended{killed}: {done}")
            result.expect(not (what := ref.difference(place / "run")), f"{case}: {what} not as without a limit")
    result.note = f"{IMAGES // 4} MB of pixels under limits of {LEAST} to {MOST} MB at up to 3 levels"


@contextmanager
def _groups(depth: int) -> Iterator[list[Path]]:
    """Make nested control groups, the outer one first; none where that is not possible."""
    made: list[Path] = []
    top = next((one for one in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")) if one.is_dir()), Path("/nowhere"))
    try:
        for number in range(depth):
            group = (made[-1] if made else top) / f"capture-{os.getpid()}-{number}"
            group.mkdir()
            made.append(group)
            if top.name != "memory" and number < depth - 1:
                (group / "cgroup.subtree_control").write_text("+memory")
        _limit(made[-1], None)
    except OSError:
        yield []
    else:
        yield made
    finally:
        for group in reversed(made):
            group.rmdir()


def _limit(group: Path, megabytes: int | None) -> None:
    version_1 = group / "memory.limit_in_bytes"
    path = version_1 if version_1.exists() else group / "memory.max"
    path.write_text(str(megabytes << 20) if megabytes else "-1" if version_1.exists() else "max")
