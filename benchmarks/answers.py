"""`make bench-answers`: how well `capture suspects` finds planted wrong labels, beside simpler scores of the same runs.

    python benchmarks/answers.py [--only sample|fashion] [--seeds 3] [--epochs 10] [--json FILE]

Each row is a set of runs of `capture train` with the default network and every image in the training split. Wrong labels are
planted by giving files the name of another class:

    uniform     any other class
    alike       the class that looks most like it (shirt for tshirt, sneaker for boot, ...)
    classdep    a rate and a few favourite classes of its own for every class, drawn at random
    clean       none: a flag is wrong, or points at an error of Fashion-MNIST itself

Average precision is the area under precision and recall of the ranking: 1 where every wrong label comes before every right
one. Beside it, from the same runs and ranked in the same way: the mean logit margin (AUM, Pleiss et al. 2020), the mean
probability margin and the mean log p(label). Medians over the seeds.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.answers.dynamics import Dynamics, SampleDynamics
from capture_cli.answers.suspects import find_suspects
from capture_cli.runs import open_run
from fashion import CLASSES, NoDataError, folder_of
from measuring import CAPTURE, DATA, HERE, machine

ALIKE = dict(
    zip(
        ("tshirt", "shirt", "pullover", "coat", "dress", "sandal", "sneaker", "boot", "trouser", "bag"),
        ("shirt", "tshirt", "coat", "pullover", "tshirt", "sneaker", "boot", "sneaker", "dress", "sandal"),
        strict=True,
    )
)
CELLS = (
    *(("uniform", 0.01), ("uniform", 0.03), ("uniform", 0.10), ("uniform", 0.40), ("alike", 0.10), ("alike", 0.20)),
    *(("classdep", 0.20), ("clean", 0.0)),
)
Array = npt.NDArray[Any]
SCORES: dict[str, Callable[[SampleDynamics], Array]] = {
    "AUM": lambda found: -found.aum,
    "p margin": lambda found: -_probability_margin(found),
    "log p": lambda found: found.mean_loss,
}


def average_precision(score: Array, wrong: Array) -> float:
    """The mean of the precision at each wrong label; NaN where none is."""
    found = wrong[np.argsort(-score, kind="stable")]
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean()) if found.any() else float("nan")


def planted(truth: Array, kind: str, rate: float, seed: int) -> Array:
    """Class names with some of them wrong."""
    draw = np.random.default_rng(1000 + seed)
    labels = truth.copy()
    if kind == "classdep":
        rates = draw.uniform(0.25, 1.75, len(CLASSES))
        rates = dict(zip(CLASSES, rates / rates.mean() * rate, strict=True))
        shares = {name: draw.dirichlet(np.full(len(CLASSES) - 1, 0.5)) for name in CLASSES}
        for i in np.flatnonzero(draw.random(len(truth)) < np.array([rates[name] for name in truth])):
            labels[i] = draw.choice([name for name in CLASSES if name != truth[i]], p=shares[truth[i]])
        return labels
    for i in np.flatnonzero(draw.random(len(truth)) < rate):
        others = [name for name in CLASSES if name != truth[i]]
        labels[i] = ALIKE[truth[i]] if kind == "alike" else draw.choice(others)
    return labels


def named(source: Path, folder: Path, labels: Array) -> set[str]:
    """Link the files of `source` into `folder` under the names of `labels`; the names that are wrong."""
    folder.mkdir()
    wrong = set()
    for file, label in zip(sorted(source.iterdir()), labels, strict=True):
        truth, _, number = file.name.partition("_")
        name = f"{label}_{number}"
        os.link(file, folder / name)
        if label != truth:
            wrong.add(name)
    return wrong


def measured(folder: Path, wrong: set[str], *, seed: int, epochs: int, where: Path) -> dict[str, float]:
    """Train once and score every ranking."""
    run = where / "run"
    shutil.rmtree(run, ignore_errors=True)
    options = ["--epochs", str(epochs), "--seed", str(seed), "--val-split", "0", "--labels", "prefix", "--quiet"]
    subprocess.run([*CAPTURE, "train", str(folder), "--out", str(run), *options], check=True, stdout=subprocess.DEVNULL)
    with open_run(run) as opened:
        found = find_suspects(opened)
        fold = Dynamics("train")
        opened.fold(fold)
    dynamics = fold.result()
    is_wrong = np.array([one.file in wrong for one in found.suspects])
    flagged = np.array([one.flagged for one in found.suspects])
    right = int((is_wrong & flagged).sum())
    result = {
        "suspects": average_precision(-np.arange(len(is_wrong), dtype=float), is_wrong),
        "top 20": float(is_wrong[:20].sum()),
        "flagged": float(flagged.sum()),
        "precision": right / max(1, flagged.sum()),
        "F1": 2 * right / max(1, flagged.sum() + is_wrong.sum()),
        "share flagged": float(flagged.mean()),
    }
    of_samples = np.array([file in wrong for file in dynamics.files])
    return result | {name: average_precision(score(dynamics), of_samples) for name, score in SCORES.items()}


def _probability_margin(found: SampleDynamics) -> Array:
    assert found.probs is not None
    means = np.nanmean(found.probs, axis=0)
    rows = np.arange(len(found))
    own = means[rows, found.labels].copy()
    means[rows, found.labels] = -1
    return np.asarray(own - means.max(1))


def sample(seeds: int, epochs: int) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """The twelve wrong labels of sample_data."""
    source = HERE.parent / "sample_data"
    lines = (source / "MISLABELLED.tsv").read_text().splitlines()[1:]
    wrong = {line.split("\t")[0] for line in lines}
    with tempfile.TemporaryDirectory() as where:
        yield "sample_data", [measured(source, wrong, seed=s, epochs=epochs, where=Path(where)) for s in range(seeds)]


def fashion(seeds: int, epochs: int) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Fashion-MNIST's 10,000 test images with planted errors. Raises NoDataError."""
    source = folder_of("fashion10k", DATA)
    truth = np.array([file.name.partition("_")[0] for file in sorted(source.iterdir())])
    for kind, rate in CELLS:
        runs = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(dir=DATA) as where:
                folder = Path(where) / "images"
                wrong = named(source, folder, planted(truth, kind, rate, seed))
                runs.append(measured(folder, wrong, seed=seed, epochs=epochs, where=Path(where)))
        yield f"Fashion 10k, {kind}" + (f" {rate:.0%}" if rate else ""), runs


def line(what: str, runs: list[dict[str, float]]) -> str:
    """One row of the table: medians."""
    middle = {name: median(run[name] for run in runs) for name in runs[0]}
    ranks = " | ".join("-" if middle[name] != middle[name] else f"{middle[name]:.3f}" for name in ("suspects", *SCORES))
    counts = f"{middle['flagged']:.0f} | {middle['precision']:.2f} | {middle['F1']:.2f} | {middle['top 20']:.0f}"
    return f"| {what} | {len(runs)} | {ranks} | {counts} |"


def main() -> None:
    """Measure what was asked for and print the table as it grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=("sample", "fashion"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(machine() + "\n")
    print(f"| data | runs | suspects | {' | '.join(SCORES)} | flagged | precision | F1 | wrong in top 20 |")
    print("| --- " * (7 + len(SCORES)) + "|", flush=True)
    rows: dict[str, list[dict[str, float]]] = {}
    for name, measure in (("sample", sample), ("fashion", fashion)):
        if options.only in (None, name):
            seeds = max(10, options.seeds) if name == "sample" else options.seeds
            try:
                for what, runs in measure(seeds, options.epochs):
                    print(line(what, runs), flush=True)
                    rows[what] = runs
            except NoDataError as reason:
                print(f"| {name} | not measured: {reason} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
