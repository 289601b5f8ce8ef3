"""`capture train` with the default network beside busy processes, as many as there are cores, and on a machine left alone.

    python benchmarks/neighbours.py [--repeats 5] [--spins 1000,10000,300000]

capture lets the threads of OpenMP wait for work only shortly (capture_cli.__main__); beside it is what libgomp does by itself.
The two take turns. The images are the 600 of sample_data/, all for training; figures are medians over the warm epochs.
`--spins` prints images per second for several spin counts, and for OMP_WAIT_POLICY=PASSIVE and one thread.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from measuring import CAPTURE, HERE, Row

BY_ITSELF = "300000"
"""The spin count of libgomp, if there are no more threads than cores."""
BESIDE, ALONE = 1.5, 0.98
"""At least so many times as fast beside busy processes, and alone."""
EPOCHS = 6
BUSY = "while True: sum(range(10_000))"


def neighbours(repeats: int) -> Iterator[Row]:
    """Images per second beside busy processes, and alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for what, busy, least in ((f"beside {cores} busy processes", cores, BESIDE), ("alone", 0, ALONE)):
        with processes(busy):
            ours, theirs = speeds([{}, {"GOMP_SPINCOUNT": BY_ITSELF}], repeats)
        told = f"{ours:,.0f} images/s", f"{theirs:,.0f} images/s", f"{ours / theirs:.2f} times as fast"
        yield Row(f"training {what}, and with libgomp's own spin count", *told, f"at least {least}", ours / theirs >= least)


@contextlib.contextmanager
def processes(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def speeds(settings: Sequence[dict[str, str]], repeats: int) -> list[float]:
    """Images per second with each of these environments, which take turns."""
    found: list[list[float]] = [[] for _ in settings]
    for _ in range(repeats):
        for measured, setting in zip(found, settings, strict=True):
            measured += speed(setting)
    return [median(one) for one in found]


def speed(setting: dict[str, str]) -> list[float]:
    """Images per second of the warm epochs of one training."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    with tempfile.TemporaryDirectory() as out:
        options = ["-e", str(EPOCHS), "--val-split", "0", "--workers", "0", "-q", "-o", f"{out}/run"]
        subprocess.run([*CAPTURE, "train", str(HERE.parent / "sample_data"), *options], env=env | setting, check=True)
        events = map(json.loads, Path(out, "run", "events.jsonl").read_text().splitlines())
        return [event["images_per_second"] for event in events if event["event"] == "epoch"][1:]


def main() -> None:
    """Print images per second for several settings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--spins", default=f"1000,3000,10000,30000,{BY_ITSELF}")
    options = parser.parse_args()
    settings = {f"GOMP_SPINCOUNT={spin}": {"GOMP_SPINCOUNT": spin} for spin in options.spins.split(",")}
    settings |= {"OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"}, "one thread": {"OMP_NUM_THREADS": "1"}}
    for busy in (len(os.sched_getaffinity(0)), 0):
        with processes(busy):
            for name, found in zip(settings, speeds(list(settings.values()), options.repeats), strict=True):
                print(f"{busy} busy processes, {name}: {found:,.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
