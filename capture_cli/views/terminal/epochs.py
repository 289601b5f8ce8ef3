"""The totals of phases as text: a table of epochs on a terminal, one line per phase elsewhere.

    table = EpochTable(epochs=10, phases=["train", "val"])
    table.add(totals, seconds=3.2)
    lines = table.take(width=80)    # the lines completed since, with a heading before the first

A `*` marks the best epoch so far. Balanced accuracy is shown where the classes are uneven.

Losses are mean cross-entropy in nats, accuracies fractions from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from capture_cli.answers.best import uneven_scores
from capture_cli.records import Epoch
from capture_cli.views.terminal.tables import number
from capture_cli.views.terminal.text import safe

ROOMY = 60
"""Terminal width in cells from which the columns are wider."""


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


def phase_line(totals: Epoch, *, epochs: int, seconds: float, best: bool = False) -> str:
    """Format a finished phase: `epoch 1/10 train loss 0.512 acc 0.812 12,345 images/s`, and what is notable about it."""
    line = f"epoch {totals.epoch}/{epochs} {totals.phase} loss {number(totals.loss)} acc {totals.accuracy:.3f}"
    if uneven := uneven_scores(totals):
        line += f" balanced {uneven[0]:.3f} macro F1 {uneven[1]:.3f}"
    if seconds > 0:
        line += f" {totals.n / seconds:,.0f} images/s"
    return safe(f"{line} (best so far)" if best else line)


@dataclass
class _Row:
    epoch: int
    phases: dict[str, Epoch] = field(default_factory=dict)
    seconds: float = 0.0
    best: bool = False


class EpochTable:
    """One line per epoch, with columns for each phase."""

    def __init__(self, *, epochs: int, phases: Sequence[str]) -> None:
        self.label_width = max(len("epoch"), len(f"{epochs}/{epochs}"))
        self._epochs = epochs
        self._phases = phases
        self._open: _Row | None = None
        self._complete: list[_Row] = []
        self._shown: tuple[object, ...] | None = None
        """The columns of the last heading."""

    def label(self, epoch: int) -> str:
        """Format epoch 4 of 10 as `4/10`, padded to the width of the column."""
        return f"{epoch}/{self._epochs}".rjust(self.label_width)

    def add(self, totals: Epoch, *, seconds: float, best: bool = False) -> None:
        """Add a phase; the line is complete with the last phase, or when another epoch begins.

        `best` marks the epoch as the best so far.
        """
        if self._open is not None and self._open.epoch != totals.epoch:
            self.finish()
        if self._open is None:
            self._open = _Row(totals.epoch)
        self._open.phases[totals.phase] = totals
        self._open.seconds += seconds
        self._open.best |= best
        if totals.phase == self._phases[-1]:
            self.finish()

    def finish(self) -> None:
        """Complete the line that is waiting for a phase, as it is."""
        if self._open is not None:
            self._complete.append(self._open)
            self._open = None

    def take(self, width: int) -> list[Text]:
        """Return the lines completed since, at most `width` cells wide; columns that do not fit are dropped."""
        if not self._complete:
            return []
        rows, self._complete = self._complete, []
        phases, loss_width, acc_width, time_width = columns = self._columns(width)
        lines = [self._line(row, width, *columns) for row in rows]
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
        """Choose the phases to show, and the widths of loss, accuracy and time in cells, 0 for none."""
        room = width - self.label_width
        loss, acc, time = (9, 8, 10) if width >= ROOMY else (7, 7, 8)
        everything = (loss + acc) * len(self._phases)
        if everything + time <= room:
            return tuple(self._phases), loss, acc, time
        if everything <= room:
            return tuple(self._phases), loss, acc, 0
        return tuple(self._phases[-1:]), loss, acc, 0

    def _line(self, row: _Row, width: int, phases: Sequence[str], loss_width: int, acc_width: int, time_width: int) -> Text:
        text = Text(self.label(row.epoch))
        for phase in phases:
            totals = row.phases.get(phase)
            text.append((number(totals.loss) if totals else "").rjust(loss_width))
            text.append((f"{totals.accuracy:.3f}" if totals else "").rjust(acc_width), "bold" * (phase == self._phases[-1]))
        if time_width:
            text.append(duration(row.seconds).rjust(time_width), "dim")
        last = row.phases.get(self._phases[-1])
        uneven = uneven_scores(last) if last else None
        for extra in (f"  balanced {uneven[0]:.3f}" if uneven else "", " *" if row.best else ""):
            if text.cell_len + len(extra) <= width:
                text.append(extra, "dim")
        return text
