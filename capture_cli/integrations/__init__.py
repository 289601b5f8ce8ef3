"""Recorders for training loops of other libraries: one module each, imported on first use.

    from capture_cli import LightningCapture, TransformersCapture

Such a loop counts epochs itself and evaluates when it likes. `Passes` numbers each pass over the data so that epochs go up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder


class Passes:
    """Numbers the passes over the data of each phase, as epochs of a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._running: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def epoch(self, phase: str, now: int) -> int:
        """Return the number of the running pass over `phase`; a new pass gets the epoch `now`, or the next free number."""
        number = self._running.get(phase)
        if number is None:
            number = self._last[phase] = self._running[phase] = max(now, self._last.get(phase, -1) + 1)
        return number

    def end(self, phase: str) -> None:
        """End the pass over a phase and write its sums, if it has begun."""
        if self._running.pop(phase, None) is not None and self._recorder.is_open(phase):
            self._recorder.end_phase(phase)

    def end_evaluations(self) -> None:
        """End all passes but that of training."""
        for phase in [one for one in self._running if one != "train"]:
            self.end(phase)
