"""Pillow's own test images: each is used or skipped with a reason, and what is used equals an independent computation.

    python benchmarks/pillow_images.py pillow-13.0.0.tar.gz      # the source distribution, from PyPI
    python benchmarks/pillow_images.py FOLDER                    # or any folder of image files

Over a thousand files: every format that Pillow knows, broken headers, fuzzed TIFFs, bombs. A file fails if capture raises
anything but Unusable, prints anything, takes longer than SLOW_SECONDS, or makes other pixels than Pillow's documented way does:
open, exif_transpose, convert, paste on white, resize. Exit code 1 if any fails; 0 else, with a table of the reasons.

Not compared are files that Pillow itself cannot make RGB of, and deep ones (16 bits, floats), whose bytes it clips: these are
compared with NumPy's arithmetic on the values that Pillow reads.
"""

import argparse
import contextlib
import io
import os
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from capture_cli.errors import Unusable
from capture_cli.pixels.decoding import decode, peek
from capture_cli.pixels.geometry import Geometry

SLOW_SECONDS = 10
SIDE = 40


Pixels = npt.NDArray[np.uint8]


def files(source: Path, scratch: Path) -> Iterator[Path]:
    """Every file below a folder, or below Tests/images of a source distribution."""
    folder = source
    if source.is_file():
        with tarfile.open(source) as archive:
            archive.extractall(scratch, filter="data")
        folder = next(scratch.glob("*/Tests/images"))
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def expected(data: bytes, channels: int) -> Pixels | None:
    """The pixels by Pillow alone, at their own size; None where Pillow has no way to make them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image: Any = Image.open(io.BytesIO(data))
        image.load()
        with contextlib.suppress(Exception):
            turned = ImageOps.exif_transpose(image)
            image = turned
        if image.mode.startswith("I") or image.mode == "F":
            return deep(image, channels)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
            paper.alpha_composite(image)
            flat = paper.convert("RGB")
        else:
            flat = image.convert("RGB")
    if channels == 1:
        flat = flat.convert("L")
        return np.asarray(flat)[np.newaxis]
    return np.asarray(flat).transpose(2, 0, 1)


def deep(image: Image.Image, channels: int) -> Pixels:
    """Values of more than 8 bits: their high byte, or for floats their range."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        grey = np.rint((values - low) * (255 / (high - low))) if high > low else np.zeros_like(values)
    else:
        grey = values // 256
        grey[values == image.info.get("transparency", -1)] = 255
    return np.repeat(grey.astype(np.uint8)[np.newaxis], channels, axis=0)


class Quiet:
    """Counts what anything in this process, C libraries included, writes to its stderr and stdout."""

    def __enter__(self) -> "Quiet":
        self.file = tempfile.TemporaryFile()
        self.kept = [os.dup(1), os.dup(2)]
        sys.stdout.flush()
        for number in (1, 2):
            os.dup2(self.file.fileno(), number)
        return self

    def __exit__(self, *_: object) -> None:
        for number, kept in zip((1, 2), self.kept, strict=True):
            os.dup2(kept, number)
            os.close(kept)
        self.file.seek(0)
        self.text = self.file.read().decode(errors="replace")
        self.file.close()


def check(data: bytes) -> tuple[str, str]:
    """(`used`, `compared` or why not), (`skipped`, reason), or (`FAILED`, what)."""
    started = time.perf_counter()
    outcome = _outcome(data)
    if time.perf_counter() - started > SLOW_SECONDS:
        return "FAILED", f"took {time.perf_counter() - started:.0f} s"
    return outcome


def _outcome(data: bytes) -> tuple[str, str]:
    with Quiet() as quiet:
        try:
            size = peek(data)
            channels = 1 if size.grey else 3
            geometry = Geometry(height=size.height, width=size.width, channels=channels)
            try:
                pixels = decode(data, geometry)
            except Unusable as unusable:
                if unusable.reason != "wrong-depth":
                    raise
                pixels = decode(data, Geometry(height=size.height, width=size.width, channels=channels, depth="minmax"))
            small = decode(data, Geometry(height=SIDE, width=SIDE, channels=channels, resize="crop", depth="minmax"))
        except Unusable as unusable:
            result = "skipped", f"{unusable.reason}{f' ({unusable.detail})' * (unusable.reason == 'format-not-allowed')}"
        except BaseException as error:  # noqa: BLE001 - that is the finding
            result = "FAILED", f"{type(error).__name__}: {error}"
        else:
            result = "used", _compared(data, pixels, channels)
            if small.shape != (channels, SIDE, SIDE):
                result = "FAILED", f"a crop of shape {small.shape}"
    if quiet.text:
        return "FAILED", f"printed {quiet.text[:80]!r}"
    return ("FAILED", result[1]) if result[1].startswith("other pixels") else result


def _compared(data: bytes, pixels: Pixels, channels: int) -> str:
    try:
        wanted = expected(data, channels)
    except Exception as error:  # noqa: BLE001 - Pillow's own refusal
        return f"Pillow alone cannot: {type(error).__name__}"
    if wanted is None:
        return "not compared"
    if wanted.shape != pixels.shape:
        return f"other pixels: shape {pixels.shape} instead of {wanted.shape}"
    differences = np.abs(pixels.astype(int) - wanted.astype(int))
    if differences.max(initial=0) <= 1:  # two ways to round half transparency
        return "equal" if not differences.any() else "equal but for the rounding of transparency"
    return f"other pixels: {(differences > 1).mean():.1%} differ, by up to {differences.max()}"


def main() -> int:
    """Check every file and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="pillow-VERSION.tar.gz, or a folder")
    parser.add_argument("--list", action="store_true", help="also print the files of each outcome")
    arguments = parser.parse_args()
    outcomes = Counter[tuple[str, str]]()
    named = defaultdict[tuple[str, str], list[str]](list)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for path in files(arguments.source, Path(scratch)):
            outcome = check(path.read_bytes())
            outcomes[outcome] += 1
            named[outcome].append(path.name)
    for outcome, count in sorted(outcomes.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{count:6,}  {outcome[0]:8} {outcome[1]}")
        if arguments.list or outcome[0] == "FAILED":
            print("        " + ", ".join(named[outcome][:20]))
    failed = sum(count for (kind, _), count in outcomes.items() if kind == "FAILED")
    print(f"{outcomes.total():,} files in {time.perf_counter() - started:.0f} s: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
