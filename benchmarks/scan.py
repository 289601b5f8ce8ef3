"""Scan and label 100,000 image files: seconds and peak memory of `capture labels FOLDER --json`."""

from collections.abc import Iterator
from statistics import median

from measuring import CAPTURE, Row, linked_images, ran

FILES = 100_000
SECONDS, MEMORY_MB = 10, 500
"""What it may take at most."""


def scan(repeats: int) -> Iterator[Row]:
    """Only names count here, so links to the sample images do."""
    with linked_images(FILES) as folder:
        results = [ran([*CAPTURE, "labels", str(folder), "--json"]) for _ in range(repeats)]
    seconds, peak = median(result.seconds for result in results), median(result.peak_mb for result in results)
    took, held = f"at most {SECONDS} s", f"at most {MEMORY_MB} MB"
    yield Row(f"labels of {FILES:,} files: time", f"{seconds:.1f} s", "-", "-", took, seconds <= SECONDS)
    yield Row(f"labels of {FILES:,} files: peak memory", f"{peak:.0f} MB", "-", "-", held, peak <= MEMORY_MB)
