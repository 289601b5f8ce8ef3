"""A whole training of 3 epochs, everything captured, beside the loop that people write (plain_loop.py).

Both are processes with the same model, optimizer, batch size, input size and images: Fashion-MNIST's 10,000 test images as PNG
files. capture starts with an empty cache of decoded pixels.
"""

import sys
from collections.abc import Iterator
from statistics import median

from fashion import folder_of
from measuring import DATA, HERE, Row, json_lines, per_step, ran, speed_row, trained


def whole(repeats: int) -> Iterator[Row]:
    """A warm step, and the whole command. Raises NoDataError where there is no Fashion-MNIST."""
    folder = folder_of("fashion10k", DATA)
    plain = [sys.executable, str(HERE / "plain_loop.py"), str(folder)]
    steps: dict[str, list[float]] = {"capture": [], "plain": []}
    seconds: dict[str, list[float]] = {"capture": [], "plain": []}
    for _ in range(repeats):
        ours, theirs = trained(folder, "--epochs=3"), ran(plain)
        seconds["capture"].append(ours.process.seconds)
        seconds["plain"].append(theirs.seconds)
        steps["capture"] += ours.warm_steps
        steps["plain"] += per_step(json_lines(theirs.stdout))
    ms = {name: median(values) * 1e3 for name, values in steps.items()}
    yield speed_row("step, beside the plain loop", ms["capture"], ms["plain"], "ms", 4.5)
    took = {name: median(values) for name, values in seconds.items()}
    yield speed_row("3 epochs from start to exit, beside the plain loop", took["capture"], took["plain"], "s", 2)
