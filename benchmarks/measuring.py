"""Shared by the measurements: running a command, rows of the table, the machine, a timed `capture train`."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
CAPTURE = [str(Path(sys.executable).with_name("capture"))]
PEER_OPTIONS = (
    f"--model={HERE / 'peer_models.py'}:one_conv --img-size=32 --channels=3 --opt=adam --lr=1e-3"
    " --weight-decay=0 --sched=constant --val-split=0"
).split()
"""What makes `capture train` do the work of plain_loop.py."""
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""As where capture was installed: its modules are compiled once, not at every start of a command that is measured."""


class NotMeasuredError(Exception):
    """A measurement cannot be made here; the message says what is missing and what would help."""


class Row(NamedTuple):
    """One line of the table."""

    what: str
    capture: str
    beside: str
    ratio: str
    wanted: str
    met: bool


def ratio_row(what: str, ours: float, theirs: float, unit: str, at_most: float | None) -> Row:
    """A row whose ratio is ours to theirs, `at_most` which is wanted (None: nothing is)."""
    ratio = ours / theirs
    wanted = "-" if at_most is None else f"at most {at_most}"
    return Row(what, shown(ours, unit), shown(theirs, unit), f"{ratio:.3f}", wanted, at_most is None or ratio <= at_most)


def speed_row(what: str, ours: float, theirs: float, unit: str, at_least: float | None) -> Row:
    """A row that says how many times as fast we are."""
    ratio = theirs / ours
    wanted = "-" if at_least is None else f"at least {at_least}"
    met = at_least is None or ratio >= at_least
    return Row(what, shown(ours, unit), shown(theirs, unit), f"{ratio:.1f} times as fast", wanted, met)


def shown(value: float, unit: str) -> str:
    """Three or four digits of a value."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 30 else 2}f} {unit}"


def table_line(row: Row) -> str:
    """A row in Markdown."""
    met = "-" if row.wanted == "-" else "yes" if row.met else "NO"
    return f"| {' | '.join((*row[:-1], met))} |"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, below their heading."""
    heading = "| what | capture | beside | ratio | wanted | met |\n| --- | --- | --- | --- | --- | --- |"
    return "\n".join([heading, *map(table_line, rows)])


def machine() -> str:
    """What was measured on, without naming the host."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    model = ""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = f" of {next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("capture-cli", "torch", "torchvision", "pillow"))
    system = f"{platform.system()} ({platform.machine()}), Python {platform.python_version()}"
    return f"{len(cpus)} cores{model}, {system}, {packages}"


class Ran(NamedTuple):
    """One process: how long it took in seconds, its peak resident memory in MB, what it printed."""

    seconds: float
    peak_mb: float
    stdout: str


def ran(command: Sequence[str]) -> Ran:
    """Run a command to its end. Raises CalledProcessError, with what it said, if it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command), stderr=err.read())
        kilobyte = 1 if sys.platform == "darwin" else 1024  # macOS counts ru_maxrss in bytes
        return Ran(seconds, usage.ru_maxrss * kilobyte / 1e6, out.read())


class Trained(NamedTuple):
    """One `capture train`: its process, seconds per step of each epoch, and the bytes of its records."""

    process: Ran
    steps: list[float]
    record_bytes: int

    @property
    def warm_steps(self) -> list[float]:
        """Of the epochs in which nothing is decoded any more."""
        return self.steps[1:]


def trained(folder: Path, *options: str) -> Trained:
    """Train as plain_loop.py does, everything captured, into a run folder that is gone afterwards; no pixels are cached."""
    with tempfile.TemporaryDirectory() as out:
        command = [*CAPTURE, "train", str(folder), *PEER_OPTIONS, "--no-cache", "-q", "-o", f"{out}/run", *options]
        process = ran(command)
        run = Path(out, "run")
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        return Trained(process, per_step(events), (run / "records.jsonl").stat().st_size)


def per_step(epochs: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds per step of each epoch, of objects with `seconds` and `steps`."""
    return [one["seconds"] / one["steps"] for one in epochs if "steps" in one]


def json_lines(stdout: str) -> list[dict[str, Any]]:
    """The objects that a process printed, one a line; other lines are left out."""
    return [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]


@contextlib.contextmanager
def linked_images(count: int) -> Iterator[Path]:
    """A folder of `count` image files, hard links to those of sample_data/; their classes are in the names."""
    images = sorted((HERE.parent / "sample_data").glob("*.png"))
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA) as folder:  # beside the images, since a hard link cannot leave its file system
        for number in range(count):
            image = images[number % len(images)]
            os.link(image, f"{folder}/{image.name.split('_')[0]}_{number:06d}.png")
        yield Path(folder)
