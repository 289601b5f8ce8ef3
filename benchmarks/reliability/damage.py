"""A log of 100 records: every bit flipped, every cut, lines swapped, doubled and removed, foreign bytes appended: all noticed.

A flip can only show from its own line on, so the reader's chain judges it from the state before that line; a sample of them is
also read from a file, as the commands do.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.world import RECORDS, Result, make_images, reference, warm
from capture_cli.records.chain import follow_all
from capture_cli.runs import Cursor, open_run
from capture_cli.runs.lines import Chain

OPTIONS = ("images", "-m", "linear", "-e", "3", "-b", "2", "--device=cpu", "--checkpoint-every=1000")
RECORDS_WANTED = 100
"""Of the large size."""


def figure(place: Path, result: Result, *, large: bool) -> None:
    """All of it, in either size; the large one has a longer log and reads every tenth damaged file, not every thousandth."""
    warm()
    make_images(place / "images", count=58 if large else 16, broken=1)
    ref = reference(place, OPTIONS)
    lines = ref.lines
    assert len(lines) >= RECORDS_WANTED or not large, len(lines)
    judge = _Judge(place / "damaged.jsonl", lines, 10 if large else 1000)
    for title, number, damaged in _damaged(lines):
        result.tried += 1
        result.expect(judge.notices(number, damaged), title)
    path = place / "reference" / RECORDS
    with open_run(path) as run:
        result.expect(sum(1 for _ in run.lines()) == len(lines) and run.ending.state == "sealed", "the undamaged log")
    result.all_there_are = True
    result.note = f"every bit of a log of {len(lines)} records ({len(ref.records):,} bytes) flipped, every cut, lines swapped"
    result.note += f", doubled, removed, added; {judge.read:,} of them read from a file"


def _damaged(lines: list[bytes]) -> Iterator[tuple[str, int, list[bytes]]]:
    """What was done, the number of the first line that it concerns, and the lines from there on."""
    for number, line in enumerate(lines):
        rest = lines[number + 1 :]
        for at in range(len(line)):
            for bit in range(8):
                flipped = bytearray(line)
                flipped[at] ^= 1 << bit
                yield f"bit {bit} of byte {at} of line {number + 1} flipped", number, [bytes(flipped), *rest]
            yield f"cut after byte {at} of line {number + 1}", number, [line[:at]]
        yield f"line {number + 1} doubled", number, [line, line, *rest]
        yield f"line {number + 1} removed", number, rest
    for number in range(len(lines)):
        for other in range(number + 1, len(lines)):
            swapped = lines[number:]
            swapped[0], swapped[other - number] = swapped[other - number], swapped[0]
            yield f"lines {number + 1} and {other + 1} swapped", number, swapped
    last = len(lines) - 1
    for name, tail in (
        ("zeros", bytes(4096)),
        ("zeros and a newline", bytes(4096) + b"\n"),
        ("an empty line", b"\n"),
        ("old records", b"".join(lines[:5])),
    ):
        yield f"{name} behind the end", last, [lines[-1], tail]


class _Judge:
    """Says whether damage is noticed."""

    def __init__(self, path: Path, lines: list[bytes], read_every: int) -> None:
        self.read = 0
        self._path, self._lines, self._every, self._count = path, lines, read_every, 0
        self._before = [Chain(Cursor())]
        for line in lines:
            chain = copy.deepcopy(self._before[-1])
            _take(chain, line)
            self._before.append(chain)

    def notices(self, number: int, damaged: list[bytes]) -> bool:
        """Whether the log is not taken for whole, with nothing shown but lines that were written."""
        self._count += 1
        return self._by_chain(number, damaged) and (self._count % self._every != 0 or self._by_file(number, damaged))

    def _by_chain(self, number: int, damaged: list[bytes]) -> bool:
        chain = copy.copy(self._before[number])
        chain.counts = chain.counts.copy()
        data = b"".join(damaged[:3])  # three lines are enough to fail in
        whole = data[: data.rfind(b"\n") + 1]
        if _take(chain, whole):
            return True
        torn = len(whole) < len(data)
        return torn or (chain.status is None and len(damaged) <= 3)  # a torn line, or a log that is not sealed

    def _by_file(self, number: int, damaged: list[bytes]) -> bool:
        self.read += 1
        self._path.write_bytes(b"".join([*self._lines[:number], *damaged]))
        with open_run(os.fspath(self._path)) as run:
            shown = [line.data + b"\n" for line in run.lines()]
        return shown == self._lines[: len(shown)] and (run.ending.state != "sealed")


def _take(chain: Chain, lines: bytes) -> str:
    """Give whole lines to the reader's chain; return why one does not verify, or nothing."""
    return chain.take_all(follow_all(lines, seq=chain.lines, previous=chain.chain))[1]
