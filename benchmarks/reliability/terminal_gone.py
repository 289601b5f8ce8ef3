"""The terminal disappears at the n-th write to stderr: the run goes on as if nobody had looked at it."""

import os
import pty
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability.world import Result, capture, make_images, reference, warm

OPTIONS = ("images", "-m", "linear", "-e", "3", "-b", "4", "--device=cpu")
WAYS = ("a terminal", "a pipe")


class Watched:
    """A terminal or pipe as stderr, read by the process that writes to it, and closed before the n-th write."""

    def __init__(self, way: str, *, at: int = 0, log: Path | None = None) -> None:
        self._way, self._at, self._log = way, at, log
        self._count = 0

    def install(self) -> None:
        """From here on, in a forked child. `capture` writes to stderr through `os.write` alone."""
        self._reader, writer = pty.openpty() if self._way == "a terminal" else os.pipe()
        os.set_blocking(self._reader, False)
        os.dup2(writer, 2)
        os.close(writer)
        os.environ.update(TERM="xterm", LC_ALL="C.UTF-8")
        os.write = self._write(os.write)

    def _write(self, real: Callable[..., int]) -> Any:
        def write(descriptor: int, data: Any) -> int:
            if descriptor == 2:
                self._count += 1
                if self._log:
                    self._log.write_text(str(self._count))
                if self._count == self._at:
                    os.close(self._reader)
                if not self._at or self._count < self._at:
                    self._drain()
            return real(descriptor, data)

        return write

    def _drain(self) -> None:
        try:
            while os.read(self._reader, 1 << 16):
                pass
        except BlockingIOError:
            pass
        except OSError:  # nothing was ever written to this terminal
            pass


def figure(place: Path, result: Result, *, large: bool) -> None:
    """Every write, or 8 of them, for a terminal and for a pipe."""
    warm()
    make_images(place / "images", count=16, broken=1)
    ref = reference(place, OPTIONS)
    result.note = "stderr goes away"
    for way in WAYS:
        log = place / "writes.txt"
        done = capture(["train", *OPTIONS, "-o", "seen", "--force"], place, before=Watched(way, log=log).install)
        result.expect(done.code == 0, f"{way}: {done}")
        writes = int(log.read_text())
        chosen = range(1, writes + 1) if large else range(1, writes + 1, max(1, writes // 8))
        for at in chosen:
            case = f"{way} gone at write {at} of {writes}"
            done = capture(["train", *OPTIONS, "-o", "run", "--force"], place, before=Watched(way, at=at).install)
            result.tried += 1
            result.expect(done.code == 0, f"{case}: {done}")
            result.expect(not (what := ref.difference(place / "run")), f"{case}: {what} not as undisturbed")
        result.note += f"; {way}: {writes} writes, {len(chosen)} of them"
    result.all_there_are = large
