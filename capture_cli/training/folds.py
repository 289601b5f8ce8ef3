"""Several trainings as one run, each of which holds out other images: `capture train --folds K`.

    with shared_pixels(plan, resources, warn) as pixels:    # each file is read and decoded once
        for one in plan_folds(plan):
            previous = previous_training(folder)            # as an earlier process left it
            run_training(..., previous=previous, shared=Shared(pixels=pixels.view(), digests=digests))

Each training is an ordinary run in a folder of its own, so a run with folds that was killed resumes at the first one that is
not complete.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from capture_cli.pixels.sharing import SharedPixels
from capture_cli.pixels.store import open_store
from capture_cli.plan import Plan
from capture_cli.resources import Resources
from capture_cli.training.resuming import PreviousRun, read_previous_run


@contextlib.contextmanager
def shared_pixels(plan: Plan, resources: Resources, warn: Callable[[str], object]) -> Iterator[SharedPixels]:
    """Open the pixel store for all trainings."""
    n = len(plan.scan.files)
    with contextlib.closing(open_store(n, plan.geometry, resources, warn=warn)) as store:
        yield SharedPixels(store, n)


def previous_training(folder: Path) -> PreviousRun | None:
    """Read the training of one fold as an earlier process left it; None if it had not begun. Raises as `read_previous_run`."""
    has_begun = folder.is_dir() and any(folder.iterdir())
    return read_previous_run(folder) if has_begun else None
