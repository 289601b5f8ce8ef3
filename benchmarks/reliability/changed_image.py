"""One byte changed in an image: `--resume` names the file, and the records stay as they were."""

import functools
import random
import signal
from pathlib import Path

from benchmarks.reliability.every_step import _after_record
from benchmarks.reliability.world import RECORDS, Result, capture, go_on, make_images, reference, warm

OPTIONS = ("images", "-m", "linear", "-e", "2", "-b", "8", "--device=cpu", "--val-split=0")


def figure(place: Path, result: Result, *, large: bool) -> None:
    """50 or 1,000 bytes, in files that were read before the last checkpoint and in files that were read after it."""
    warm()
    draw = random.Random(2)
    folder = make_images(place / "images", count=64, broken=1)
    ref = reference(place, (*OPTIONS, "--checkpoint-every=1"))
    files = sorted(path for path in folder.iterdir() if "bee_9" not in path.name)
    for every in ("1", "1000"):
        options = ["train", *OPTIONS, "--checkpoint-every", every, "-o", f"run-{every}", "-q"]
        killed = capture(options, place, before=functools.partial(_after_record, 10))
        assert killed.code == -signal.SIGKILL, killed
    for number in range(1000 if large else 50):
        run = place / ("run-1", "run-1000")[number % 2]
        path, before = draw.choice(files), (run / RECORDS).read_bytes()
        good = path.read_bytes()
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        done = capture(go_on(ref, run.name, place), place)
        path.write_bytes(good)
        result.tried += 1
        result.expect(done.code != 0 and path.name in done.stderr, f"{run.name}: {path.name} changed, and: {done}")
        result.expect((run / RECORDS).read_bytes() == before, f"{run.name}: {path.name} changed, and the records with it")
    for run in ("run-1", "run-1000"):
        done = capture(go_on(ref, run, place), place)
        result.expect(done.code == 0, f"{run}: all files put back, and: {done}")
        result.expect(not (what := ref.difference(place / run)), f"{run}: all files put back, and {what} not as undisturbed")
    result.note = "one bit of one image changed, and the run resumed: refused, the file named, the records untouched"
