"""Losses of two runs without predicted classes for people: their means, IoU by class, samples whose loss changed most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture_cli.answers.losses import LossChanges
from capture_cli.views.terminal.tables import number_or_dash, table_of
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType


def loss_parts(changes: LossChanges, limit: int) -> list[RenderableType]:
    """The section on losses; at most `limit` classes, those whose IoU changed most."""
    same = changes.epoch_a == changes.epoch_b
    epochs = f"epoch {changes.epoch_a}" if same else f"epoch {changes.epoch_a} in A, {changes.epoch_b} in B"
    only = "".join(f", {n:,} only in {run}" for run, n in (("A", changes.only_a), ("B", changes.only_b)) if n)
    parts: list[RenderableType] = [plain(f"{changes.phase}, {epochs}: {changes.both:,} samples in both{only}", "bold")]
    if not changes.both:
        return parts
    rise = f"higher in B {changes.risen.count:,}, lower in B {changes.fallen.count:,}"
    parts.append(plain(f"loss {number_or_dash(changes.loss_a)} in A, {number_or_dash(changes.loss_b)} in B; {rise}"))
    if changes.mean_iou_a is not None or changes.mean_iou_b is not None:
        ious = f"mean IoU {number_or_dash(changes.mean_iou_a)} in A, {number_or_dash(changes.mean_iou_b)} in B"
        accuracy = f"pixel accuracy {number_or_dash(changes.accuracy_a)} in A, {number_or_dash(changes.accuracy_b)} in B"
        parts.append(plain(f"{ious}; {accuracy}"))
    for title, found in (("higher loss", changes.risen), ("lower loss", changes.fallen)):
        if found.first:
            rows = ((one.file, number_or_dash(one.loss_a), number_or_dash(one.loss_b)) for one in found.first)
            heads = [(title, "name"), ("loss A", "#"), ("B", "#")]
            parts += ["", table_of(heads, rows, more=found.more, noun="samples")]
    changed = sorted((one for one in changes.classes if one.change), key=lambda one: -abs(one.change or 0.0))
    if changed and limit:
        cells = (
            (one.name, *map(number_or_dash, (one.iou_a, one.iou_b)), f"{one.change or 0.0:+.3f}") for one in changed[:limit]
        )
        heads = [("class", "name"), ("IoU A", "#"), ("B", "#"), ("change", "#")]
        parts += ["", table_of(heads, cells, more=len(changed) - limit, noun="classes")]
    return parts
