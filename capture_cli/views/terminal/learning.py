"""`capture inspect --dynamics` for people: how each class was learned, and the samples that stand out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture_cli.answers.learning import DynamicsSummary, PhaseLearning, SampleLearning
from capture_cli.views.terminal.tables import FittedTable, number_or_dash, show, table_of
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType


def show_learning(learning: DynamicsSummary, *, command: str, limit: int = 20, width: int | None = None) -> None:
    """Print the dynamics of every phase on stdout; `command` lists them sample by sample."""
    parts: list[RenderableType] = []
    for phase in learning.phases:
        parts += _phase(phase, limit)
    show([*parts, plain("next:", "bold"), command], width=width)


def _phase(phase: PhaseLearning, limit: int) -> list[RenderableType]:
    visits = "1 epoch" if phase.epochs == 1 else f"{phase.epochs:,} epochs"
    parts: list[RenderableType] = [plain(f"{phase.phase}: {phase.n:,} samples, {visits}", "bold"), ""]
    heads = [("class", "name"), *((name, "#") for name in ("n", "margin", "p(label)", "variability", "correct"))]
    rows = (
        (
            *(one.label, f"{one.n:,}", number_or_dash(one.aum), number_or_dash(one.confidence)),
            *(number_or_dash(one.variability), number_or_dash(one.correctness), f"{one.forgetting:.2f}"),
            *(f"{one.never:,}", "-" if one.learned is None else f"{one.learned}"),
        )
        for one in phase.classes[:limit]
    )
    heads += [("forgotten", "#"), ("never right", "#"), ("half learned by", "#")]
    parts += [table_of(heads, rows, more=len(phase.classes) - limit, noun="classes"), ""]
    kinds = (("lowest mean margin", phase.hardest), ("forgotten most", phase.forgotten), ("ambiguous", phase.ambiguous))
    for title, samples in kinds:
        parts += [_samples(title, samples), ""] if samples else []
    return parts


def _samples(title: str, samples: Sequence[SampleLearning]) -> FittedTable:
    heads = [(title, "name"), ("label", "name"), ("margin", "#"), ("p(label)", "#"), ("variability", "#"), ("correct", "#")]
    rows = (
        (
            *(one.file, one.label, number_or_dash(one.aum), number_or_dash(one.confidence)),
            *(number_or_dash(one.variability), number_or_dash(one.correctness), f"{one.forgetting}"),
            "never" if one.learned is None else f"epoch {one.learned}",
        )
        for one in samples
    )
    return table_of([*heads, ("forgotten", "#"), ("learned", "")], rows)
