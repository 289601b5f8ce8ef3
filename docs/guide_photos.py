"""The photographs of docs/guide.md, cut from desktop backgrounds of Debian (benchmarks/photographs.py).

python docs/guide_photos.py FOLDER

writes FOLDER/photos (nine photographs, 30 crops of each, in a folder for each class), FOLDER/test (crops of three other
photographs) and FOLDER/new (crops of five more, without classes). Three crops are in the folder of another class, on purpose.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from PIL import Image  # noqa: E402 - the path comes first

from debian import NoDataError  # noqa: E402
from photographs import originals, parts  # noqa: E402

CLASSES = {
    "flower": (["FreshFlower", "YellowFlower", "Garden"], "TwoWings"),
    "landscape": (["aitzgorri", "sunset", "Storm"], "picosdeeuropa"),
    "leaf": (["Blinds", "GreenMeadow", "RainDrops"], "LadyBird"),
}
"""Class -> the photographs in photos, and the one in test."""
NEW = ["Dune", "seeding", "Bridge", "life", "Dragonfly"]
WRONG = {"flower/garden_007.jpg": "leaf", "leaf/raindrops_011.jpg": "landscape", "landscape/storm_020.jpg": "flower"}
"""Crops in the folder of another class."""
CROPS, TEST_CROPS, NEW_CROPS = 30, 10, 2
SIZE = (200, 150)


def write(folder: Path) -> None:
    """Write the three folders. Raises NoDataError where the packages cannot be had."""
    files = {path.stem.split("_by_")[0].lower(): path for path in originals(ROOT / "benchmarks" / "data")}
    for label, (seen, unseen) in CLASSES.items():
        for name in seen:
            _crops(files[name.lower()], folder / "photos" / label, CROPS)
        _crops(files[unseen.lower()], folder / "test" / label, TEST_CROPS)
    for name in NEW:
        _crops(files[name.lower()], folder / "new", NEW_CROPS)
    for file, label in WRONG.items():
        path = folder / "photos" / file
        path.rename(path.parent.parent / label / path.name)


def _crops(original: Path, folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = original.stem.split("_by_")[0].lower()
    for number, crop in parts(original, range(count)):
        crop.thumbnail(SIZE, Image.Resampling.LANCZOS)
        crop.save(folder / f"{name}_{number:03d}.jpg", quality=90)


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]))
    except NoDataError as reason:
        sys.exit(f"the photographs cannot be had here: {reason}")
