"""Every file-system call of a small run x kill, half a write, no space, I/O error, short write; then again while resuming."""

import functools
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.every_step import _after_record
from benchmarks.reliability.shim import FAULTS, Shim, possible
from benchmarks.reliability.world import CONFIG, RECORDS, Done, Reference, Result, capture, go_on, make_images, reference, warm

OPTIONS = (
    *("images", "-m", "linear", "-e", "2", "-b", "4", "--device=cpu", "--augment=flip"),
    *("--checkpoint-every=3", "--inputs=all"),
)
EVERY = 23
"""The CI size takes every so many cases: prime to the number of faults, so that each of them comes up."""


def figure(place: Path, result: Result, *, large: bool) -> None:
    """All calls x all faults, or a sample, of a run from its beginning and of one that is resumed."""
    warm()
    make_images(place / "images", count=16, broken=1)
    ref = reference(place, OPTIONS)
    half = capture(["train", *OPTIONS, "-o", "half", "-q"], place, before=functools.partial(_after_record, 6))
    assert half.code == -signal.SIGKILL, half
    result.all_there_are = large
    result.note = "one file-system call fails"
    for title, base in (("the run", None), ("its resumption", "half")):
        calls = _calls(ref, place, base)
        cases = list(_cases(calls))
        chosen = cases if large else cases[::EVERY]
        for at, fault in chosen:
            case = f"{title}: {fault} at call {at} ({calls[at - 1]})"
            _one(ref, place, base, Shim(place / "run", at=at, fault=fault), fault, case, result)
            result.tried += 1
        result.note += f"; {title}: {len(calls)} calls, {len(chosen)} of {len(cases)} cases"


def _calls(ref: Reference, place: Path, base: str | None) -> list[str]:
    """The names of the calls in their order."""
    _begin(place, base)
    log = place / "calls.txt"
    done = capture(go_on(ref, "run", place), place, before=lambda: Shim(place / "run", log=log).install())
    assert done.code == 0, done
    return log.read_text().split()


def _cases(calls: list[str]) -> Iterator[tuple[int, str]]:
    for at, call in enumerate(calls, 1):
        yield from ((at, fault) for fault in FAULTS if possible(fault, call))


def _begin(place: Path, base: str | None) -> None:
    shutil.rmtree(place / "run", ignore_errors=True)
    if base:
        shutil.copytree(place / base, place / "run")


def _one(ref: Reference, place: Path, base: str | None, shim: Shim, fault: str, case: str, result: Result) -> None:
    """Let the fault happen; nothing bad may be left, nothing be kept quiet, and what is resumed must end as if nothing was."""
    _begin(place, base)
    run = place / "run"
    before = (run / RECORDS).read_bytes().count(b"\n") if base else 0
    done = capture(go_on(ref, "run", place), place, before=shim.install)
    _judge(ref, run, fault, done, case, result)
    there = (run / RECORDS).read_bytes() if (run / RECORDS).exists() else b""
    result.expect(ref.is_prefix(there), f"{case}: the records are not the beginning of those of an undisturbed run")
    result.expect(there.count(b"\n") >= before, f"{case}: {before} records were there, {there.count(b'%c' % 10)} are")
    if there == ref.records and (run / CONFIG).exists():
        result.expect(not (what := ref.difference(run)), f"{case}: sealed as completed, but {what} not as undisturbed")
        return
    again = capture(go_on(ref, "run", place), place)
    result.expect(again.code == 0, f"{case}: afterwards it could not be resumed: {again}")
    result.expect(not (what := ref.difference(run)), f"{case}: resumed, and {what} not as undisturbed")
    leftover = [path.name for path in run.glob("*.part")]
    result.expect(not leftover, f"{case}: {leftover} left behind")


def _judge(ref: Reference, run: Path, fault: str, done: Done, case: str, result: Result) -> None:
    """Whether the command said what happened."""
    if fault.startswith("kill"):
        result.expect(done.code == -signal.SIGKILL, f"{case}: was to be killed, ended with {done}")
    elif done.code == 0:
        result.expect(not (what := ref.difference(run)), f"{case}: exit code 0, but {what} not as undisturbed")
    else:
        result.expect(done.code > 0 and "bug in capture" not in done.stderr, f"{case}: {done}")
        result.expect(done.stderr.count("\n") >= 1, f"{case}: exit code {done.code} without a word")
        result.expect(fault != "short", f"{case}: a short write should go on, but: {done}")
