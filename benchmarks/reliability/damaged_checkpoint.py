"""Every bit of a checkpoint flipped, and every cut: noticed, the one before it used, and equal bytes at the end."""

import contextlib
import functools
import random
import shutil
from pathlib import Path

from benchmarks.reliability.every_step import _after_record
from benchmarks.reliability.world import Result, capture, go_on, make_images, reference, warm

OPTIONS = ("images", "-m", "linear", "-e", "2", "-b", "4", "--device=cpu", "--checkpoint-every=3")
EVERY = 7
NEWEST = "checkpoint.safetensors"


def figure(place: Path, result: Result, *, large: bool) -> None:
    """All bits, or every 7th, read back; 20 or 200 of them resumed as well."""
    warm()
    from capture_cli.checkpoint import load

    draw = random.Random(3)
    make_images(place / "images", count=16)
    ref = reference(place, OPTIONS)
    capture(["train", *OPTIONS, "-o", "half", "-q"], place, before=functools.partial(_after_record, 8))
    path = place / "half" / NEWEST
    good = path.read_bytes()
    cases = [(at, bit) for at in range(len(good)) for bit in range(9)]  # bit 8: cut there
    for at, bit in cases if large else cases[::EVERY]:
        path.write_bytes(_damaged(good, at, bit))
        result.tried += 1
        found = None
        with contextlib.suppress(Exception):  # what else it raises is a failure too
            found = load(place / "half")
        noticed = found is not None and NEWEST in found.damaged
        result.expect(noticed, f"byte {at}, {f'bit {bit}' if bit < 8 else 'cut'}: not noticed, or none was found")
    resumed = 200 if large else 20
    for number in range(resumed):
        at, bit = draw.choice(cases)
        path.write_bytes(_damaged(good, at, bit))
        shutil.copytree(place / "half", place / f"run-{number}")
        done = capture(go_on(ref, f"run-{number}", place), place)
        case = f"byte {at}, bit {bit}, resumed"
        result.expect(done.code == 0 and "the one before it is used" in done.stderr, f"{case}: {done}")
        result.expect(not (what := ref.difference(place / f"run-{number}")), f"{case}: {what} not as undisturbed")
    result.all_there_are = large
    which = "every" if large else f"every {EVERY}th"
    result.note = f"{which} bit and cut of a checkpoint of {len(good):,} bytes; {resumed} of them resumed as well"


def _damaged(good: bytes, at: int, bit: int) -> bytes:
    bad = bytearray(good)
    if bit == 8:
        return bytes(bad[:at])
    bad[at] ^= 1 << bit
    return bytes(bad)
