"""Captured inputs made again in a fresh process, by `capture replay`: equal digests; and one changed image is noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.reliability.world import ROOT, Result, make_images, reference, warm

OPTIONS = ("images", "-m", "linear", "-b", "16", "--device=cpu", "--augment=flip+crop", "--checkpoint-every=1000")
IMAGES = 200


def figure(place: Path, *, large: bool) -> Result:
    """1,000 or 10,000 visits of a training with random augmentation, made again in the order of the records."""
    warm()
    result = Result(note="in the order of the records: the command has no other")
    folder = make_images(place / "images", count=IMAGES, broken=1)
    wanted = 10_000 if large else 1_000
    reference(place, (*OPTIONS, "-e", str(wanted // IMAGES)))
    found = _replay(place)
    result.tried = found["inputs"]
    result.expect(found["inputs"] == wanted, f"{found['inputs']} inputs were made again, {wanted} were captured")
    result.failures += [str(one) for one in found["differences"]]
    changed = folder / "ant_0002.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    found = _replay(place, code=4)
    files = {one["subject"] for one in found["differences"]}
    result.expect(files == {changed.name}, f"{changed.name} was changed, and named are: {files}")
    return result


def _replay(place: Path, *, code: int = 0) -> Any:
    command = [sys.executable, "-m", "capture_cli", "replay", "reference", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"exit code {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)
