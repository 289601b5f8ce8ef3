"""A step with everything captured, beside the same step with nothing captured: step.py, in processes of its own.

Each process trains in three ways in turn, epoch by epoch; the figures are medians over the warm epochs of all processes:

* ready tensors: the loop that people write, over float tensors in memory. No loader can be faster.
* capture's own loop with a writer that does nothing: the difference is the cost of capturing, and nothing else.

Capture's loop also differs from people's loops: it gathers uint8 pixels and converts them to floats, and updates with the fused
form of the same optimizer.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fashion import folder_of
from measuring import DATA, HERE, Row, json_lines, per_step, ran, ratio_row

BESIDE = {"ready": "ready tensors", "bare": "its own loop without recorder"}
BYTES = 190
"""That a visit to a sample of 10 classes may have in the records."""


class Case(NamedTuple):
    """A model and batch size, what they are called, and what is wanted beside ready tensors and beside the bare loop."""

    what: str
    options: str
    ready: float
    bare: float | None


CASES = [
    Case("one_conv, batch 64", "--model=one_conv --batch=64", 1.03, 1.03),
    Case("cnn (the default model), batch 64", "--model=cnn --batch=64 --epochs=3", 1.03, 1.03),
    Case("mlp, batch 256", "--model=mlp --batch=256", 1.05, None),
    Case("one_conv, batch 16", "--model=one_conv --batch=16", 1.05, None),
]
THOUSAND = [
    Case("1,000 classes, batch 256, all probabilities", "--batch=256 --thousand --probs=all", 0, None),
    Case("1,000 classes, batch 256, top:10", "--batch=256 --thousand --probs=top:10", 1.03, 1.03),
]


def step(repeats: int) -> Iterator[Row]:
    """Steps of small networks on 10 classes, and the size of their records. Raises NoDataError without Fashion-MNIST."""
    for case in CASES:
        yield from _rows(case, repeats)
    size = _bytes_per_visit("--model=one_conv --batch=64 --epochs=2")
    yield Row("bytes of a captured visit, 10 classes", f"{size:.0f}", "-", "-", f"at most {BYTES}", size <= BYTES)


def thousand(repeats: int) -> Iterator[Row]:
    """The same of 1,000 classes. Raises NoDataError without Fashion-MNIST."""
    for case in THOUSAND:
        yield from _rows(case, repeats)


def _rows(case: Case, repeats: int) -> Iterator[Row]:
    seconds: dict[str, list[float]] = {"captured": [], "ready": [], "bare": []}
    for _ in range(repeats):
        epochs = _epochs(folder_of("fashion10k", DATA), case.options)
        for side, found in seconds.items():
            found += per_step([epoch for epoch in epochs if epoch.get("side") == side])
    ms = {side: median(found) * 1e3 for side, found in seconds.items()}
    for side, at_most in (("ready", case.ready or None), ("bare", case.bare)):
        yield ratio_row(f"step of {case.what}, beside {BESIDE[side]}", ms["captured"], ms[side], "ms", at_most)


def _epochs(folder: Path, options: str) -> list[dict[str, float | str]]:
    return json_lines(ran([sys.executable, str(HERE / "step.py"), str(folder), *options.split()]).stdout)


def _bytes_per_visit(options: str) -> float:
    *_, last = _epochs(folder_of("fashion10k", DATA), options)
    return float(last["bytes_per_visit"])
