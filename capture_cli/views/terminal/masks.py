"""Masks and named numbers of a phase for people: IoU by class, confused pixels, means.

show(mask_parts(phase, 20))
show(number_parts(phase))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture_cli.answers.scores import PhaseScore
from capture_cli.answers.shares import percent
from capture_cli.views.terminal.tables import number_or_dash, table_of
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType


def mask_parts(phase: PhaseScore, limit: int) -> list[RenderableType]:
    """IoU of at most `limit` classes, those with the lowest, and the pixels that were taken for others; empty without masks."""
    masks = phase.masks
    if masks is None or not masks.pixels:
        return []
    shown = [one for one in masks.classes if one.images]
    if len(shown) > limit:
        shown = sorted(shown, key=lambda one: one.iou or 0.0)[:limit]
    heads = [("class", "name"), ("images", "#"), ("pixels", "#"), ("IoU", "#"), ("accuracy", "#")]
    rows = (
        (one.name, f"{one.images:,}", f"{one.labelled:,}", number_or_dash(one.iou), number_or_dash(one.accuracy))
        for one in shown
    )
    parts: list[RenderableType] = [table_of(heads, rows)]
    if len(shown) < len(masks.classes):
        lowest = f"those with the lowest IoU; --limit {len(masks.classes)} shows more"
        which = lowest if len(shown) == limit else "those that occur"
        parts.append(plain(f"{len(shown):,} of {len(masks.classes):,} classes, {which}", "dim"))
    if masks.ignored:
        parts.append(plain(f"ignored: {masks.ignored:,} of {masks.ignored + masks.pixels:,} pixels", "dim"))
    if masks.confusions:
        heads = [("label", "name"), ("predicted as", "name"), ("pixels", "#"), ("of label", "#")]
        pairs = ((one.label, one.pred, f"{one.pixels:,}", percent(one.rate)) for one in masks.confusions)
        parts += ["", table_of(heads, pairs)]
    return parts


def number_parts(phase: PhaseScore) -> list[RenderableType]:
    """The means of the named numbers; empty without any."""
    if not phase.numbers:
        return []
    rows = ((one.name, number_or_dash(one.mean), f"{one.n:,}") for one in phase.numbers)
    return [table_of([("number", ""), ("mean", "#"), ("samples", "#")], rows)]
