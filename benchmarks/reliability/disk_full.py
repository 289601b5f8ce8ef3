"""A disk that is full after every 4 kB (a small tmpfs): an exit code and valid records; with more space, equal bytes."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.world import RECORDS, Result, capture, go_on, make_images, reference, warm

OPTIONS = (
    *("images", "-m", "mlp", "-e", "2", "-b", "4", "--device=cpu", "--augment=flip"),
    *("--checkpoint-every=3", "--inputs=all"),
)
STEP = 4096


def figure(place: Path, result: Result, *, large: bool) -> None:
    """Every size, or 10 of them, up to the one in which the run has room."""
    if os.geteuid() != 0:
        result.missing = "mounting a small disk needs root"
        return
    warm()
    make_images(place / "images", count=16, broken=1)
    ref = reference(place, OPTIONS)
    need = sum(path.stat().st_size + STEP for path in (place / "reference").rglob("*")) * 3 // 2
    sizes = range(STEP, need, STEP)
    (place / "disk").mkdir()
    fitted = 0
    for size in sizes if large else sizes[:: max(1, len(sizes) // 10)]:
        case = f"a disk of {size // 1024} kB"
        with _disk(place / "disk", size) as fault:
            if fault:
                result.missing = f"no small disk can be mounted here: {fault}"
                return
            result.tried += 1
            done = capture(["train", *OPTIONS, "-o", "disk/run", "-q"], place)
            run = place / "disk" / "run"
            there = (run / RECORDS).read_bytes() if (run / RECORDS).exists() else b""
            fitted += done.code == 0
            if done.code == 0:
                result.expect(not (what := ref.difference(run)), f"{case}: exit code 0, but {what} not as on a large disk")
                continue
            result.expect(done.code == 1 and "No space left" in done.stderr, f"{case}: {done}")
            result.expect("disk/run" in done.stderr, f"{case}: the message does not say where: {done}")
            result.expect(ref.is_prefix(there), f"{case}: the records are not the beginning of those on a large disk")
            result.expect(there.endswith(b"\n") or not there, f"{case}: the last line is torn")
            _mount("-o", f"remount,size={64 * need}", str(place / "disk"))
            again = capture(go_on(ref, "disk/run", place), place)
            result.expect(again.code == 0, f"{case}, then a larger one: {again}")
            result.expect(not (what := ref.difference(run)), f"{case}, then a larger one: {what} not as on a large disk")
    result.all_there_are = large
    result.note = f"a disk that gets full, and larger; sizes up to {need // 1024} kB, in {fitted} of which the run had room"


@contextlib.contextmanager
def _disk(path: Path, size: int) -> Iterator[str]:
    """A tmpfs of so many bytes at `path`; gives why there is none, or nothing."""
    fault = _mount("-t", "tmpfs", "-o", f"size={size}", "capture-reliability", str(path))
    try:
        yield fault
    finally:
        if not fault:
            subprocess.run(["umount", str(path)], check=True)


def _mount(*args: str) -> str:
    try:
        return subprocess.run(["mount", *args], capture_output=True, text=True).stderr.strip()
    except OSError as error:
        return str(error)
