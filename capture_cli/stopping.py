"""Ctrl-C, SIGTERM and SIGHUP: the first asks the run to stop after this batch, the second ends the process at once.

with Stopping(tell) as stopping:
    ...                             # stopping() is True once a signal has come
exit_code = stopping.exit_code      # 130 or 143; 0 without a signal
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


class Stopping:
    """A flag that the first signal sets."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is called with a sentence for the user at the first signal."""
        self.exit_code = 0
        self._tell = tell
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.exit_code != 0

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self.exit_code:
            os._exit(EXIT_CODES[signal.Signals(signum)])
        self.exit_code = EXIT_CODES[signal.Signals(signum)]
        again = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        self._tell(f"stopping after this batch; {again} again stops at once")

    def __enter__(self) -> Self:
        for signum in EXIT_CODES:
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup means to survive it
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
