"""Wrong labels for images whose file names carry the class: files get the name of another class.

uniform     any other class
alike       the class that looks most like it (shirt for tshirt, nine for four, ...), where somebody has named one
classdep    a rate and a few favourite classes of its own for every class, drawn at random
instance    the class that a weak model takes the image for, rather where that model is unsure
clean       none: a flag is wrong, or points at an error of the data set itself
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
_ALIKE_CLOTHES = dict(
    zip(
        ("tshirt", "shirt", "pullover", "coat", "dress", "sandal", "sneaker", "boot", "trouser", "bag"),
        ("shirt", "tshirt", "coat", "pullover", "tshirt", "sneaker", "boot", "sneaker", "dress", "sandal"),
        strict=True,
    )
)
_ALIKE_DIGITS = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        ("six", "seven", "seven", "eight", "nine", "six", "five", "one", "three", "four"),
        strict=True,
    )
)
ALIKE = _ALIKE_CLOTHES | _ALIKE_DIGITS
CELLS = (
    *(("uniform", 0.01), ("uniform", 0.03), ("uniform", 0.10), ("uniform", 0.40), ("alike", 0.10), ("alike", 0.20)),
    *(("classdep", 0.20), ("instance", 0.20), ("clean", 0.0)),
)


def planted(source: Sequence[Path], truth: Array, kind: str, rate: float, seed: int, classes: Sequence[str]) -> Array:
    """Class names with some of them wrong; `source` are the images."""
    draw = np.random.default_rng(1000 + seed)
    labels = truth.copy()
    if kind == "classdep":
        rates = draw.uniform(0.25, 1.75, len(classes))
        rates = dict(zip(classes, rates / rates.mean() * rate, strict=True))
        shares = {name: draw.dirichlet(np.full(len(classes) - 1, 0.5)) for name in classes}
        for i in np.flatnonzero(draw.random(len(truth)) < np.array([rates[name] for name in truth])):
            labels[i] = draw.choice([name for name in classes if name != truth[i]], p=shares[truth[i]])
        return labels
    if kind == "instance":
        chosen, likely = _taken_for_another(source, truth, int(rate * len(truth)), draw)
        labels[chosen] = likely
        return labels
    for i in np.flatnonzero(draw.random(len(truth)) < rate):
        others = [name for name in classes if name != truth[i]]
        labels[i] = ALIKE[truth[i]] if kind == "alike" else draw.choice(others)
    return labels


def _taken_for_another(source: Sequence[Path], truth: Array, count: int, draw: np.random.Generator) -> tuple[Array, Array]:
    """Rows of images, rather those that logistic regression on a tenth of them is unsure of, and its likeliest wrong class."""
    from sklearn.linear_model import LogisticRegression

    pixels = np.stack([np.asarray(Image.open(file), float).ravel() for file in source]) / 255
    some = draw.permutation(len(truth))[: max(200, len(truth) // 10)]
    model = LogisticRegression(C=0.05, max_iter=60).fit(pixels[some], truth[some])
    probs = model.predict_proba(pixels)
    own = np.where(model.classes_ == truth[:, None], probs, 0).sum(1)
    probs[model.classes_ == truth[:, None]] = -1
    doubt = probs.max(1) / (probs.max(1) + own) + 0.02
    chosen = draw.choice(len(truth), count, replace=False, p=doubt / doubt.sum())
    return chosen, model.classes_[probs.argmax(1)[chosen]]


def named(source: Sequence[Path], folder: Path, labels: Array) -> set[str]:
    """Link the files of `source` into `folder` under the names of `labels`; the names that are wrong."""
    folder.mkdir()
    wrong = set()
    for file, label in zip(source, labels, strict=True):
        truth, _, number = file.name.partition("_")
        name = f"{label}_{number}"
        os.link(file, folder / name)
        if label != truth:
            wrong.add(name)
    return wrong
