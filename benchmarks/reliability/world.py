"""Shared by the figures: small folders of images, runs in forked children that can be killed, and the run they must equal.

A child starts with torch imported, so that a run takes tenths of a second; it calls what the `capture` command calls. Nothing
is computed before the fork, and everything runs on one torch thread, so that runs can be compared byte for byte.
"""

import functools
import importlib
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

RECORDS, MODEL, CONFIG = "records.jsonl", "model.safetensors", "config.toml"
HUNG_SECONDS = 120
ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    """What came of one figure."""

    tried: int = 0
    """Cases in which something was done to a run."""
    failures: list[str] = field(default_factory=list)
    note: str = ""
    """What else is good to know, a clause."""
    missing: str = ""
    """Why the figure, or a part of it, could not be had here."""
    all_there_are: bool = False
    """Whether these were all the cases of such runs, so that nothing is left to chance."""
    keep: Callable[["Result"], object] = lambda _: None
    """Told of it after each case, so that what was found so far outlives an end from outside."""

    def expect(self, holds: bool, case: str) -> None:
        """Remember `case` as failed unless `holds`."""
        if not holds:
            self.failures.append(case)
        self.keep(self)


class Done(NamedTuple):
    """How a child ended."""

    code: int
    """Exit code; negative: ended by that signal."""
    stderr: str


def make_images(folder: Path, *, count: int, broken: int = 0) -> Path:
    """Grey 6x6 images of two classes that can be told by their brightness, and files that are no images."""
    draw = np.random.default_rng(count)
    folder.mkdir(parents=True)
    for number in range(count):
        name = ("ant", "bee")[number % 2]
        pixels = draw.normal((70, 180)[number % 2], 30, (6, 6)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}_{number:04d}.png")
    for number in range(broken):
        (folder / f"bee_{9000 + number}.png").write_bytes(b"no image at all")
    return folder


def start(args: Sequence[str], cwd: Path, *, before: Callable[[], object] | None = None) -> int:
    """Begin `capture ARGS` in a child of its own process group; `before` is called in the child first. Its pid."""
    from capture_cli.cli import run

    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # here too: who kills the group need not wait for the child to get so far
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        told = os.open("stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(told, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        if before:
            before()
        code = run(args)
    finally:
        os._exit(code)


def ended(pid: int, cwd: Path, *, seconds: float = HUNG_SECONDS) -> Done | None:
    """Wait for a child; None if it has not ended after so many seconds."""
    handle = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return None
    finally:
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    told = cwd / "stderr.txt"
    return Done(code, told.read_text("utf-8", "replace") if told.exists() else "")


def kill(pid: int, cwd: Path) -> Done:
    """SIGKILL the process group of a child, which may have ended already."""
    os.killpg(pid, signal.SIGKILL)
    done = ended(pid, cwd)
    assert done
    return done


def capture(args: Sequence[str], cwd: Path, *, before: Callable[[], object] | None = None) -> Done:
    """`capture ARGS` in a child, until it ends; one that does not end is killed, and its code is -SIGKILL."""
    pid = start(args, cwd, before=before)
    return ended(pid, cwd) or kill(pid, cwd)._replace(stderr=f"hung: had not ended after {HUNG_SECONDS} s")


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed."""

    options: tuple[str, ...]
    """Of `capture train`, all but where it goes."""
    files: dict[str, bytes]
    """Name -> bytes of what two equal runs have in common."""
    seconds: float

    @property
    def records(self) -> bytes:
        """Its records."""
        return self.files[RECORDS]

    @property
    def lines(self) -> list[bytes]:
        """Its records line by line, newline included."""
        return self.records.splitlines(keepends=True)

    def difference(self, run: Path) -> str:
        """What of a finished run folder is not as in this run; empty if all is."""
        there = kept_files(run)
        names = [name for name in {**self.files, **there} if there.get(name) != self.files.get(name)]
        return ", ".join(names)

    def is_prefix(self, records: bytes) -> bool:
        """Whether the whole lines of `records` are the first of this run's, but for an end that is not `completed`."""
        *lines, _ = records.split(b"\n")
        if lines and b'"kind":"end"' in lines[-1][:40] and b'"status":"completed"' not in lines[-1]:
            lines.pop()
        return self.records.startswith(b"".join(line + b"\n" for line in lines))


def kept_files(run: Path) -> dict[str, bytes]:
    """What two equal runs have in common: records, model and inputs."""
    paths = [run / RECORDS, run / MODEL, run / "best.safetensors", *sorted((run / "inputs").glob("*"))]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths if path.is_file()}


def reference(cwd: Path, options: Sequence[str], name: str = "reference") -> Reference:
    """Train without disturbance into `name`. What is timed is a second run, since a first one finds nothing cached."""
    for out in (name, f"{name}-again"):
        begun = time.perf_counter()
        done = capture(["train", *options, "-o", out, "-q"], cwd)
        seconds = time.perf_counter() - begun
        assert done.code == 0, done.stderr
    found = Reference(tuple(options), kept_files(cwd / name), seconds)
    assert not found.difference(cwd / f"{name}-again"), "two undisturbed runs differ"
    return found


def go_on(ref: Reference, run: str, cwd: Path, *more: str) -> list[str]:
    """The command line that goes on with `run`, or begins it where not even its options were written."""
    if (cwd / run / CONFIG).exists() and (cwd / run / RECORDS).exists():
        every = [part for part in ref.options if part.startswith("--checkpoint-every")]
        return ["train", "--resume", run, "-q", *every, *more]
    return ["train", *ref.options, "-o", run, "-q", "--force", *more]


@functools.cache
def warm() -> None:
    """Import here what a training imports, so that no child has to; found out by letting one tell."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_images(place / "images", count=8, broken=1)
        names = place / "modules.txt"

        def tell() -> None:
            leave = os._exit

            def told(code: int) -> None:
                names.write_text("\n".join(sys.modules))
                leave(code)

            os._exit = told  # type: ignore[assignment]

        first = ["train", "images", "-m", "linear", "-e", "1", "-b", "4", "-o", "run", "-q", "--checkpoint-every=1"]
        for args in (first, ["train", "--resume", "run", "-e", "2", "-q"]):
            done = capture(args, place, before=tell)
            assert done.code == 0, done.stderr
            for name in names.read_text().split("\n"):
                if name != "__main__":
                    importlib.import_module(name)
