"""`capture labels --check` for a person and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.pixels.findings import Findings, Pair
from capture_cli.pixels.verdicts import Names
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

_EXAMPLES = 3
_PAIRS = {
    "leaks": "same image in two splits",
    "conflicts": "same image, different labels",
    "copies": "copies",
    "near_leaks": "near-duplicates in two splits",
    "near_conflicts": "near-duplicates, different labels",
    "near_copies": "near-duplicates",
}
"""Findings of pairs, the worst first, and their names for people."""


def show_check(found: Findings, names: Names, inputs: str, *, width: int | None = None) -> None:
    """Print what was found on stdout. `width` is that of the terminal in cells, None for a pipe."""
    table = new_table(("finding", "fold"), ("images", "#"), ("pairs", "#"), ("such as", "fold"))
    by_reason: dict[str, list[int]] = defaultdict(list)
    for i, unusable in sorted(found.skipped.items()):
        by_reason[unusable.reason].append(i)
    for reason, images in by_reason.items():
        table.add_row(plain(f"cannot be used: {reason}"), f"{len(images):,}", "", plain(_some(images, names)))
    if found.constant:
        table.add_row("of one colour", f"{len(found.constant):,}", "", plain(_some(found.constant, names)))
    for field, text in _PAIRS.items():
        pairs: Sequence[Pair] = getattr(found, field)
        if pairs:
            examples = ", ".join(_pair(pair, names, labels="labels" in text) for pair in pairs[:_EXAMPLES])
            count, more = len({i for pair in pairs for i in pair}), ", ..." * (len(pairs) > _EXAMPLES)
            table.add_row(text, f"{count:,}", f"{len(pairs):,}", plain(examples + more))
    parts: list[RenderableType] = ["", plain(f"inputs: {inputs}")]
    decoded = f"{found.usable:,} images decoded"
    parts += [f"{decoded}; found:", "", table] if table.row_count else [f"{decoded}; nothing wrong found"]
    show(parts, width=width)


def check_to_json(found: Findings, names: Names, inputs: str) -> dict[str, Any]:
    """Return everything that was found, by the names of the files; in a pair that leaks, the second is held out."""
    files = names.files
    return {
        "inputs": inputs,
        "usable": found.usable,
        "unusable": [
            {"file": files[i], "reason": unusable.reason, "detail": unusable.detail}
            for i, unusable in sorted(found.skipped.items())
        ],
        "one_colour": [files[i] for i in found.constant],
        **{field: [[files[a], files[b]] for a, b in getattr(found, field)] for field in _PAIRS},
    }


def _some(images: Sequence[int], names: Names) -> str:
    return ", ".join(names.files[i] for i in images[:_EXAMPLES]) + ", ..." * (len(images) > _EXAMPLES)


def _pair(pair: Pair, names: Names, *, labels: bool) -> str:
    a, b = pair
    if labels:
        return f"{names.files[a]} ({names.label(a)}) = {names.files[b]} ({names.label(b)})"
    return f"{names.files[b]} = {names.files[a]}"
