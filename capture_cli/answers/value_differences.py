"""Values of two records that should be the same, sample by sample.

mine, others = map(values_by_sample, bodies)
first_difference(file, mine[file], others[file])        # the first column in which a sample differs
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

_SAMPLE_COLUMNS = ("digests", "sizes", "labels", "splits")
_COLUMNS = (
    *("inputs", *_SAMPLE_COLUMNS, "targets", "losses", "preds", "outputs", "p_labels", "topk", "probs"),
    *("counted", "correct", "present", "labelled", "intersections", "unions"),
)
"""Columns of samples and batches, causes before their effects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDifference:
    """The first value of one image in which two records differ."""

    file: str
    field: str
    """A column, with the index if there are several values an image: `losses`, `inputs.digests`, `probs[3]`."""
    a: Any
    b: Any


def values_by_sample(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of each image or position in a samples or batch record, by name and column."""
    names = body.get("files") or body.get("ids")
    if not isinstance(names, list):
        return {}
    columns: dict[str, Any] = {name: body[name] for name in _COLUMNS if name in body}
    if "inputs" in columns:
        columns = {"inputs.digests": columns.pop("inputs")["digests"], **columns}
    if "positions" in body:  # inputs are those of whole sequences
        columns.pop("inputs.digests", None)
        names = [f"{name}:{position}" for name, position in zip(names, body["positions"], strict=True)]
    return {
        str(name): {field: column[i] if i < len(column) else None for field, column in columns.items()}
        for i, name in enumerate(names)
    }


def first_difference(file: str, mine: dict[str, Any], others: dict[str, Any]) -> ValueDifference | None:
    """The first column in which the values of a sample differ; None if none does."""
    for name in dict.fromkeys([*mine, *others]):
        a, b = mine.get(name), others.get(name)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            index = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            name = f"{name}[{index}]"
            a, b = (values[index] if index < len(values) else None for values in (a, b))
        return ValueDifference(file=file, field=name, a=_finite(a), b=_finite(b))
    return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
