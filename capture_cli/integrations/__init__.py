"""The recorder in loops that others wrote: one module for each, imported when it is asked for.

    from capture_cli import LightningCapture, TransformersCapture

A loop of this kind counts its epochs itself, and evaluates when it likes; `Passes` makes one rising number of each pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder


class Passes:
    """Passes over the data of each phase, as epochs of a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._under_way: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def epoch(self, phase: str, now: int) -> int:
        """The number of the pass over `phase` that is under way: the epoch `now`, or the next number where that is taken."""
        number = self._under_way.get(phase)
        if number is None:
            number = self._last[phase] = self._under_way[phase] = max(now, self._last.get(phase, -1) + 1)
        return number

    def end(self, phase: str) -> None:
        """The pass is over: write its sums, if it has begun."""
        if self._under_way.pop(phase, None) is not None and self._recorder.is_open(phase):
            self._recorder.end_phase(phase)

    def end_all(self, but: str = "") -> None:
        """Every pass is over, but that of one phase."""
        for phase in [one for one in self._under_way if one != but]:
            self.end(phase)
