"""Run the figures one after the other and print a table; exit code 1 if anything did not hold.

`--json FILE` saves results as they come, those of a running figure included, beside the results of other figures in FILE;
`--table FILE` prints such a file. Ctrl-C and SIGTERM end the running figure with a row of its results so far.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere: children are forked with what it set up

import argparse
import contextlib
import importlib
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FIGURES = (
    "kills",
    "folds",
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
    "terminal_gone",
    "moved",
    "control_groups",
    "printing",
    "sinks",
)
SHOWN_FAILURES = 10
KEPT_EVERY_SECONDS = 10
stopped: list[bool] = []
"""Not empty once somebody has asked to end."""
HEAD = "| figure | failed | bound | seconds | what was done |\n| --- | --- | --- | --- | --- |"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("ci", "large"), default="ci")
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; may be given again")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave what the runs wrote there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was found there, while it goes on")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print what was kept in such a file, and stop")
    options = parser.parse_args()
    print(HEAD, flush=True)
    if options.table:
        found = json.loads(options.table.read_text())
        print("\n".join(row(name, found[name]) for name in FIGURES if name in found))
        return int(any(found[name]["failed"] for name in found))
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    failed = False
    try:
        for name in options.only or FIGURES:
            failed |= not _show(name, size=options.size, keep=options.keep, kept=options.json)
    except KeyboardInterrupt:
        return 130
    return int(failed)


def _stop(*_: object) -> None:
    """End what is going; where this falls into a place that drops exceptions (a hook of fork), after the next case."""
    stopped.append(True)
    raise KeyboardInterrupt


def row(name: str, found: dict[str, Any]) -> str:
    """One figure as a line of Markdown; the bound is that of the rule of three."""
    bound = (
        "all"
        if found["all"]
        else f"{min(100, 100 * 3 / found['tried']):.3g} %"
        if found["tried"] and not found["failed"]
        else ""
    )
    done = "; ".join(filter(None, [found["note"], found["missing"], "" if found["ended"] else "not finished"]))
    return f"| `{name}` | {found['failed']:,} in {found['tried']:,} | {bound} | {found['seconds']:.0f} | {done} |"


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


def _show(name: str, *, size: str, keep: Path | None, kept: Path | None) -> bool:
    """Run one figure and print its row; whether all held."""
    from benchmarks.reliability.world import Result

    begun = last = time.perf_counter()

    def found(result: Result, *, ended: bool) -> dict[str, Any]:
        return {
            "size": size,
            "ended": ended,
            "failed": len(result.failures),
            "tried": result.tried,
            "all": result.all_there_are and ended,
            "seconds": round(time.perf_counter() - begun, 1),
            "note": result.note,
            "missing": result.missing,
            "failures": result.failures[:SHOWN_FAILURES],
        }

    def note(result: Result) -> None:
        nonlocal last
        if stopped:
            raise KeyboardInterrupt
        if kept and time.perf_counter() - last > KEPT_EVERY_SECONDS:
            last = time.perf_counter()
            _keep(kept, name, found(result, ended=False))

    result, ended = Result(keep=note), False
    try:
        with _folder(name, keep) as folder:
            _run(name, folder, result, large=size == "large")
        ended = True
    finally:
        now = found(result, ended=ended)
        if kept:
            _keep(kept, name, now)
        print(row(name, now), flush=True)
    for failure in result.failures[:SHOWN_FAILURES]:
        print(f"    {name}: {failure}", file=sys.stderr, flush=True)
    return not result.failures


def _run(name: str, folder: Path, result: Any, *, large: bool) -> None:
    try:
        figure: Callable[..., None] = importlib.import_module(f"benchmarks.reliability.{name}").figure
        figure(folder, result, large=large)
    except Exception:  # noqa: BLE001 - a figure that cannot be had is a failure like any other, and the next is wanted too
        result.failures.append(traceback.format_exc())


def _keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """Put one figure into the file, which is whole at every moment."""
    there = json.loads(path.read_text()) if path.exists() else {}
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps({**there, name: found}, indent=1) + "\n")
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
