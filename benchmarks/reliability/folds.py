"""SIGKILL of runs with folds at random moments, in and between their trainings, resumed until done: equal bytes everywhere."""

import random
import time
from pathlib import Path

from benchmarks.reliability.world import (
    CONFIG,
    RECORDS,
    Reference,
    Result,
    capture,
    ended,
    kept_files,
    kill,
    make_images,
    start,
    warm,
)

FOLDS = 3
BASE = ("images", "-m", "linear", "-e", "2", "-b", "4", "--device=cpu", f"--folds={FOLDS}")
OPTIONS = ((*BASE, "--checkpoint-every=2", "--augment=flip+crop"), (*BASE, "--checkpoint-every=5", "--inputs=all", "--ema=0.9"))


def figure(place: Path, result: Result, *, large: bool) -> None:
    """10 or 300 kills of runs with two sets of options."""
    warm()
    draw, wanted, runs = random.Random(2), 300 if large else 10, 0
    make_images(place / "images", count=24, broken=2)
    references = [_undisturbed(place, options, f"reference-{number}") for number, options in enumerate(OPTIONS)]
    while result.tried < wanted:
        result.tried += _one_run(references[runs % len(references)], f"run-{runs}", place, draw, result)
        runs += 1
    result.note = f"SIGKILL at random instants of {runs} runs with {FOLDS} folds, several in most, resumed until done"


def _undisturbed(place: Path, options: tuple[str, ...], name: str) -> list[Reference]:
    """Train without disturbance; one reference for each fold."""
    begun = time.perf_counter()
    done = capture(["train", *options, "-o", name, "-q"], place)
    assert done.code == 0, done.stderr
    seconds = time.perf_counter() - begun
    return [Reference(options, kept_files(fold), seconds) for fold in _folds(place / name)]


def _folds(run: Path) -> list[Path]:
    return [run / f"fold-{number}" for number in range(1, FOLDS + 1)]


def _one_run(references: list[Reference], run: str, place: Path, draw: random.Random, result: Result) -> int:
    """Kill and resume one run until it is done; how many kills hit."""
    kills, options, latest = 0, references[0].options, 1.1 * references[0].seconds
    while True:
        every = [part for part in options if part.startswith("--checkpoint-every")]
        begins = ["train", *options, "-o", run, "-q", "--force"]
        args = ["train", "--resume", run, "-q", *every] if (place / run / CONFIG).exists() else begins
        case = f"{run} (options {' '.join(options)}), after {kills} kills"
        pid = start(args, place)
        done = ended(pid, place, seconds=draw.uniform(0, latest) if kills < 12 else 120.0)
        if done is not None:
            is_done = done.code == 0 or "has completed the" in done.stderr  # it was killed when all was done
            result.expect(is_done, f"{case}: exit code {done.code}: {done.stderr.strip()}")
            for fold, ref in zip(_folds(place / run), references, strict=True):
                result.expect(not (what := ref.difference(fold)), f"{case}: {fold.name}: {what} not as in an unkilled run")
            return kills
        kill(pid, place)
        kills += 1
        for fold, ref in zip(_folds(place / run), references, strict=True):
            there = (fold / RECORDS).read_bytes() if (fold / RECORDS).exists() else b""
            what = f"the records of {fold.name} are not the beginning of those of an unkilled run"
            result.expect(ref.is_prefix(there), f"{case}: {what}")
