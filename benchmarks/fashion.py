"""Fashion-MNIST as folders of PNG files whose names carry the class, for `sample_data/` and the benchmarks.

The images come from the Debian package dataset-fashion-mnist (MIT licence, Zalando SE), found in this order:

    BENCH_DATA    a folder that already holds fashion10k/ and fashion60k/, used as it is
    FASHION_DEB   a folder with the unpacked package (`dpkg-deb -x`)
    apt-get       downloads the package and unpacks it into a cache; nothing is installed

As a command it writes both folders and prints where: `python benchmarks/fashion.py OUT`.
"""

import gzip
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from debian import NoDataError, unpacked

CLASSES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""Our names of Fashion-MNIST's classes 0 to 9."""
PARTS = {"fashion10k": "t10k", "fashion60k": "train"}
"""Folder -> the part of Fashion-MNIST that it holds."""
__all__ = ["CLASSES", "NoDataError", "Part", "folder_of", "read_part", "unpacked_package", "write_png"]
_PACKAGE = "dataset-fashion-mnist"
_INSIDE = Path("usr/share/datasets/fashion-mnist")


class Part(NamedTuple):
    """One part of the data set: images uint8 [N, 28, 28], labels uint8 [N] in 0..9."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def read_part(unpacked: Path, part: str) -> Part:
    """Read `train` (60,000 images) or `t10k` (10,000) from the unpacked package. Raises NoDataError where it is not there."""
    try:
        images = gzip.decompress((unpacked / _INSIDE / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((unpacked / _INSIDE / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError as error:
        raise NoDataError(f"{unpacked} does not hold {_INSIDE}: unpack {_PACKAGE} there with dpkg-deb -x") from error
    # IDX: a header of four big-endian words before the pixels, of two before the labels.
    return Part(np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8))


def write_png(image: npt.NDArray[np.uint8], path: Path) -> None:
    """Write one [28, 28] image as a greyscale PNG, as small as Pillow makes it."""
    Image.fromarray(image).save(path, optimize=True)


def unpacked_package(cache: Path) -> Path:
    """The folder of the unpacked Debian package: FASHION_DEB, else downloaded below `cache`. Raises NoDataError."""
    named = os.environ.get("FASHION_DEB")
    if named:
        return Path(named)
    return unpacked(_PACKAGE, cache, instead="set FASHION_DEB or BENCH_DATA")


def folder_of(name: str, out: Path) -> Path:
    """The PNG folder `fashion10k` or `fashion60k`, written below `out` if it is not there yet. Raises NoDataError."""
    ready = os.environ.get("BENCH_DATA")
    if ready:
        folder = Path(ready) / name
        if not folder.is_dir():
            raise NoDataError(f"BENCH_DATA is set, but there is no {folder}")
        return folder
    folder = out / name
    if not folder.exists():
        half = folder.with_suffix(".part")  # renamed when whole: an interrupted run leaves no folder that looks complete
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for file, image in _named(read_part(unpacked_package(out), PARTS[name])):
            write_png(image, half / file)
        half.rename(folder)
    return folder


def _named(part: Part) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
        yield f"{CLASSES[label]}_{number:05d}.png", image


if __name__ == "__main__":
    try:
        for each in PARTS:
            print(folder_of(each, Path(sys.argv[1])))
    except NoDataError as reason:
        sys.exit(f"no Fashion-MNIST: {reason}")
