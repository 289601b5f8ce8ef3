"""A power cut: a run on ext4 in a loop file, copied while mounted. Everything reported durable is there, and it resumes.

It says nothing about disks that lie about flushes: the loop file is what the file system had sent to its disk at that moment.
"""

import contextlib
import functools
import os
import random
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.world import (
    RECORDS,
    Reference,
    Result,
    capture,
    ended,
    go_on,
    kill,
    make_images,
    reference,
    start,
    warm,
)

BASE = ("images", "-m", "linear", "-e", "4", "-b", "2", "--device=cpu", "--augment=flip", "--checkpoint-every=5")
OPTIONS = (
    (*BASE, "--inputs=all"),
    (*BASE, "--spike=0.1", "--lr=1e-6", "-e", "5"),  # with inputs that the flight recorder keeps, in a file of its own
)
PACKS = {"inputs/pack-00000.bin": "pack", "inputs/flight.bin": "flight"}
"""A file of inputs, and what a checkpoint calls how much of it there is."""
MEGABYTE = 1 << 20
_REPORT = struct.Struct("<Q")


def figure(place: Path, result: Result, *, large: bool) -> None:
    """8 or 200 cuts at random instants; the journal syncs often, so that there is much to be held to."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        result.missing = "mounting ext4 needs root and mkfs.ext4"
        return
    warm()
    draw = random.Random(4)
    make_images(place / "images", count=32, broken=1)
    references = [reference(place, options, f"reference-{number}") for number, options in enumerate(OPTIONS)]
    kept = [set(PACKS) & set(ref.files) for ref in references]
    assert kept == [{name} for name in PACKS], kept
    disk, copy, mounted = place / "disk.img", place / "copy.img", place / "disk"
    mounted.mkdir()
    durable = packed = 0
    for number in range(200 if large else 8):
        with disk.open("wb") as file:
            file.truncate(16 * MEGABYTE)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", disk], check=True)
        with _mounted(disk, mounted) as fault:
            if fault:
                result.missing = f"no ext4 in a loop file can be mounted here: {fault}"
                return
            ref = references[number % len(references)]
            reported = _cut(ref, place, disk, copy, draw.uniform(0.05, 4 * ref.seconds))
        with _mounted(copy, mounted):
            packed += _judge_packs(ref, place, f"cut {number}", result)
            _judge(ref, place, reported, f"cut {number}", result)
        durable += reported > 0
        result.tried += 1
    result.note = (
        f"power cut at random instants on ext4, in {durable} after records were called durable, in {packed} inputs too"
    )


def _cut(ref: Reference, place: Path, disk: Path, copy: Path, after: float) -> int:
    """Copy the disk of a run in the middle of it, while it stands still; how many bytes of records it had called durable."""
    reading, writing = os.pipe()
    pid = start(["train", *ref.options, "-o", "disk/run", "-q"], place, before=functools.partial(_report_syncs, writing))
    os.close(writing)
    if ended(pid, place, seconds=after) is None:
        os.killpg(pid, signal.SIGSTOP)
        still_there = os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])  # it may have ended just now
        shutil.copyfile(disk, copy)
        if still_there:
            kill(pid, place)
    else:
        shutil.copyfile(disk, copy)
    with os.fdopen(reading, "rb") as pipe:
        reports = pipe.read()
    return int(_REPORT.unpack(reports[-_REPORT.size :])[0]) if reports else 0


def _report_syncs(pipe: int) -> None:
    """After each sync, also one in a thread, say on `pipe` how long the journal was; and let it sync 50 times as often."""
    from capture_cli import journal

    journal.SYNC_EVERY_SECONDS = 0.02
    fdatasync = journal.Journal._fdatasync

    def reported(self: Any) -> None:
        length = self.position["bytes"]  # counted when it is written, so that a thread sees no more than is there
        fdatasync(self)
        if self._sync_error is None:
            os.write(pipe, _REPORT.pack(length))

    journal.Journal._fdatasync = reported  # type: ignore[method-assign]


def _judge_packs(ref: Reference, place: Path, case: str, result: Result) -> bool:
    """Whether there is a checkpoint that speaks of kept inputs; each byte of them must be there."""
    from capture_cli.checkpoint import load

    run = place / "disk" / "run"
    found = load(run) if run.exists() else None
    lengths = {name: found.progress.writer[key] if found else 0 for name, key in PACKS.items()}
    for name, length in lengths.items():
        there = (run / name).read_bytes() if (run / name).exists() else b""
        wanted = ref.files.get(name, b"")[:length]
        result.expect(len(wanted) == length and there[:length] == wanted, f"{case}: not all {length} bytes of {name} are there")
    return any(lengths.values())


def _judge(ref: Reference, place: Path, reported: int, case: str, result: Result) -> None:
    run = place / "disk" / "run"
    there = (run / RECORDS).read_bytes() if (run / RECORDS).exists() else b""
    result.expect(len(there) >= reported, f"{case}: {reported} bytes were reported durable, {len(there)} are there")
    result.expect(there[:reported] == ref.records[:reported], f"{case}: what was reported durable is not what was written")
    if there == ref.records:
        result.expect(not (what := ref.difference(run)), f"{case}: completed, but {what} not as undisturbed")
        return
    done = capture(go_on(ref, "disk/run", place), place)
    result.expect(done.code == 0, f"{case}: could not be resumed: {done}")
    result.expect(not (what := ref.difference(run)), f"{case}: resumed, and {what} not as undisturbed")


@contextlib.contextmanager
def _mounted(image: Path, at: Path) -> Iterator[str]:
    """The file system in `image`; gives why it cannot be mounted, or nothing."""
    fault = subprocess.run(["mount", "-o", "loop", image, at], capture_output=True, text=True).stderr.strip()
    try:
        yield fault
    finally:
        if not fault:
            subprocess.run(["umount", at], check=True)
