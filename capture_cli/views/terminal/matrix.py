"""The confusion matrix and the calibration of a phase for people.

show([*matrix_parts(phase, width=80), *calibration_parts(phase)], width=80)

On a terminal a cell is shaded by its share of the label's samples: green on the diagonal, red beside it. In a pipe there are
the counts alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture_cli.answers.scores import PhaseScore
from capture_cli.views.terminal.tables import new_table, number, table_of
from capture_cli.views.terminal.text import plain, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MAX_CLASSES = 20
"""Classes up to which the matrix is shown."""
_LABEL_CELLS = 16
_CELLS = (4, 10)
"""Width of a column, at least and at most."""
_DARK, _RIGHT, _WRONG = (28, 28, 28), (0, 110, 60), (190, 40, 40)


def matrix_parts(phase: PhaseScore, *, width: int | None) -> list[RenderableType]:
    """The confusion matrix, labels down and predictions across; nothing if it would not fit or nothing is wrong."""
    names = [one.name for one in phase.classes]
    if not phase.matrix or len(names) > MAX_CLASSES or phase.correct == phase.n:
        return []
    cells = _CELLS[1] if width is None else (width - _LABEL_CELLS - 2) // len(names) - 2
    if cells < _CELLS[0]:
        return []
    cells = min(cells, _CELLS[1])
    table = new_table(("label \\ pred", "fold"), *((shorten(name, cells), "#") for name in names))
    for row, (name, counts) in enumerate(zip(names, phase.matrix, strict=True)):
        total = sum(counts)
        shaded = (_cell(count, count / total if total else 0, row == column) for column, count in enumerate(counts))
        table.add_row(plain(shorten(name, _LABEL_CELLS)), *shaded)
    return [table]


def _cell(count: int, share: float, is_right: bool) -> Text:
    if not count:
        return plain("." if not is_right else "0", "dim")
    shade = tuple(
        round(dark + (full - dark) * share**0.5) for dark, full in zip(_DARK, _RIGHT if is_right else _WRONG, strict=True)
    )
    return plain(f"{count:,}", f"white on rgb({shade[0]},{shade[1]},{shade[2]})")


def calibration_parts(phase: PhaseScore) -> list[RenderableType]:
    """The calibration error, and how often predictions of each probability are correct."""
    found = phase.calibration
    if found is None:
        return []
    title = f"calibration: {found.error} (those with samples are below)"
    means = f"mean p(pred) {found.confidence:.3f}, accuracy {found.accuracy:.3f}"
    rows = (
        (
            f"{one.low:.3f} to {one.high:.3f}",
            *(f"{one.n:,}", number(one.confidence), number(one.accuracy), f"{one.accuracy - one.confidence:+.3f}"),
        )
        for one in found.bins
    )
    heads = [("p(pred)", ""), ("n", "#"), ("mean", "#"), ("correct", "#"), ("gap", "#")]
    return [plain(f"{title}, {means}"), table_of(heads, rows)]
