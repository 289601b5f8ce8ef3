"""Predictions as text: JSON Lines, CSV, or pictures with captions on a terminal.

    lines = jsonl(one, top=3)
    show_chunk(pixels, ones, width=80)

Any file name: in JSON `\\udcXX` stands for a byte that is not UTF-8, in CSV it is that byte.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from capture_cli.views.csv_lines import CsvLines
from capture_cli.views.terminal.tables import number
from capture_cli.views.terminal.text import safe

if TYPE_CHECKING:
    import numpy.typing as npt


class Predicted(Protocol):
    """The prediction for one image, as capture_cli.training.prediction makes it."""

    @property
    def file(self) -> str | None: ...
    @property
    def pred(self) -> str: ...
    @property
    def p_pred(self) -> float: ...
    @property
    def entropy(self) -> float: ...
    def topk(self, k: int) -> list[tuple[str, float]]:
        """The most probable classes."""


def jsonl(predictions: Sequence[Predicted], top: int) -> bytes:
    """One line each; probabilities have the digits of float32."""
    lines = []
    for one in predictions:
        top_k = [[name, _shortest(p)] for name, p in one.topk(top)]
        body = {"file": one.file, "pred": one.pred, "p_pred": _shortest(one.p_pred), "entropy": _entropy(one), "topk": top_k}
        lines.append(json.dumps(body, ensure_ascii=not _is_utf8(one.file)).encode() + b"\n")
    return b"".join(lines)


def csv_heading(top: int) -> bytes:
    """The column names: the second most probable class and its probability are `pred_2` and `p_2`."""
    more = [name for place in range(2, top + 1) for name in (f"pred_{place}", f"p_{place}")]
    return ",".join(["file", "pred", "p_pred", "entropy", *more]).encode() + b"\n"


def csv_rows(predictions: Sequence[Predicted], top: int) -> bytes:
    """One line each, as RFC 4180 without the CR."""
    text = io.StringIO()
    writer = csv.writer(CsvLines(text))
    for one in predictions:
        more = [value for name, p in one.topk(top)[1:] for value in (name, _shortest(p))]
        writer.writerow([one.file, one.pred, _shortest(one.p_pred), _entropy(one), *more])
    return text.getvalue().encode("utf-8", "surrogateescape")


def show_pictures(predictions: Sequence[Predicted], pixels: npt.NDArray[np.uint8], *, width: int) -> None:
    """Print pictures [N, C, H, W] side by side, with file, prediction and probability below each."""
    from capture_cli.views.terminal.scores import gallery
    from capture_cli.views.terminal.tables import show

    captions = [(_name(one), f"{one.pred} {number(one.p_pred)}") for one in predictions]
    show(gallery(zip(pixels, captions, strict=True), width), width=width)


def lines(predictions: Sequence[Predicted]) -> str:
    """One line of plain text each, for people."""
    return "".join(safe(f"{one.file}  {one.pred} {number(one.p_pred)}") + "\n" for one in predictions)


def _name(one: Predicted) -> str:
    return (one.file or "").rsplit("/", 1)[-1]


def _shortest(value: float) -> Any:
    """The shortest decimal that reads back as the same float32; None if it is not finite."""
    return float(str(np.float32(value))) if np.isfinite(value) else None


def _entropy(one: Predicted) -> float | None:
    return round(one.entropy, 6) if np.isfinite(one.entropy) else None


def _is_utf8(text: str | None) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text or "")
