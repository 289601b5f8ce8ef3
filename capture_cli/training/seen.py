"""Images that a model was trained on, known by their files' digests in the records of its run.

seen = trained_digests(Path("runs/first/best.safetensors"))     # None: its run is not here
"""

import os
from contextlib import suppress
from pathlib import Path

from capture_cli.errors import CaptureError, RecordsError
from capture_cli.records import Epoch, Samples
from capture_cli.runs import open_run
from capture_cli.runs.names import holds_run

MOST_RUNS = 20
"""Runs of which each began with the weights of the next; what is further back is not looked at."""


def trained_digests(model: Path) -> frozenset[bytes] | None:
    """Return the digests (BLAKE2b, 16 bytes) of the files that a model was trained on; None without records beside its file.

    Those of the run whose weights it began with (`--weights`) belong to them, and so on back, as far as these runs are still
    there and can be read.
    """
    run = model.parent
    if not holds_run(run):
        return None
    found, weights = _trained_in(run)
    before = {run.resolve()}
    with suppress(CaptureError):  # of a run before this one
        while (origin := _run_of(weights, run)) and origin not in before and len(before) < MOST_RUNS:
            before.add(origin)
            run = origin
            more, weights = _trained_in(run)
            found |= more
    return frozenset(found)


def _trained_in(run: Path) -> tuple[set[bytes], object]:
    """Read the digests of a run's training images, and the value of its `--weights`.

    Reading ends with the first epoch, which has every image, unless a sampler draws them. Of damaged records what is before
    the damage counts.
    """
    seen, weights = set[bytes](), None
    with open_run(run) as opened, suppress(RecordsError):
        weights = opened.info.config.get("weights")
        for block in opened.blocks():
            if isinstance(block, Samples):
                pairs = zip(block.digests, block.splits, strict=True)
                seen.update(bytes.fromhex(digest) for digest, split in pairs if split == "train")
            elif isinstance(block, Epoch) and block.phase == "train" and "sampler" not in opened.info.config:
                break
    return seen, weights


def _run_of(weights: object, run: Path) -> Path | None:
    """Find the run that `weights` names, a run folder or a model in one, from a folder above `run` or from this one."""
    if not isinstance(weights, str):
        return None
    for base in (*run.resolve().parents, Path.cwd()):
        place = base / weights
        folder = place if os.path.isdir(place) else place.parent  # noqa: PTH112 - Path.is_dir raises where it may not look
        if (folder == place or os.path.isfile(place)) and holds_run(folder):  # noqa: PTH113
            return folder.resolve()
    return None
