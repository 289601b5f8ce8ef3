"""The sums of phases as lines to read: the table of epochs on a terminal, whole sentences elsewhere.

    table = EpochTable(epochs=10, phases=["train", "val"])
    table.add(sums, seconds=3.2)
    lines = table.take(width=80)    # the lines that have become complete, a heading before the first

Losses are mean cross-entropy in nats, accuracies shares from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from capture_cli.records import Epoch
from capture_cli.views.terminal.text import safe

ROOMY = 60
"""Cells from which on the columns stand further apart."""


def number(value: float) -> str:
    """A loss or a probability with three decimals, in at most six characters; a tiny or huge one as its magnitude."""
    if not math.isfinite(value):
        return str(float(value))
    if 0 < abs(value) < 0.0005 or abs(value) >= 99.9995:
        return f"{value:.0f}" if 99 < abs(value) < 99_999.5 else f"{value:.0e}"
    return f"{value:.3f}"


def duration(seconds: float) -> str:
    """`12.3 s`, `2:05`, `1:02:03`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """`0:07`, `2:05`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def phase_line(sums: Epoch, *, epochs: int, seconds: float) -> str:
    """One finished phase as a line: `epoch 1/10 train loss 0.512 acc 0.812 12,345 images/s`."""
    line = f"epoch {sums.epoch}/{epochs} {sums.phase} loss {number(sums.loss)} acc {sums.accuracy:.3f}"
    return safe(f"{line} {sums.n / seconds:,.0f} images/s" if seconds > 0 else line)


@dataclass
class _Row:
    epoch: int
    phases: dict[str, Epoch] = field(default_factory=dict)
    seconds: float = 0.0


class EpochTable:
    """Gathers the phases of an epoch into one line."""

    def __init__(self, *, epochs: int, phases: Sequence[str]) -> None:
        self.label_width = max(len("epoch"), len(f"{epochs}/{epochs}"))
        self._epochs = epochs
        self._phases = phases
        self._open: _Row | None = None
        self._complete: list[_Row] = []
        self._shown: tuple[object, ...] | None = None
        """The columns under the heading that was shown last."""

    def label(self, epoch: int) -> str:
        """`4/10` for epoch 4 of 10, as wide as the column."""
        return f"{epoch}/{self._epochs}".rjust(self.label_width)

    def add(self, sums: Epoch, *, seconds: float) -> None:
        """Take the sums of a phase; a line is complete with the last phase or when another epoch begins."""
        if self._open is not None and self._open.epoch != sums.epoch:
            self.finish()
        if self._open is None:
            self._open = _Row(sums.epoch)
        self._open.phases[sums.phase] = sums
        self._open.seconds += seconds
        if sums.phase == self._phases[-1]:
            self.finish()

    def finish(self) -> None:
        """Let the line that is waiting for a phase be complete as it is."""
        if self._open is not None:
            self._complete.append(self._open)
            self._open = None

    def take(self, width: int) -> list[Text]:
        """The complete lines not taken before, in at most `width` cells: what does not fit is left out by columns."""
        if not self._complete:
            return []
        rows, self._complete = self._complete, []
        phases, loss_width, acc_width, time_width = columns = self._columns(width)
        lines = [self._line(row, *columns) for row in rows]
        if columns != self._shown:
            self._shown = columns
            above = "".join(safe(phase).rjust(loss_width + acc_width) for phase in phases)
            names = ("loss".rjust(loss_width) + "acc".rjust(acc_width)) * len(phases) + "time".rjust(time_width)[:time_width]
            lines[:0] = [
                Text(),
                Text(" " * self.label_width + above, "dim"),
                Text("epoch".rjust(self.label_width) + names, "dim"),
            ]
        return lines

    def _columns(self, width: int) -> tuple[tuple[str, ...], int, int, int]:
        """Which phases are shown, and the cells of a loss, an accuracy and the time, 0 for none."""
        room = width - self.label_width
        loss, acc, time = (9, 8, 10) if width >= ROOMY else (7, 7, 8)
        everything = (loss + acc) * len(self._phases)
        if everything + time <= room:
            return tuple(self._phases), loss, acc, time
        if everything <= room:
            return tuple(self._phases), loss, acc, 0
        return tuple(self._phases[-1:]), loss, acc, 0

    def _line(self, row: _Row, phases: Sequence[str], loss_width: int, acc_width: int, time_width: int) -> Text:
        text = Text(self.label(row.epoch))
        for phase in phases:
            sums = row.phases.get(phase)
            text.append((number(sums.loss) if sums else "").rjust(loss_width))
            text.append((f"{sums.accuracy:.3f}" if sums else "").rjust(acc_width), "bold" if phase == self._phases[-1] else "")
        if time_width:
            text.append(duration(row.seconds).rjust(time_width), "dim")
        return text
