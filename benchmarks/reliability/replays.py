"""Captured inputs made again one by one in a new process, in shuffled order: equal digests; and one changed image is noticed.

    python -m benchmarks.reliability.replays RUN SEED

is that process: it makes each input alone, from its file and the recipe of the run, in an order drawn from SEED, so that
neither the epoch, the batch nor the visit before can affect it. `capture replay` makes the same inputs in the order of the
records.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.reliability.world import ROOT, Result, make_images, reference, warm

BASE = ("images", "-m", "linear", "-b", "16", "--device=cpu", "--checkpoint-every=1000")
OPTIONS = ((*BASE, "--augment=flip+crop"), (*BASE, "--augment=flip+crop", "--img-size=9x7", "--channels=3", "--seed=7"))
IMAGES = 100


def figure(place: Path, result: Result, *, large: bool) -> None:
    """1,000 or 10,000 visits of two trainings with random augmentation, each made again both ways."""
    warm()
    folder = make_images(place / "images", count=IMAGES, broken=1)
    wanted = (10_000 if large else 1_000) // len(OPTIONS)
    for number, options in enumerate(OPTIONS):
        run = f"reference-{number}"
        reference(place, (*options, "-e", str(wanted // IMAGES)), run)
        found = _answer([sys.executable, "-m", "benchmarks.reliability.replays", run, str(number)], place)
        result.tried += found["inputs"]
        result.expect(found["inputs"] == wanted, f"{run}: {found['inputs']} inputs were made again, {wanted} were captured")
        result.failures += [f"{run}, shuffled: {one}" for one in found["differences"]]
        found = _answer(_replay(run), place)
        result.expect(found["inputs"] == wanted, f"{run}: {found['inputs']} inputs were replayed, {wanted} were captured")
        result.failures += [f"{run}: {one}" for one in found["differences"]]
    changed = folder / "ant_0002.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    found = _answer(_replay("reference-0"), place, code=4)
    files = {one["subject"] for one in found["differences"]}
    result.expect(files == {changed.name}, f"{changed.name} was changed, and named are: {files}")
    result.note = "inputs with random augmentation made again one by one in another process, in shuffled order"


def _replay(run: str) -> list[str]:
    return [sys.executable, "-m", "capture_cli", "replay", run, "--json"]


def _answer(command: list[str], place: Path, *, code: int = 0) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"exit code {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def shuffled(run: str, seed: int) -> dict[str, Any]:
    """Make every captured input of a run again, alone, in an order drawn from `seed`; what was made, and what differs."""
    from capture_cli.preprocessing import digests
    from capture_cli.records import Batch, RunInfo, Samples
    from capture_cli.replay.images import DecodedImages, ImageFile
    from capture_cli.replay.recipes import RunRecipe
    from capture_cli.runs import open_run

    files: dict[str, ImageFile] = {}
    visits: list[tuple[str, int, str, str]] = []  # phase, epoch, file, digest
    differences = []
    with open_run(run) as reading:
        for record in reading.records():
            if isinstance(record, RunInfo):
                recipe = RunRecipe.from_info(record)
            elif isinstance(record, Samples):
                files |= {name: ImageFile(name, digest) for name, digest in zip(record.files, record.digests, strict=True)}
            elif isinstance(record, Batch):
                names = zip(record.files, record.inputs.digests, strict=True)
                visits += [(record.phase, record.epoch, name, digest) for name, digest in names]
        random.Random(seed).shuffle(visits)
        images = DecodedImages(reading.images, recipe.geometry)
        for phase, epoch, name, digest in visits:
            got = images.get([files[name]])
            found = digests(recipe.make(got.pixels, [name] * len(got.found), phase=phase, epoch=epoch))
            if found != [digest]:
                differences.append(f"{name} in {phase} epoch {epoch}: {got.unusable or found}, recorded is {digest}")
    return {"inputs": len(visits), "differences": differences}


if __name__ == "__main__":
    print(json.dumps(shuffled(sys.argv[1], int(sys.argv[2]))))
