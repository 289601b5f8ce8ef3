"""Resume at every step of a 3-epoch run, killed after its k-th batch or its k-th checkpoint: equal bytes.

Threads decode the images: their number changes between the two halves.
"""

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability.world import Reference, Result, capture, go_on, make_images, reference, warm

BASE = ("images", "-m", "linear", "-e", "3", "--device=cpu", "--augment=flip+crop", "--checkpoint-every=1")
OPTIONS = (
    (*BASE, "-b", "4", "--inputs=all"),
    (
        *BASE,
        "-b",
        "1",
        "--spike=0.1",
        "--lr=1e-6",
        "--val-split=0.1",
    ),  # with batches that the flight recorder keeps, and the ones before
)
WORKERS = (0, 1, 2)


def figure(place: Path, result: Result, *, large: bool) -> None:
    """Every step, or every 7th, twice: before the update of the step was saved, and after."""
    warm()
    make_images(place / "images", count=24, broken=2)
    result.note = "killed before the update of a step was kept, or after, and resumed"
    for number, options in enumerate(OPTIONS):
        ref = reference(place, options, f"reference-{number}")
        batches = ref.records.count(b'"kind":"batch"')
        flights = ref.records.count(b'"flight":')
        result.note += f"; {batches} steps, {flights} of them kept by the flight recorder"
        for step in range(1, batches + 1, 1 if large else 7):
            for die in (_after_record, _after_checkpoint):
                result.tried += 1
                _one(ref, place, f"run-{number}-{step}{die.__name__}", functools.partial(die, step), step, result)
    result.all_there_are = large
    result.note += "; 0, 1 and 2 workers"


def _one(ref: Reference, place: Path, run: str, die: Callable[[], None], step: int, result: Result) -> None:
    workers = [f"--workers={WORKERS[(step + more) % len(WORKERS)]}" for more in range(2)]
    killed = capture(["train", *ref.options, "-o", run, "-q", workers[0]], place, before=die)
    result.expect(killed.code == -signal.SIGKILL, f"{run}: was to be killed, ended with {killed}")
    resumed = capture([*go_on(ref, run, place), workers[1]], place)
    result.expect(resumed.code == 0, f"{run}: resumed with {resumed}")
    result.expect(not (what := ref.difference(place / run)), f"{run}: {what} not as in an unkilled run")


def _after_record(step: int) -> None:
    """Die when the `step`-th batch is on record: the update that follows is lost."""
    from capture_cli.journal import Journal

    append = Journal.append

    def counted(journal: Journal, record: Any) -> None:
        append(journal, record)
        if record.kind == "batch" and journal.counts["batch"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = counted  # type: ignore[method-assign]


def _after_checkpoint(step: int) -> None:
    """Die when the checkpoint after the `step`-th batch is there."""
    from capture_cli.training import job

    save, left = job.save, [step]

    def counted(*args: Any, **options: Any) -> None:
        save(*args, **options)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    job.save = counted
