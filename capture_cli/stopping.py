"""Ctrl-C and SIGTERM: the first asks the run to stop after this batch, the second ends the process at once.

with Stopping(tell) as stopping:
    ...                             # stopping() is True once a signal has come
exit_code = stopping.exit_code      # 130 or 143
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class Stopping:
    """A flag that the first signal sets."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is called with a sentence for the user at the first signal."""
        self.signum = 0
        self._tell = tell
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.signum != 0

    @property
    def exit_code(self) -> int:
        """128 + the signal number, as in a shell."""
        return 128 + self.signum

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum:
            os._exit(128 + signum)
        self.signum = signum
        again = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
        self._tell(f"stopping after this batch; {again} again stops at once")

    def __enter__(self) -> Self:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
