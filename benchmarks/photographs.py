"""2,000 JPEG photographs of about 500 x 375 pixels, `CLASS_NUMBER.jpg`, made from real ones, for the benchmarks to decode.

They are made from 27 photographs that two Debian packages hold as desktop backgrounds: lomiri-wallpapers-16.04 (15 of them,
CC-BY, CC-BY-SA and CC0) and mate-backgrounds (the 12 in nature/, GPL). Each becomes a class and yields crops:

* in the shape of the result, 500 x 375 or, one in four, 375 x 500, each side up to 6 % more or less,
* half to all of what fits into the photograph, at a position of its own, all drawn by number,
* resized by Pillow's Lanczos filter, which keeps them sharp, like camera pictures that were shared,
* and saved by Pillow as baseline JPEG of quality 90, 4:2:0: 45 kB on average.

The content is real, so decoding costs what it really costs. Crops overlap, so nothing should be learnt from them.
`BENCH_DATA`, if set, is a folder that already holds photographs/. As a command it writes the folder and prints where: `python
benchmarks/photographs.py OUT`.
"""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from debian import NoDataError, unpacked

COUNT = 2000
QUALITY = 90
NAME = "photographs"
PACKAGES = {
    "lomiri-wallpapers-16.04": "usr/share/backgrounds/*_by_*.jpg",
    "mate-backgrounds": "usr/share/backgrounds/mate/nature/*.jpg",
}
"""Package -> which of its files are photographs."""


def originals(cache: Path) -> list[Path]:
    """The photographs, in the order of their names, from packages unpacked below `cache`. Raises NoDataError."""
    instead = "set BENCH_DATA"
    found = []
    for package, pattern in PACKAGES.items():
        folder = unpacked(package, cache, instead=instead)
        files = sorted(path for path in folder.glob(pattern) if not path.is_symlink())
        if not files:
            raise NoDataError(f"{folder} holds no {pattern}: this is another version of {package}; {instead}")
        found += files
    return sorted(found, key=lambda path: path.name.lower())


def parts(original: Path, numbers: range) -> Iterator[tuple[int, Image.Image]]:
    """One part of a photograph for each number, which alone decides what is taken."""
    with Image.open(original) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    for number in numbers:
        draw = random.Random(number)
        width, height = (375, 500) if draw.random() < 0.25 else (500, 375)
        width, height = (round(side * draw.uniform(0.94, 1.06)) for side in (width, height))
        scale = min(picture.width / width, picture.height / height) * draw.uniform(0.5, 1)
        wide, high = int(width * scale), int(height * scale)
        left, top = draw.randint(0, picture.width - wide), draw.randint(0, picture.height - high)
        box = (left, top, left + wide, top + high)
        yield number, picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def folder_of(out: Path, *, count: int = COUNT) -> Path:
    """The folder of `count` photographs, written below `out` if it is not there yet. Raises NoDataError."""
    ready = os.environ.get("BENCH_DATA")
    folder = Path(ready or out) / (NAME if count == COUNT else f"{NAME}{count}")
    if folder.is_dir():
        return folder
    if ready:
        raise NoDataError(f"BENCH_DATA is set, but there is no {folder}")
    files = originals(out)
    half = folder.with_suffix(".part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    for place, original in enumerate(files):
        name = "".join(letter for letter in original.stem.split("_by_")[0].lower() if letter.isalpha())
        for number, part in parts(original, range(place, count, len(files))):
            part.save(half / f"{name}_{number:05d}.jpg", quality=QUALITY)
    half.rename(folder)
    return folder


if __name__ == "__main__":
    try:
        print(folder_of(Path(sys.argv[1])))
    except NoDataError as reason:
        sys.exit(f"no photographs: {reason}")
