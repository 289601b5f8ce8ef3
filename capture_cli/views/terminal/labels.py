"""What `capture labels` shows: what a folder would become, as tables for people and as one JSON object for programs.

    show_scan(found)               # rule, other rules, classes, what was left out: tables on stdout
    sys.stdout.write(to_json(found) + "\\n")

Names go through views.text; the tables fold long names to the width of the terminal, and into a pipe or file write each row as
one line. Tables stop after MAX_CLASSES classes and say how many are left; the JSON always has everything, in ASCII.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from capture_cli.labels import Scan, warnings
from capture_cli.labels.rules import other_rules
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.table import Table

MAX_CLASSES = 200
_WIDE = 4096
"""Cells in a line that goes to no terminal: a path and its label fit."""


def show_scan(found: Scan) -> None:
    """Print what a folder would become on stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDE
    console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=width)
    rule, counts = found.rule, Counter(found.splits)
    shares = ", ".join(f"{counts[split]:,} {split}" for split in _splits(found))
    with console.capture() as captured:
        console.print(plain(f"{found.folder}: {len(found.files):,} images, {len(found.classes):,} classes ({shares})", "bold"))
        console.print(plain(f"labels: {rule.name}, {rule.meaning}, because {rule.why}"))
        console.print()
        console.print(_classes(found))
        if len(found.classes) > MAX_CLASSES:
            console.print(f"and {len(found.classes) - MAX_CLASSES:,} more classes: --json has them all")
        for table in (_other_rules(found), _left_out(found)):
            if table.row_count:
                console.print()
                console.print(table)
    # Written here, not by Rich: where the reader has gone, Rich ends the process with exit code 1.
    sys.stdout.write(captured.get())


def to_json(found: Scan) -> str:
    """The same as one JSON object, with every file that was left out. `\\udcXX` stands for a byte that is not UTF-8."""
    body = {
        "folder": str(found.folder),
        "images": len(found.files),
        "rule": {"name": found.rule.name, "meaning": found.rule.meaning, "why": found.rule.why},
        "other_rules": [
            {"name": t.rule.name, "classes": t.classes, "without_label": len(found.files) - t.labelled}
            for t in other_rules(found.files, found.rule)
        ],
        "classes": [
            {"name": c.name, **{split: getattr(c, split) for split in _splits(found)}, "example": c.example}
            for c in found.per_class()
        ],
        "left_out": dict(Counter(skip.reason for skip in found.skipped).most_common()),
        "skipped": [{"file": skip.file, "reason": skip.reason, "detail": skip.detail} for skip in found.skipped],
        "warnings": warnings(found),
    }
    return json.dumps(body)


def _splits(found: Scan) -> list[str]:
    return ["test"] if "test" in found.splits else ["train", "val"]


def _classes(found: Scan) -> Table:
    splits = _splits(found)
    table = _table("class", *splits, "such as")
    for c in found.per_class()[:MAX_CLASSES]:
        numbers = (plain(f"{getattr(c, split):,}") for split in splits)
        table.add_row(plain(c.name), *numbers, plain("" if c.example is None else c.example))
    return table


def _other_rules(found: Scan) -> Table:
    table = _table("other rules", "classes", "without label")
    for t in other_rules(found.files, found.rule):
        table.add_row(plain(f"--labels {t.rule.name}"), plain(f"{t.classes:,}"), plain(f"{len(found.files) - t.labelled:,}"))
    return table


def _left_out(found: Scan) -> Table:
    table = _table("left out", "files", "such as")
    examples = {skip.reason: skip for skip in reversed(found.skipped)}
    for reason, count in Counter(skip.reason for skip in found.skipped).most_common():
        detail = f" ({examples[reason].detail})" if examples[reason].detail else ""
        table.add_row(plain(reason), plain(f"{count:,}"), plain(f"{examples[reason].file}{detail}"))
    return table


def _table(first: str, *others: str) -> Table:
    """A table whose columns hold text on the left, numbers on the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        if name == "such as":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table
