"""The time until help is on the screen, and until the first batch of a training is recorded.

    python benchmarks/startup.py [--repeats 5]

* help: `capture --help` and `capture train --help` beside importing the library that parses the command line, typer.
* first batch: from the start of `capture train` on the 600 images of sample_data/ to its first batch record on standard output,
  beside a process that imports torch and ends.

Each is a process of its own; they take turns; figures are medians. The first turn of each, with cold caches, does not count.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from measuring import CAPTURE, Row, ran

SAMPLE_DATA = Path(__file__).resolve().parent.parent / "sample_data"
BARE = [sys.executable, "-c", "import typer"]
TORCH = [sys.executable, "-c", "import torch"]
RATIO, SECONDS = 1.5, 1.0
"""At most so many times the bare imports, and so much longer than importing torch."""


def startup(repeats: int) -> list[Row]:
    """The rows of both."""
    return [*help_rows(repeats * 3), first_batch_row(repeats)]  # help is short, so that more repeats cost little


def help_rows(repeats: int) -> list[Row]:
    """Help of the command line and of `train`, beside the bare imports."""
    commands = {"": BARE, "capture --help": [*CAPTURE, "--help"], "capture train --help": [*CAPTURE, "train", "--help"]}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            seconds[name].append(ran(command).seconds)
    base, *took = (median(values[1:]) for values in seconds.values())
    return [
        Row(
            f"`{name}`",
            f"{one * 1e3:.0f} ms",
            f"{base * 1e3:.0f} ms",
            f"{one / base:.2f}",
            f"at most {RATIO}",
            one <= RATIO * base,
        )
        for name, one in zip(list(commands)[1:], took, strict=True)
    ]


def first_batch_row(repeats: int) -> Row:
    """The first batch record of a training, beside importing torch."""
    command = [*CAPTURE, "train", str(SAMPLE_DATA), "-e", "1", "-q", "-o", "-"]
    pairs = [(until_batch(command), ran(TORCH).seconds) for _ in range(repeats + 1)][1:]
    first, torch = (median(column) for column in zip(*pairs, strict=True))
    return Row(
        "first batch of 600 images, beside importing torch",
        f"{first:.2f} s",
        f"{torch:.2f} s",
        f"{first - torch:+.2f} s",
        f"at most +{SECONDS:.0f} s",
        first <= torch + SECONDS,
    )


def until_batch(command: Sequence[str]) -> float:
    """Seconds until a command has written its first batch record; it is let run to its end."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            if b'"kind":"batch"' in line[:40]:
                seconds = time.perf_counter() - start
                break
        else:
            raise subprocess.CalledProcessError(process.wait(), list(command), stderr=process.stderr.read().decode())
        for _ in process.stdout:
            pass
    return seconds


def main() -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    rows = startup(parser.parse_args().repeats)
    print(*(f"| {' | '.join(row[:-1])} | {'yes' if row.met else 'NO'} |" for row in rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
