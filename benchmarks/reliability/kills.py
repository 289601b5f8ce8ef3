"""SIGKILL of the whole process group at random moments, several times per run, resumed until done: equal bytes."""

import os
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.reliability.world import (
    RECORDS,
    ROOT,
    Reference,
    Result,
    capture,
    ended,
    go_on,
    kill,
    make_images,
    reference,
    start,
    warm,
)

BASE = ("images", "-m", "linear", "-e", "3", "-b", "4", "--device=cpu")
MODEL = '''"""A model with state of every kind: dropout, and a normalisation that keeps running means."""
from torch import nn


def net(classes, channels, height, width):
    """Logits [B, classes]."""
    size = channels * height * width
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Dropout(0.3), nn.Linear(size, classes))
'''
OPTIONS = (
    (*BASE, "--checkpoint-every=1", "--augment=flip+crop"),
    (*BASE, "--checkpoint-every=3", "--inputs=all", "--opt=sgd"),
    (*BASE, "--checkpoint-every=7", "-m", "net.py:net", "--augment=flip"),
    (*BASE, "--checkpoint-every=5", "--capture-every=2", "--inputs=1", "--spike=0.1", "-b", "2", "-e", "5"),
    (*BASE, "--checkpoint-every=2", "-m", "net.py:net", "--ema=0.9", "--grad-accum=2", "--mixup=0.4", "--sampler=balanced"),
    (*BASE, "--checkpoint-every=2", "--probs=top:2", "--inputs=all", "--spike=0.1", "--lr=1e-6", "-b", "2", "-e", "5"),
)


def figure(place: Path, result: Result, *, large: bool) -> None:
    """30 or 1,000 kills over runs with different options; every tenth of the real command in a new process."""
    warm()
    draw, wanted = random.Random(1), 1000 if large else 30
    make_images(place / "images", count=24, broken=2)
    (place / "net.py").write_text(MODEL)
    references = [reference(place, options, f"reference-{number}") for number, options in enumerate(OPTIONS)]
    runs = real = 0
    while result.tried < wanted:
        ref, run = references[runs % len(references)], f"run-{runs}"
        by_command = runs % 10 == 3
        killed = _one_run(ref, run, place, draw, result, by_command=by_command)
        result.tried += killed
        real += killed * by_command
        runs += 1
    result.note = f"SIGKILL at random instants of {runs} runs, several in most, resumed until done; {real} of the real command"


def _one_run(ref: Reference, run: str, place: Path, draw: random.Random, result: Result, *, by_command: bool) -> int:
    """Kill and resume one run until it is done; how many kills hit."""
    kills, lines, log = 0, 0, place / run / RECORDS
    # A new process takes seconds to import torch, in which there is little to kill yet.
    earliest, latest = (0.5, 3.0) if by_command else (0.0, 1.1 * ref.seconds)
    while True:
        args = go_on(ref, run, place)
        case = f"{run} (options {' '.join(ref.options)}), after {kills} kills"
        if kills >= (3 if by_command else 12):
            latest = 1e9  # an end to it: this time nobody interferes
        pid = start(args, place) if not by_command else _start_command(args, place)
        done = ended(pid, place, seconds=min(draw.uniform(earliest, latest), 120.0))
        if done is not None:
            result.expect(done.code == 0, f"{case}: exit code {done.code}: {done.stderr.strip()}")
            result.expect(not (what := ref.difference(place / run)), f"{case}: {what} not as in an unkilled run")
            return kills
        kill(pid, place)
        kills += 1
        there = log.read_bytes() if log.exists() else b""
        result.expect(ref.is_prefix(there), f"{case}: the records are not the beginning of those of an unkilled run")
        before, lines = lines, there.count(b"\n")
        result.expect(lines >= before, f"{case}: {before} records were there, {lines} are")
        if there == ref.records:  # killed when all was done: nothing is left to resume, and the command says so
            result.expect(not (what := ref.difference(place / run)), f"{case}: completed, but {what} not as in an unkilled run")
            done = capture(go_on(ref, run, place), place)
            result.expect(done.code == 2 and "has completed its" in done.stderr, f"{case}: completed, resumed: {done}")
            return kills


def _start_command(args: list[str], place: Path) -> int:
    with (place / "stderr.txt").open("wb") as told:
        command = [sys.executable, "-m", "capture_cli", *args]
        started = subprocess.Popen(
            command,
            cwd=place,
            stderr=told,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    started.returncode = 0  # whoever waits for the pid is world.ended
    return started.pid
