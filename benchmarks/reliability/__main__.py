"""Run the figures one after the other and print a table; exit code 1 if anything did not hold."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere: children are forked with what it set up

import argparse
import contextlib
import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

FIGURES = (
    "kills",
    "calls",
    "every_step",
    "damage",
    "damaged_checkpoint",
    "crafted_checkpoint",
    "power_cut",
    "disk_full",
    "replays",
    "changed_image",
    "mutated",
)
SHOWN_FAILURES = 10


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--size", choices=("ci", "large"), default="ci")
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; may be given again")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave what the runs wrote there")
    options = parser.parse_args()
    failed = False
    print("| figure | failed | 95 % bound | seconds | |\n|---|---|---|---|---|", flush=True)
    for name in options.only or FIGURES:
        failed |= not _show(name, large=options.size == "large", keep=options.keep)
    return int(failed)


@contextlib.contextmanager
def _folder(name: str, keep: Path | None) -> Iterator[Path]:
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix=f"{name}-", dir=keep))
    else:
        # In memory where that can be had: a process that is killed leaves the same there, and a sync takes no time.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a name of its own is made in it
        with tempfile.TemporaryDirectory(prefix=f"capture-{name}-", dir=memory) as folder:
            yield Path(folder)


def _show(name: str, *, large: bool, keep: Path | None) -> bool:
    """Run one figure and print its row; whether all held."""
    from benchmarks.reliability.world import Result

    begun = time.perf_counter()
    with _folder(name, keep) as folder:
        try:
            figure = importlib.import_module(f"benchmarks.reliability.{name}").figure
            result: Result = figure(folder, large=large)
        except Exception:  # noqa: BLE001 - a figure that cannot be had is a failure like any other, and the next is wanted too
            result = Result(failures=[traceback.format_exc()])
    seconds = time.perf_counter() - begun
    bound = f"{3 / result.tried:.2g}" if result.tried and not result.failures else ""
    remark = "; ".join(text for text in (result.note, result.missing) if text)
    print(f"| {name} | {len(result.failures):,} in {result.tried:,} | {bound} | {seconds:.0f} | {remark} |", flush=True)
    for failure in result.failures[:SHOWN_FAILURES]:
        print(f"    {name}: {failure}", file=sys.stderr, flush=True)
    return not result.failures


if __name__ == "__main__":
    sys.exit(main())
