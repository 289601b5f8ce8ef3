"""One phase looked at closely, for people: classes or outputs, confused pairs, the worst samples; and the visits of one sample.

    show(score_parts(phase, what="samples", limit=20, pictures=[None, ...], notes=["..."]))
    show([visits_table(history.visits)])

On a terminal the worst samples have pictures, and of the numbers of a visit there are as many as fit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.answers.phase import PhaseScore
from capture_cli.answers.visits import AnyVisit, NumbersVisit, TokenVisit
from capture_cli.views.terminal.epochs import number
from capture_cli.views.terminal.tables import new_table, stdout_console
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import RenderableType
    from rich.table import Table

    Picture = npt.NDArray[np.uint8] | None
    """uint8 [C, H, W]."""

_ROOMY = 72
"""Cells from which on all numbers of a visit are shown."""
_CARD = 18
"""Cells of a picture with what is written below it."""
_MAX_VALUES = 6
"""Of a sample's targets and outputs, so many are shown."""


def score_parts(
    phase: PhaseScore, *, what: str, limit: int, pictures: Sequence[Picture] = (), notes: Sequence[str] = ()
) -> list[RenderableType]:
    """What there is to show of a phase; at most `limit` classes or outputs, the worst of more. `what` says what is captured."""
    parts: list[RenderableType] = [plain(_title(phase, what), "bold")]
    if phase.classes:
        parts += [plain(""), *_classes(phase, limit)]
    if phase.confusions:
        parts += [plain(""), *_confusions(phase)]
    if phase.outputs:
        parts += [plain(""), *_outputs(phase, limit)]
    if phase.worst:
        parts += [plain(""), *_worst(phase, pictures, notes)]
    return parts


def visits_table(visits: Sequence[AnyVisit]) -> Table:
    """One row a visit, in the order given."""
    places = ["epoch", "batch", "step"] + (["position"] if visits and isinstance(visits[0], TokenVisit) else [])
    answers = _answers(visits)
    rows = new_table(("phase", ""), *((name, "#") for name in places), *answers, ("", ""))
    for one in visits:
        rows.add_row(
            plain(one.phase),
            *(str(getattr(one, name)) for name in places),
            *(_cell(one, name) for name, _ in answers),
            "wrong" if one.correct is False else "",
        )
    return rows


def _title(phase: PhaseScore, what: str) -> str:
    name = f"{phase.phase}, epoch {phase.epoch}{'' if phase.complete else ' (under way)'}"
    missed = f"; {phase.not_captured:,} more were not captured" if phase.not_captured else ""
    if phase.correct is None:
        return f"{name}: {phase.n:,} captured {what}, loss {_number(phase.loss)}{missed}"
    return f"{name}: {phase.correct:,} of {phase.n:,} captured {what} right ({phase.correct / phase.n:.1%}){missed}"


def _classes(phase: PhaseScore, limit: int) -> list[RenderableType]:
    shown = [one for one in phase.classes if one.n]
    if len(shown) > limit:
        shown = sorted(shown, key=lambda one: one.correct / one.n)[:limit]
    table = new_table(("class", "fold"), ("n", "#"), ("wrong", "#"), ("accuracy", "#"), ("loss", "#"))
    for one in shown:
        table.add_row(
            plain(one.name), f"{one.n:,}", f"{one.n - one.correct:,}", f"{one.correct / one.n:.3f}", _number(one.loss)
        )
    if len(shown) == len(phase.classes):
        return [table]
    least = "least accurate " if len(shown) == limit else ""
    note = f"{len(shown):,} {least}of {len(phase.classes):,} classes, those without a sample left out; --json has all"
    return [table, plain(note, "dim")]


def _confusions(phase: PhaseScore) -> list[RenderableType]:
    table = new_table(("label", "fold"), ("taken for", "fold"), ("times", "#"), ("of the label", "#"))
    for one in phase.confusions:
        table.add_row(plain(one.label), plain(one.pred), f"{one.count:,}", f"{one.share:.1%}")
    left_out = phase.confusions_left_out
    return [table, plain(f"and {left_out:,} more pairs", "dim")] if left_out else [table]


def _outputs(phase: PhaseScore, limit: int) -> list[RenderableType]:
    """Of a multi-label task who is on the right side, else how far off; the worst `limit` of more outputs."""
    sides = phase.outputs[0].accuracy is not None
    names = ("target", "accuracy", "precision", "recall") if sides else ("target", "output", "error", "rms_error")
    shown = list(phase.outputs)
    if len(shown) > limit:
        shown.sort(key=lambda one: (one.accuracy or 0) if sides else -(one.error or 0))
        shown = shown[:limit]
    heads = {"target": "have it" if sides else "mean target", "output": "mean output", "rms_error": "rms error"}
    table = new_table(("output", "fold"), *((heads.get(name, name), "#") for name in names))
    for one in shown:
        table.add_row(plain(one.name), *(_number(getattr(one, name)) for name in names))
    if len(shown) == len(phase.outputs):
        return [table]
    return [table, plain(f"the worst {len(shown):,} of {len(phase.outputs):,} outputs; --json has all", "dim")]


def _answers(visits: Sequence[AnyVisit]) -> list[tuple[str, str]]:
    """The columns that tell what was answered, as many as there is room for, and how each is set."""
    roomy = stdout_console().width >= _ROOMY
    if visits and isinstance(visits[0], NumbersVisit):
        return [("loss", "#"), ("targets", "fold"), ("outputs", "fold")]
    return [*((name, "#") for name in (_HEADS if roomy else ("p(label)", "loss"))), ("pred", "fold")]


_HEADS = {"p(label)": "p_label", "p(pred)": "p_pred", "margin": "margin", "loss": "loss_nats"}
"""Heading and field of the numbers of a visit."""


def _cell(one: AnyVisit, head: str) -> Any:
    name = head if isinstance(one, NumbersVisit) else _HEADS.get(head, head)
    value = getattr(one, name)
    if isinstance(value, tuple):
        more = ", ..." if len(value) > _MAX_VALUES else ""
        return plain(", ".join(map(_number, value[:_MAX_VALUES])) + more)
    return plain(value) if isinstance(value, str) else _number(value)


def _worst(phase: PhaseScore, pictures: Sequence[Picture], notes: Sequence[str]) -> list[RenderableType]:
    """The samples with the highest losses: pictures on a terminal, then a table."""
    visits = [one.visit for one in phase.worst]
    position = [("position", "#")] if isinstance(visits[0], TokenVisit) else []
    answers = [head for head in _answers(visits) if head[0] != "pred"]
    labels = [] if isinstance(visits[0], NumbersVisit) else [("label", ""), ("pred", "")]
    table = new_table(("", "#"), ("highest loss", "fold"), *position, *labels, *answers)
    for place, one in enumerate(visits, 1):
        places = [str(one.position)] if isinstance(one, TokenVisit) else []
        table.add_row(f"{place}", plain(one.file), *places, *(_cell(one, name) for name, _ in [*labels, *answers]))
    parts: list[RenderableType] = []
    if sys.stdout.isatty():
        parts += _gallery(phase, pictures)
        parts += [plain(note, "dim") for note in notes]
    return [*parts, table]


def _gallery(phase: PhaseScore, pictures: Sequence[Picture]) -> list[RenderableType]:
    from capture_cli.views.terminal.pictures import Card, Gallery, Thumbnail, fitting
    from capture_cli.views.terminal.text import shorten

    cards = []
    for place, (worst, picture) in enumerate(zip(phase.worst, pictures, strict=False), 1):
        one = worst.visit
        if picture is not None and not isinstance(one, NumbersVisit):
            texts = (f"{place} {one.label}", f"said {one.pred}")
            cards.append(Card(Thumbnail(picture, columns=_CARD, rows=8), [plain(shorten(text, _CARD)) for text in texts]))
    console = stdout_console()
    row = max(1, fitting(console.width, _CARD))
    lines: list[RenderableType] = []
    for start in range(0, len(cards), row):
        lines += [Gallery(cards[start : start + row], card_width=_CARD), ""]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
