"""The scores of one phase for people: classes or outputs, confusions, the worst samples; and the visits of one sample.

    show(score_parts(phase, noun="samples", limit=20, width=80, pictures=[None, ...], notes=["..."]), width=80)
    show([visits_table(history.visits, width=80)], width=80)

`width` is that of the terminal in cells, None for a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from capture_cli.answers.scores import PhaseScore
from capture_cli.answers.visits import AnyVisit, NumbersVisit, TokenVisit
from capture_cli.views.terminal.tables import new_table, note_more, number_or_dash
from capture_cli.views.terminal.text import plain, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from capture_cli.views.pictures import Picture

_ROOMY = 72
"""Cells from which on all numbers of a visit are shown."""
_CARD = 18
"""Cells of a picture with its caption."""
_MAX_VALUES = 6
"""Targets and outputs of a sample that are shown."""
_NUMBERS = {"p(label)": "p_label", "p(pred)": "p_pred", "margin": "margin", "loss": "loss_nats"}
"""Heading and field of the numbers of a visit."""


def score_parts(
    phase: PhaseScore,
    *,
    noun: str,
    limit: int,
    width: int | None = None,
    pictures: Sequence[Picture | None] = (),
    notes: Sequence[str] = (),
) -> list[RenderableType]:
    """The sections on a phase. `noun` names what is captured; at most `limit` classes or outputs, the worst ones."""
    parts: list[RenderableType] = [plain(_title(phase, noun), "bold")]
    if phase.classes:
        parts += ["", *_classes(phase, limit)]
    if phase.confusions:
        parts += ["", _confusions(phase)]
    if phase.outputs:
        parts += ["", *_outputs(phase, limit)]
    if phase.worst:
        parts += [
            "",
            *gallery(_worst_pictures(phase, pictures), width),
            *(plain(note, "dim") for note in notes),
            _worst(phase, width),
        ]
    return parts


def visits_table(visits: Sequence[AnyVisit], *, width: int | None = None) -> Table:
    """One row a visit, in the order given."""
    places = ["epoch", "batch", "step"] + (["position"] if visits and isinstance(visits[0], TokenVisit) else [])
    values = _value_columns(visits, width)
    rows = new_table(("phase", ""), *((name, "#") for name in places), *values, ("", ""))
    for one in visits:
        rows.add_row(
            plain(one.phase),
            *(str(getattr(one, name)) for name in places),
            *(_cell(one, name) for name, _ in values),
            "wrong" if one.correct is False else "",
        )
    return rows


def _title(phase: PhaseScore, noun: str) -> str:
    name = f"{phase.phase}, epoch {phase.epoch}{'' if phase.complete else ' (under way)'}"
    missed = f"; {phase.not_captured:,} more were not captured" if phase.not_captured else ""
    if phase.correct is None:
        return f"{name}: {phase.n:,} captured {noun}, loss {number_or_dash(phase.loss)}{missed}"
    return f"{name}: {phase.correct:,} of {phase.n:,} captured {noun} correct ({phase.correct / phase.n:.1%}){missed}"


def _classes(phase: PhaseScore, limit: int) -> list[RenderableType]:
    shown = [one for one in phase.classes if one.n]
    if len(shown) > limit:
        shown = sorted(shown, key=lambda one: one.correct / one.n)[:limit]
    table = new_table(("class", "fold"), ("n", "#"), ("wrong", "#"), ("accuracy", "#"), ("loss", "#"))
    for one in shown:
        numbers = f"{one.n:,}", f"{one.n - one.correct:,}", f"{one.correct / one.n:.3f}", number_or_dash(one.loss)
        table.add_row(plain(one.name), *numbers)
    if len(shown) == len(phase.classes):
        return [table]
    which = "the least accurate" if len(shown) == limit else "those with samples"
    return [table, plain(f"{len(shown):,} of {len(phase.classes):,} classes, {which}; --json has all", "dim")]


def _confusions(phase: PhaseScore) -> Table:
    table = new_table(("label", "fold"), ("predicted as", "fold"), ("times", "#"), ("of label", "#"))
    for one in phase.confusions:
        table.add_row(plain(one.label), plain(one.pred), f"{one.count:,}", f"{one.rate:.1%}")
    note_more(table, phase.confusions_omitted, "pairs")
    return table


def _outputs(phase: PhaseScore, limit: int) -> list[RenderableType]:
    """Decisions of a multi-label task, errors of a regression; at most `limit` outputs, the worst ones."""
    decides = phase.outputs[0].accuracy is not None
    heads = (
        {"positive": "target", "accuracy": "accuracy", "precision": "precision", "recall": "recall"}
        if decides
        else {"mean target": "target", "mean output": "output", "mean error": "error", "rms error": "rms_error"}
    )
    shown = list(phase.outputs)
    if len(shown) > limit:
        shown.sort(key=lambda one: (one.accuracy or 0) if decides else -(one.error or 0))
        shown = shown[:limit]
    table = new_table(("output", "fold"), *((head, "#") for head in heads))
    for one in shown:
        table.add_row(plain(one.name), *(number_or_dash(getattr(one, field)) for field in heads.values()))
    if len(shown) == len(phase.outputs):
        return [table]
    return [table, plain(f"the worst {len(shown):,} of {len(phase.outputs):,} outputs; --json has all", "dim")]


def _worst(phase: PhaseScore, width: int | None) -> Table:
    """The samples with the highest losses."""
    visits = [one.visit for one in phase.worst]
    positions = [("position", "#")] if isinstance(visits[0], TokenVisit) else []
    labels = [] if isinstance(visits[0], NumbersVisit) else [("label", ""), ("pred", "")]
    values = [head for head in _value_columns(visits, width) if head[0] != "pred"]
    table = new_table(("", "#"), ("highest loss", "fold"), *positions, *labels, *values)
    for rank, one in enumerate(visits, 1):
        position = [str(one.position)] if isinstance(one, TokenVisit) else []
        table.add_row(f"{rank}", plain(one.file), *position, *(_cell(one, head) for head, _ in [*labels, *values]))
    return table


def _value_columns(visits: Sequence[AnyVisit], width: int | None) -> list[tuple[str, str]]:
    """Heading and kind of the columns for predictions and losses, as many as there is room for."""
    if visits and isinstance(visits[0], NumbersVisit):
        return [("loss", "#"), ("targets", "fold"), ("outputs", "fold")]
    heads = _NUMBERS if width is None or width >= _ROOMY else ("p(label)", "loss")
    return [*((head, "#") for head in heads), ("pred", "fold")]


def _cell(one: AnyVisit, head: str) -> RenderableType:
    value = getattr(one, head if isinstance(one, NumbersVisit) else _NUMBERS.get(head, head))
    if isinstance(value, tuple):
        more = ", ..." if len(value) > _MAX_VALUES else ""
        return plain(", ".join(map(number_or_dash, value[:_MAX_VALUES])) + more)
    return plain(value) if isinstance(value, str) else number_or_dash(value)


def _worst_pictures(phase: PhaseScore, pictures: Sequence[Picture | None]) -> Iterator[tuple[Picture | None, tuple[str, str]]]:
    for rank, (worst, picture) in enumerate(zip(phase.worst, pictures, strict=False), 1):
        if not isinstance(worst.visit, NumbersVisit):
            yield picture, (f"{rank} {worst.visit.label}", f"pred {worst.visit.pred}")


def gallery(pictures: Iterable[tuple[Picture | None, tuple[str, str]]], width: int | None) -> list[RenderableType]:
    """Pictures with two lines of caption each, side by side; those that are None are left out."""
    from capture_cli.views.terminal.pictures import Card, Gallery, Thumbnail, fitting

    cards = [
        Card(Thumbnail(picture, columns=_CARD, rows=8), [plain(shorten(text, _CARD)) for text in caption])
        for picture, caption in pictures
        if picture is not None
    ]
    columns = max(1, fitting(width or _ROOMY, _CARD))
    rows = (cards[start : start + columns] for start in range(0, len(cards), columns))
    return [part for row in rows for part in (Gallery(row, card_width=_CARD), "")]
