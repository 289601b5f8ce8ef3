"""Make `sample_data/`: 600 Fashion-MNIST images, 60 per class by name, 12 of them with a wrong class on purpose.

    python benchmarks/sample_data.py [OUT]        # default: sample_data/; needs apt-get or FASHION_DEB

The choice of images is a function of their number in the training set alone (a hash, so that they are spread over it), and so
is their numbering: the number of a file does not tell whether its label is right. MISLABELLED.tsv does.
"""

import sys
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from fashion import CLASSES, NoDataError, Part, read_part, unpacked_package, write_png

PER_CLASS = 60
ROOT = Path(__file__).resolve().parent.parent
SWAPS = (
    # (what it is, what its name claims): six pairs that people mix up too ...
    ("shirt", "tshirt"),
    ("tshirt", "shirt"),
    ("coat", "pullover"),
    ("pullover", "coat"),
    ("sneaker", "boot"),
    ("sandal", "sneaker"),
    # ... and six that nobody would.
    ("bag", "shirt"),
    ("boot", "trouser"),
    ("trouser", "bag"),
    ("sneaker", "dress"),
    ("dress", "sandal"),
    ("boot", "tshirt"),
)


class Pick(NamedTuple):
    """One image of the sample: its number in the training set, what it shows, and what its name claims."""

    number: int
    true_label: str
    label: str


def picks(labels: bytes) -> list[Pick]:
    """The 600 images, from the labels (0..9) of the whole training set, in the order in which they are numbered."""
    of_class: dict[str, list[int]] = {name: [] for name in CLASSES}
    for index in sorted(range(len(labels)), key=_spread):
        of_class[CLASSES[labels[index]]].append(index)
    chosen = [Pick(of_class[true].pop(0), true, claimed) for true, claimed in SWAPS]
    for name in CLASSES:
        wanted = PER_CLASS - sum(claimed == name for _, claimed in SWAPS)
        chosen += [Pick(index, name, name) for index in of_class[name][:wanted]]
    return sorted(chosen, key=lambda pick: _spread(pick.number + len(labels)))  # another hash than the one that chose them


def _spread(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=8).digest()


def write(part: Part, out: Path) -> None:
    """Write the images and MISLABELLED.tsv into `out`, in place of the images that are there."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    numbers = dict.fromkeys(CLASSES, 0)
    wrong = []
    for pick in picks(part.labels.tobytes()):
        numbers[pick.label] += 1
        file = f"{pick.label}_{numbers[pick.label]:04d}.png"
        write_png(part.images[pick.number], out / file)
        if pick.label != pick.true_label:
            wrong.append((file, pick.label, pick.true_label))
    rows = [("file", "label", "true_label"), *sorted(wrong)]
    (out / "MISLABELLED.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "sample_data"
    try:
        write(read_part(unpacked_package(ROOT / "benchmarks" / "data"), "train"), target)
    except NoDataError as reason:
        sys.exit(f"no Fashion-MNIST: {reason}")
