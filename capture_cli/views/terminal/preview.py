"""The preview of a captured batch: some of its images with label, prediction, p(label) and loss.

body = preview(batch, inputs, classes=classes, samples=4, columns=79, rows=16)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.text import Text

from capture_cli.records import Batch, sample_names
from capture_cli.views.terminal.pictures import Card, Gallery, Thumbnail, fitting
from capture_cli.views.terminal.tables import number
from capture_cli.views.terminal.text import safe, shorten

NARROWEST, WIDEST = 18, 26
"""Width of a card in cells: room for `p 0.031 loss 3.474`."""
GAP = 2
CAPTION_ROWS = 4
MOST_PICTURE_ROWS, LEAST_PICTURE_ROWS = 8, 3
RIGHT, WRONG = "✓", "✗"


def preview(
    batch: Batch, inputs: npt.NDArray[Any], *, classes: Sequence[str], samples: int, columns: int, rows: int
) -> RenderableType | None:
    """Render the first `samples` of a batch, as many as fit into `columns` by `rows` cells; None if not one fits.

    `inputs` [B, C, H, W] are the tensors that went into the model: float32 in [-1, 1].
    """
    picture_rows = min(MOST_PICTURE_ROWS, rows - 1 - CAPTION_ROWS)
    count = min(samples, len(batch.ids), fitting(columns, NARROWEST, GAP))
    if count < 1 or picture_rows < LEAST_PICTURE_ROWS:
        return None
    width = min(WIDEST, (columns + GAP) // count - GAP)
    cards = [
        Card(
            Thumbnail(inputs[i], columns=min(width, 2 * picture_rows), rows=picture_rows),
            _caption(batch, i, classes, width),
        )
        for i in range(count)
    ]
    return Group(Text(_title(batch.phase, columns), "dim"), Gallery(cards, card_width=width, gap=GAP))


def _title(phase: str, columns: int) -> str:
    long, short = (
        f"last captured batch ({safe(phase)}), as the network saw it; p is the probability of the label",
        f"last {safe(phase)} batch",
    )
    return long if len(long) <= columns else shorten(short, columns)


def _caption(batch: Batch, i: int, classes: Sequence[str], width: int) -> list[Text]:
    """Render file, label, prediction, p(label) and loss in CAPTION_ROWS lines of `width` cells."""
    label, pred = int(batch.labels[i]), int(batch.preds[i])
    p_label = batch.p_labels[i] if batch.p_labels is not None else batch.probs[i, label]
    right = label == pred and bool(np.isfinite(batch.losses[i]))
    return [
        Text(shorten(sample_names(batch)[i], width)),
        Text.assemble(("label ", "dim"), shorten(classes[label], width - 6)),
        Text.assemble(
            ("pred  ", "dim"),
            (shorten(classes[pred], width - 8), "" if right else "bold"),
            (f" {RIGHT}", "green") if right else (f" {WRONG}", "bold red"),
        ),
        Text(f"p {number(p_label)} loss {number(batch.losses[i])}", "dim" if right else ""),
    ]
