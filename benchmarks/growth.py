"""The growth of time and memory with the number of images and of epochs, and the memory of the pixels.

* growth: `capture train` on 1,000, 10,000 and 100,000 images (links to those of sample_data/), and on 1,000 for 1, 10 and 100
  epochs: milliseconds per step in warm epochs, and peak resident memory without the pixels, which are held once.
* memory: how much more memory 10,000 images at 3x96x96 take than 5,000, where their pixels fit; and how much more than 100
  images, where a quarter of the pixels is allowed (`--ram`). The model is `linear`, so that hardly anything else is in memory.
  (Compared with 100 images, pixels that fit would look too cheap: they reuse memory that the start needed for a moment.)
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

from measuring import Row, Trained, linked_images, trained

COUNTS = {1_000: 40, 10_000: 5, 100_000: 2}
"""Images -> epochs, so that there are some hundred warm steps of each."""
EPOCHS = (1, 10, 100)
PIXEL_MB = 3 * 32 * 32 / 1e6
FLAT = 1.1
"""The largest of three at most so many times the smallest."""

LARGE_SIDE = 96
LARGE_MB = 3 * LARGE_SIDE**2 / 1e6
MANY, FEW = 10_000, 100
ALLOWED = 4
"""The share of the pixels that --ram allows is 1 in so many."""


def growth(repeats: int) -> Iterator[Row]:
    """Steps and memory of more images, then of more epochs."""
    by_count: dict[int, list[Trained]] = {count: [] for count in COUNTS}
    for count, epochs in COUNTS.items():
        with linked_images(count) as folder:
            by_count[count] = [trained(folder, f"--epochs={epochs}") for _ in range(min(repeats, 3))]
    names = ", ".join(f"{count:,}" for count in COUNTS)
    yield _flat(f"growth: step with {names} images", [_warm_ms(runs) for runs in by_count.values()], "ms")
    above = [max(one.process.peak_mb for one in runs) - count * PIXEL_MB for count, runs in by_count.items()]
    yield _flat(f"growth: peak memory without the pixels, {names} images", above, "MB")
    with linked_images(1_000) as folder:
        runs = [trained(folder, f"--epochs={epochs}") for epochs in EPOCHS]
    names = ", ".join(map(str, EPOCHS))
    yield _flat(f"growth: peak memory after {names} epochs", [one.process.peak_mb for one in runs], "MB")
    last = runs[-1].warm_steps
    tenths = [median(last[start:end]) * 1e3 for start, end in pairwise([0, 10, len(last) - 10, len(last)])]
    yield _flat("growth: step in the first 10 of 100 epochs, those between, the last 10", tenths, "ms")


def _warm_ms(runs: list[Trained]) -> float:
    return median(step for one in runs for step in one.warm_steps) * 1e3


def _flat(what: str, values: list[float], unit: str) -> Row:
    numbers = ", ".join(f"{value:.{2 if unit == 'ms' else 0}f}" for value in values)
    ratio = max(values) / min(values)
    return Row(what, f"{numbers} {unit}", "-", f"{ratio:.2f}", f"flat: at most {FLAT}", ratio <= FLAT)


def memory(repeats: int) -> Iterator[Row]:
    """What more images take where their pixels fit, and what a training takes where they do not."""
    peaks: dict[str, list[float]] = {"few": [], "half": [], "all": [], "within": []}
    allowed = MANY * LARGE_MB / ALLOWED
    with linked_images(FEW) as few, linked_images(MANY // 2) as half, linked_images(MANY) as every:
        for _ in range(min(repeats, 3)):
            for name, folder in {"few": few, "half": half, "all": every}.items():
                peaks[name].append(_peak_mb(folder))
            peaks["within"].append(_peak_mb(every, f"--ram={allowed * 1e6:.0f}"))
    mb = {name: median(found) for name, found in peaks.items()}
    pixels, more, above = MANY * LARGE_MB / 2, mb["all"] - mb["half"], mb["within"] - mb["few"]
    once = "the pixels once: at most 1.1"
    what = f"memory: {MANY // 2:,} more images, {pixels:.0f} MB of pixels, that fit"
    yield Row(what, f"{more:.0f} MB", "-", f"{more / pixels:.2f}", once, more <= 1.1 * pixels)
    what = f"memory: {2 * pixels:.0f} MB of pixels where {allowed:.0f} are allowed, above a training of {FEW} images"
    yield Row(what, f"{above:.0f} MB", "-", f"{above / allowed:.2f}", "at most 1", above <= allowed)


def _peak_mb(folder: Path, *options: str) -> float:
    """Of a training with the model `linear`, at 96x96."""
    return trained(folder, "--epochs=2", "--model=linear", f"--img-size={LARGE_SIDE}", *options).process.peak_mb
