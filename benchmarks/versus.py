"""This checkout beside another one, such as the version before a change: is anything slower?

    git worktree add ../before v0.1.0 && make -C ../before setup
    python benchmarks/versus.py ../before [--repeats 3]

The two take turns, so that a slow moment of the machine hits both. Each measurement is a process of its own, run by the
checkout's own Python with its own benchmark scripts. A row has the median of both, and the lowest and highest ratio of the
turns: where these lie on both sides of 1, the difference is noise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

from fashion import folder_of
from measuring import DATA, HERE, json_lines, machine, per_step, ran, shown

MEGABYTES = 200
"""Size of the records that `inspect` and `rows` read."""
HELP_TIMES = 5


class Checkout:
    """A checkout whose virtual environment is set up."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.python = str(folder / ".venv" / "bin" / "python")
        self.capture = str(folder / ".venv" / "bin" / "capture")
        self.scripts = folder / "benchmarks"
        self.images = str(images)
        make = (
            f"import sys; sys.path.insert(0, {str(self.scripts)!r}); import reading; print(reading.records_file({MEGABYTES}))"
        )
        made = subprocess.run([self.python, "-c", make], check=True, capture_output=True, text=True, cwd=folder)
        self.records = made.stdout.split()[-1]

    def script(self, name: str, *options: str) -> list[dict[str, float | str]]:
        """The JSON lines that a benchmark script prints."""
        return json_lines(ran([self.python, str(self.scripts / name), *options]).stdout)

    def measure(self) -> dict[str, float]:
        """Every measurement once: milliseconds by name."""
        found: dict[str, float] = {}
        for model, epochs in (("one_conv", 7), ("cnn", 3)):
            lines = self.script("step.py", self.images, f"--model={model}", "--batch=64", f"--epochs={epochs}")
            for side in ("captured", "bare"):
                seconds = median(per_step([line for line in lines if line.get("side") == side]))
                found[f"step of {model}, {'captured' if side == 'captured' else 'nothing captured'}"] = seconds
        for how in ("alone", "training"):
            command = [self.python, str(self.scripts / "record_cost.py"), "--measure=capture", f"--how={how}", "--folder"]
            with tempfile.TemporaryDirectory() as folder:
                printed = ran([*command, folder]).stdout
            found[f"record() of 64 samples, {how}"] = median(json.loads(printed.splitlines()[-1]))
        options = ["--epochs=3", "--val-split=0", "--quiet", "--no-cache", "--force"]
        out = f"--out={self.scripts / 'data' / 'versus-run'}"
        found["capture train, 3 epochs of 10,000 images"] = ran([self.capture, "train", self.images, *options, out]).seconds
        for command in ("inspect", "rows"):
            line = f'exec "$1" {command} "$2" {"--json" if command == "inspect" else ""} > /dev/null'
            found[f"capture {command}, {MEGABYTES} MB"] = ran(["bash", "-c", line, "-", self.capture, self.records]).seconds
        for command in ("", "train ", "inspect "):
            times = [ran([self.capture, *command.split(), "--help"]).seconds for _ in range(HELP_TIMES)]
            found[f"capture {command}--help"] = median(times)
        return {name: value * 1e3 for name, value in found.items()}


def main() -> int:
    """Measure both in turns and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    images = folder_of("fashion10k", DATA)
    checkouts = {"before": Checkout(options.before.resolve(), images), "now": Checkout(HERE.parent, images)}
    turns: dict[str, list[dict[str, float]]] = defaultdict(list)
    for checkout in checkouts.values():  # help with cold caches does not count
        ran([checkout.capture, "train", "--help"])
    for turn in range(options.repeats):
        for name in sorted(checkouts, reverse=bool(turn % 2)):
            turns[name].append(checkouts[name].measure())
            print(f"turn {turn + 1} of {name}", file=sys.stderr, flush=True)
    print(f"{machine()}\n\n| what | before | now | now / before | lowest, highest |\n| --- | --- | --- | --- | --- |")
    for what in turns["now"][0]:
        before, now = ([turn[what] for turn in turns[name]] for name in ("before", "now"))
        ratios = [b / a for a, b in zip(before, now, strict=True)]
        middle: Callable[[list[float]], str] = lambda values: shown(median(values), "ms")  # noqa: E731
        print(f"| {what} | {middle(before)} | {middle(now)} | {median(ratios):.3f} | {min(ratios):.3f}, {max(ratios):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
