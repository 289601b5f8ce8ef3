"""`make bench`: what capture costs, beside what one would do without it, measured in one run on one machine.

    python benchmarks/bench.py [--only startup|step|scan] [--repeats 5]

* startup: how soon help and the first batch are there: startup.py.
* step: one training step with everything captured beside the plain loop of plain_loop.py, which captures nothing; the same
  model, batch size, input size and images (Fashion-MNIST's 10,000 test images as PNG files: fashion.py says where from).
* scan: finding and labelling 100,000 image files: seconds and peak memory.

Everything runs in processes of its own, with whatever is compared taking turns, so that a slow moment of the machine hits
both; figures are medians. Prints one Markdown table; docs/benchmarks.md tells what each row means and holds one run.
Exit code 1 where something could not be measured; a target that is missed is shown, and is no failure.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from fashion import NoDataError, folder_of
from measuring import CAPTURE, Row, ran
from measuring import Ran as Ran
from startup import startup

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
SCANNED_FILES = 100_000
PEER_OPTIONS = (
    f"--model={HERE / 'peer_models.py'}:one_conv --img-size=32 --channels=3 --opt=adam --lr=1e-3"
    " --weight-decay=0 --sched=constant --val-split=0"
).split()
"""What makes `capture train` do the work of plain_loop.py."""


def step(repeats: int) -> list[Row]:
    """Milliseconds of one step: everything captured, the plain loop, and the computation alone."""
    folder = folder_of("fashion10k", DATA)
    plain = [sys.executable, str(HERE / "plain_loop.py"), str(folder)]
    times: dict[str, list[float]] = {"capture": [], "plain": [], "in memory": []}
    whole: dict[str, list[float]] = {"capture": [], "plain": []}
    for _ in range(repeats):
        seconds, epochs = _captured(folder)
        whole["capture"].append(seconds)
        times["capture"] += epochs
        result = ran(plain)
        whole["plain"].append(result.seconds)
        times["plain"] += _per_step(result.stdout)
        times["in memory"] += _per_step(ran([*plain, "--in-memory"]).stdout)
    ms = {name: median(values) * 1e3 for name, values in times.items()}
    run = {name: median(values) for name, values in whole.items()}
    return [
        Row(
            "a step, all captured, beside the plain loop",
            f"{ms['capture']:.2f} ms",
            f"{ms['plain']:.2f} ms",
            f"{ms['plain'] / ms['capture']:.1f} times as fast",
            "at least 3",
            ms["plain"] >= 3 * ms["capture"],
        ),
        Row(
            "a step, all captured, beside the computation alone",
            f"{ms['capture']:.2f} ms",
            f"{ms['in memory']:.2f} ms",
            f"{ms['capture'] / ms['in memory']:.2f}",
            "-",
            True,
        ),
        Row(
            "3 epochs from start to exit, beside the plain loop",
            f"{run['capture']:.1f} s",
            f"{run['plain']:.1f} s",
            f"{run['plain'] / run['capture']:.1f} times as fast",
            "-",
            True,
        ),
    ]


def _captured(folder: Path) -> tuple[float, list[float]]:
    """Train with capture: seconds of the whole process, and seconds per step of each epoch."""
    with tempfile.TemporaryDirectory() as out:
        result = ran([*CAPTURE, "train", str(folder), *PEER_OPTIONS, "-e", "3", "-q", "-o", f"{out}/run"])
        events = [json.loads(line) for line in Path(out, "run", "events.jsonl").read_text().splitlines()]
        return result.seconds, [event["seconds"] / event["steps"] for event in events if event["event"] == "epoch"]


def _per_step(stdout: str) -> list[float]:
    return [epoch["seconds"] / epoch["steps"] for epoch in map(json.loads, stdout.splitlines())]


def scan(repeats: int) -> list[Row]:
    """Finding and labelling 100,000 files. Only names count here, so links to the sample images do."""
    images = sorted((HERE.parent / "sample_data").glob("*.png"))
    with tempfile.TemporaryDirectory(dir=HERE) as folder:  # beside the images, since a hard link cannot leave its file system
        for number in range(SCANNED_FILES):
            image = images[number % len(images)]
            os.link(image, f"{folder}/{image.name.split('_')[0]}_{number:06d}.png")
        results = [ran([*CAPTURE, "labels", folder, "--json"]) for _ in range(repeats)]
    seconds, peak = median(result.seconds for result in results), median(result.peak_mb for result in results)
    return [
        Row(f"labels of {SCANNED_FILES:,} files: time", f"{seconds:.1f} s", "-", "-", "at most 10 s", seconds <= 10),
        Row(f"labels of {SCANNED_FILES:,} files: peak memory", f"{peak:.0f} MB", "-", "-", "at most 500 MB", peak <= 500),
    ]


MEASUREMENTS: dict[str, Callable[[int], list[Row]]] = {"startup": startup, "step": step, "scan": scan}


def machine() -> str:
    """What was measured on, without naming the host."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    packages = ", ".join(f"{name} {version(name)}" for name in ("capture-cli", "torch", "torchvision", "pillow"))
    return f"{len(cpus)} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, {packages}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [("what", "capture", "beside", "ratio", "wanted", "met"), ("---",) * 6]
    lines += [(*row[:-1], "-" if row.wanted == "-" else "yes" if row.met else "NO") for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Measure what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="measure this alone (may be repeated)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows, missing = [], []
    for name in options.only or MEASUREMENTS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            rows += MEASUREMENTS[name](options.repeats)
        except NoDataError as reason:
            missing.append(f"{name} not measured, there is no Fashion-MNIST: {reason}")
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip()[-500:]
            missing.append(f"{name} not measured: {' '.join(error.cmd[:4])} ... left with exit code {error.returncode}: {said}")
    if rows:
        print(f"{machine()}\n\n{table(rows)}")
    for line in missing:
        print(line, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
