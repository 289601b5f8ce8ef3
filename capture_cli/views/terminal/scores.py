"""The scores of one phase for people: classes or outputs, confusions, the worst samples; and the visits of one sample.

    show(score_parts(phase, noun="samples", limit=20, width=80, pictures=[None, ...], notes=["..."]), width=80)
    show([visits_table(history.visits, width=80)], width=80)

`width` is that of the terminal in cells, None for a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from capture_cli.answers.scores import PhaseScore
from capture_cli.answers.shares import percent
from capture_cli.answers.visits import AnyVisit, MeasuredVisit, NumbersVisit, TokenVisit, Visit
from capture_cli.views.terminal.masks import mask_parts, number_parts
from capture_cli.views.terminal.matrix import calibration_parts, matrix_parts
from capture_cli.views.terminal.tables import FittedTable, number_or_dash, table_of
from capture_cli.views.terminal.text import plain, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType

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
    if phase.predicted:
        parts += ["", _predicted(phase, limit)]
    for section in (matrix_parts(phase, width=width), calibration_parts(phase)):
        parts += ["", *section] if section else []
    if phase.outputs:
        parts += ["", *_outputs(phase, limit)]
    for section in (mask_parts(phase, limit), number_parts(phase)):
        parts += ["", *section] if section else []
    if phase.worst:
        shown = gallery(_worst_pictures(phase, pictures), width)
        parts += ["", *shown, *(plain(note, "dim") for note in notes), _worst(phase, width)]
    return parts


def visits_table(
    visits: Sequence[AnyVisit], *, labels: bool = False, folds: Sequence[int] | None = None, width: int | None = None
) -> FittedTable:
    """One row a visit, in the order given, with its label if `labels`; `folds` are the trainings of a run with folds."""
    is_sequence, has_classes = isinstance(visits[0], TokenVisit), isinstance(visits[0], Visit)
    heads = ["phase", "epoch", "batch", "step", *["position"] * is_sequence, *_values(visits, width)]
    heads += [*["label"] * labels, *["pred"] * has_classes]
    rows = [[*(_cell(one, head) for head in heads), "wrong" if one.correct is False else ""] for one in visits]
    columns = [*((head, _kind(head)) for head in heads), ("", "")]
    if folds is not None:
        columns, rows = [("fold", "#"), *columns], [[f"{fold}", *row] for fold, row in zip(folds, rows, strict=True)]
    return table_of(columns, rows)


def _title(phase: PhaseScore, noun: str) -> str:
    name = f"{phase.phase}, epoch {phase.epoch}{'' if phase.complete else ' (under way)'}"
    missed = f"; {phase.not_captured:,} more were not captured" if phase.not_captured else ""
    if phase.predicted:
        return f"{name}: {phase.n:,} {noun} without labels"
    if phase.masks and phase.masks.accuracy is not None:
        right = f"pixel accuracy {percent(phase.masks.accuracy)}, mean IoU {number_or_dash(phase.masks.mean_iou)}"
        return f"{name}: {phase.n:,} captured images, loss {number_or_dash(phase.loss)}, {right}{missed}"
    if phase.correct is None:
        return f"{name}: {phase.n:,} captured {noun}, loss {number_or_dash(phase.loss)}{missed}"
    by_class = ""
    if phase.balanced_accuracy is not None and phase.macro_f1 is not None:
        by_class = f"balanced accuracy {percent(phase.balanced_accuracy)}, macro F1 {phase.macro_f1:.3f}"
    if not phase.not_captured or phase.accuracy is None:
        title = f"{name}: {phase.correct:,} of {phase.n:,} captured {noun} correct ({percent(phase.correct / phase.n)}){missed}"
        return f"{title}; {by_class}" if by_class else title
    title = f"{name}: accuracy {percent(phase.accuracy)} over {phase.n + phase.not_captured:,} {noun}"
    if phase.counts_all:
        return f"{title}; {by_class}. Losses, confusions and what follows are of the {phase.n:,} that were captured"
    return f"{title}. What follows is of the {phase.n:,} that were captured: {by_class}"


def _classes(phase: PhaseScore, limit: int) -> list[RenderableType]:
    shown = [one for one in phase.classes if one.n]
    if len(shown) > limit:
        shown = sorted(shown, key=lambda one: one.recall or 0.0)[:limit]
    heads = ("n", "wrong", "recall", "precision", "F1", "loss")
    table = table_of(
        [("class", "name"), *((head, "#") for head in heads)],
        (
            (
                *(one.name, f"{one.n:,}", f"{one.n - one.correct:,}"),
                *map(number_or_dash, (one.recall, one.precision, one.f1, one.loss)),
            )
            for one in shown
        ),
    )
    if len(shown) == len(phase.classes):
        return [table]
    which = (
        f"those of the lowest recall; --limit {len(phase.classes)} shows all" if len(shown) == limit else "those with samples"
    )
    return [table, plain(f"{len(shown):,} of {len(phase.classes):,} classes, {which}", "dim")]


def _predicted(phase: PhaseScore, limit: int) -> FittedTable:
    """The predictions of samples without labels."""
    rows = ((one.name, f"{one.n:,}", percent(one.n / phase.n), number_or_dash(one.p_pred)) for one in phase.predicted[:limit])
    heads = [("predicted as", "name"), ("n", "#"), ("of all", "#"), ("mean p(pred)", "#")]
    return table_of(heads, rows, more=len(phase.predicted) - limit, noun="classes")


def _confusions(phase: PhaseScore) -> FittedTable:
    heads = [("label", "name"), ("predicted as", "name"), ("times", "#"), ("of label", "#")]
    rows = ((one.label, one.pred, f"{one.count:,}", percent(one.rate)) for one in phase.confusions)
    return table_of(heads, rows, more=phase.confusions_omitted, noun="pairs")


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
    rows = ([one.name, *(number_or_dash(getattr(one, field)) for field in heads.values())] for one in shown)
    table = table_of([("output", "name"), *((head, "#") for head in heads)], rows)
    if len(shown) == len(phase.outputs):
        return [table]
    return [
        table,
        plain(f"the worst {len(shown):,} of {len(phase.outputs):,} outputs; --limit {len(phase.outputs)} shows all", "dim"),
    ]


def _worst(phase: PhaseScore, width: int | None) -> FittedTable:
    """The samples with the highest losses."""
    visits = [one.visit for one in phase.worst]
    is_sequence, has_classes = isinstance(visits[0], TokenVisit), isinstance(visits[0], Visit)
    values = ("p(pred)",) if phase.predicted else _values(visits, width)
    names = ["label", "pred"][bool(phase.predicted) :] * has_classes
    heads = [*["position"] * is_sequence, *names, *values]
    rows = ([f"{rank}", one.file, *(_cell(one, head) for head in heads)] for rank, one in enumerate(visits, 1))
    title = "least certain" if phase.predicted else "highest loss"
    return table_of([("", "#"), (title, "name"), *((head, _kind(head)) for head in heads)], rows)


def _values(visits: Sequence[AnyVisit], width: int | None) -> Sequence[str]:
    """Headings of the probabilities and losses, as many as there is room for."""
    if isinstance(visits[0], NumbersVisit):
        return ("loss", "targets", "outputs")
    if isinstance(visits[0], MeasuredVisit):
        masks = visits[0].counted is not None
        return (*(("accuracy", "mean_iou") if masks else ()), "loss", *visits[0].numbers)
    return tuple(_NUMBERS) if width is None or width >= _ROOMY else ("p(label)", "loss")


def _kind(head: str) -> str:
    return "" if head == "phase" else "name" if head in ("label", "pred", "targets", "outputs") else "#"


def _cell(one: AnyVisit, head: str) -> str:
    if isinstance(one, MeasuredVisit) and head in one.numbers:
        return number_or_dash(one.numbers[head])
    value = getattr(one, _NUMBERS.get(head, head) if isinstance(one, Visit) else head)
    if isinstance(value, tuple):
        return ", ".join(map(number_or_dash, value[:_MAX_VALUES])) + (", ..." if len(value) > _MAX_VALUES else "")
    return str(value) if isinstance(value, str | int) else number_or_dash(value)


def _worst_pictures(phase: PhaseScore, pictures: Sequence[Picture | None]) -> Iterator[tuple[Picture | None, tuple[str, str]]]:
    for rank, (worst, picture) in enumerate(zip(phase.worst, pictures, strict=False), 1):
        if isinstance(worst.visit, Visit):
            yield picture, (f"{rank} {worst.visit.label or ''}", f"pred {worst.visit.pred}")


def gallery(pictures: Iterable[tuple[Picture | None, tuple[str, str]]], width: int | None) -> list[RenderableType]:
    """Pictures with two lines of caption each, side by side, without those that are None."""
    from capture_cli.views.terminal.pictures import Card, Gallery, Thumbnail, fitting

    cards = [
        Card(Thumbnail(picture, columns=_CARD, rows=8), [plain(shorten(text, _CARD)) for text in caption])
        for picture, caption in pictures
        if picture is not None
    ]
    columns = max(1, fitting(width or _ROOMY, _CARD))
    rows = (cards[start : start + columns] for start in range(0, len(cards), columns))
    return [part for row in rows for part in (Gallery(row, card_width=_CARD), "")]
