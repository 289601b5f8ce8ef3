"""The time of a training, part by part: of one warm step, and of a whole command of 3 epochs from start to exit.

    python benchmarks/spent.py [--repeats 3] [--beside CHECKOUT]

`capture train` runs in this interpreter with a clock around the functions in PARTS. The part of a function is its time less
that of the functions in PARTS that it calls. The work is that of whole.py: one_conv, batch 64, Fashion-MNIST's 10,000 test
images at 3x32x32. `--beside` names a folder with another version of the package, which takes turns with this one. Prints two
Markdown tables; figures are medians of the repeats. The clock itself takes about 0.5 µs per call.
"""

import argparse
import functools
import importlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from fashion import folder_of
from measuring import DATA, HERE, PEER_OPTIONS, machine, ran

EPOCHS = 3
PARTS = {
    "capture_cli.plan.make_plan": "folder scanned, labels found",
    "capture_cli.training.job.prepare": "model built",
    "capture_cli.pixels.store.MemoryStore.admit": "images read and decoded",
    "capture_cli.training.batches.Data._minibatch": "batch gathered, made floats",
    "torch.nn.Module.__call__": "forward",
    "torch.nn.functional.cross_entropy": "loss of the update",
    "torch.Tensor.backward": "backward",
    "torch.optim.Optimizer.zero_grad": "zero_grad",
    "update": "optimizer",
    "capture_cli.writer.BatchWriter.record": "record: all else",
    "capture_cli.writer.digests": "record: digests of the inputs",
    "capture_cli.journal.encode": "record: JSON and chain",
    "capture_cli.journal.Journal.append": "record: written",
    "capture_cli.journal.Journal.sync": "made durable",
    "capture_cli.training.job.save": "checkpoint",
    "capture_cli.runfolder.Output.write_model": "model file",
}
"""What is timed -> what it is called."""
REST = "the loop around it"
IMPORTS = "Python and imports"


class Clock:
    """Seconds by stage and part; time is always the innermost part's."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.stage, self._parts, self._since = "start", [IMPORTS], started

    def enter(self, part: str) -> None:
        """From now on it is this part's time."""
        self._charge()
        self._parts.append(part)

    def leave(self) -> None:
        """It is again that of the part around it."""
        self._charge()
        self._parts.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stage, self._parts[-1]] += now - self._since
        self._since = now

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **options)
            finally:
                self.leave()

        return timed

    def put_around(self, name: str, part: str) -> None:
        """Time the function of this name wherever its module is asked for it."""
        owner, attribute = _owner(name)
        setattr(owner, attribute, self.around(part, getattr(owner, attribute)))


def _owner(name: str) -> tuple[Any, str]:
    before, _, last = name.rpartition(".")
    try:
        return _module(before), last
    except ModuleNotFoundError:
        module, _, kind = before.rpartition(".")
        return getattr(_module(module), kind), last


def _module(name: str) -> Any:
    """Older versions had no folders in the package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package, *_, last = name.split(".")
        return importlib.import_module(f"{package}.{last}" if package == "capture_cli" else name)


def inside(started: float, arguments: list[str]) -> None:
    """Run the command in this process and print what took how long."""
    clock = Clock(time.perf_counter() - (time.time() - started))
    import capture_cli.__main__ as door
    from capture_cli import training

    job = _module("capture_cli.training.job")
    for name, part in PARTS.items():
        if name != "update":
            clock.put_around(name, part)
    without_compiler: Callable[..., Any] = vars(job)["without_compiler"]
    run_phase: Callable[..., Any] = vars(training)["_run_phase"]
    vars(job)["without_compiler"] = lambda optimizer: clock.around(PARTS["update"], without_compiler(optimizer))
    epochs = iter(range(EPOCHS))

    def phase(*args: Any) -> Any:
        clock.enter(REST)
        clock.stage = "later epochs" if next(epochs) else "first epoch"
        try:
            return run_phase(*args)
        finally:
            clock.leave()
            clock.stage = "end"

    vars(training)["_run_phase"] = phase
    sys.argv = ["capture", *arguments]
    try:
        door.main()
    except SystemExit as end:
        if end.code:
            raise
    clock.enter("")
    print(json.dumps([[*key, seconds] for key, seconds in clock.seconds.items()]), file=sys.__stdout__, flush=True)


Spent = dict[tuple[str, str], float]


def measured(checkout: Path, folder: Path) -> Spent:
    """Seconds by stage and part of one run of the package in this checkout, and of the whole."""
    with tempfile.TemporaryDirectory() as out:
        options = ["train", str(folder), *PEER_OPTIONS, f"--epochs={EPOCHS}", "-q", "-o", f"{out}/run"]
        environment = [f"PYTHONPATH={checkout}{os.pathsep}{HERE}", f"XDG_CACHE_HOME={out}", "CAPTURE_CACHE_SIZE=0"]
        command = [sys.executable, str(HERE / "spent.py"), "--inside", str(time.time())]
        done = ran(["env", *environment, *command, *options])
    found = {(stage, part): seconds for stage, part, seconds in json.loads(done.stdout.splitlines()[-1])}
    found["end", "exit"] = done.seconds - sum(found.values())
    return found


def step_table(sides: dict[str, list[Spent]], steps: int) -> str:
    """Milliseconds of one warm step by part."""
    stage = "later epochs"
    parts = [*PARTS.values(), REST]
    return _table("a warm step, ms", [(part, [(stage, part)]) for part in parts], sides, 1e3 / steps)


def whole_table(sides: dict[str, list[Spent]]) -> str:
    """Seconds of the whole command by stage, reading apart."""
    keys = list(dict.fromkeys(key for runs in sides.values() for key in runs[0]))
    reading = ("first epoch", PARTS["capture_cli.pixels.store.MemoryStore.admit"])
    scanned = ("start", PARTS["capture_cli.plan.make_plan"])
    lines = [
        ("start: Python, imports, model", [key for key in keys if key[0] == "start" and key != scanned]),
        ("start: folder scanned", [scanned]),
        ("first epoch: images read and decoded", [reading]),
        ("first epoch: all else", [key for key in keys if key[0] == "first epoch" and key != reading]),
        ("later epochs", [key for key in keys if key[0] == "later epochs"]),
        ("end: checkpoint, model file, exit", [key for key in keys if key[0] == "end"]),
    ]
    return _table(f"a command of {EPOCHS} epochs, s", lines, sides, 1)


def _table(what: str, lines: list[tuple[str, list[tuple[str, str]]]], sides: dict[str, list[Spent]], scale: float) -> str:
    written = [f"| {what} | {' | '.join(sides)} |", f"| --- |{' --- |' * len(sides)}"]
    totals = dict.fromkeys(sides, 0.0)
    for name, keys in lines:
        values = []
        for side, runs in sides.items():
            value = median(sum(run.get(key, 0.0) for key in keys) for run in runs) * scale
            totals[side] += value
            values.append(value)
        if any(values):
            written.append(f"| {name} | {' | '.join(f'{value:.3f}' if scale > 1 else f'{value:.2f}' for value in values)} |")
    written.append(f"| all of it | {' | '.join(f'{value:.2f}' for value in totals.values())} |")
    return "\n".join(written)


def main() -> None:
    """Measure and print the tables."""
    if sys.argv[1:2] == ["--inside"]:
        inside(float(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    folder = folder_of("fashion10k", DATA)
    checkouts = {"now": HERE.parent} | ({"before": options.beside.resolve()} if options.beside else {})
    sides: dict[str, list[Spent]] = {name: [] for name in reversed(checkouts)}
    for _ in range(options.repeats):
        for name in sides:
            sides[name].append(measured(checkouts[name], folder))
    steps = (EPOCHS - 1) * -(-10_000 // 64)
    print(f"{machine()}\n\n{step_table(sides, steps)}\n\n{whole_table(sides)}")


if __name__ == "__main__":
    main()
