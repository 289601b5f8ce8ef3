"""The result of `capture replay`: a line for people, the same as JSON, and the differences, file by file.

print(summary(report))              # 1,234 inputs reproduced bit for bit
for line in lines(report): ...      # at most LISTED of the differences, and how many more there are
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from capture_cli.replay.report import CAUSES

if TYPE_CHECKING:
    from capture_cli.replay.report import Difference, Report

LISTED = 20
"""Differences listed for people."""
LISTED_JSON = 1000
_WHY_INPUTS = {
    "missing": "the image files are missing",
    "changed": "the image files changed after the run",
    "unreadable": "the image files cannot be read",
    "decoder": "the image decoder is another version",
    "mismatch": "the records do not match the image files",
}
"""Causes why several inputs are not reproduced."""


def summary(report: Report, *, stored: bool = False, batches: int = 0) -> str:
    """The result in a line. `stored` inputs were to be compared; `batches` had their outputs recomputed."""
    parts = []
    if report.inputs:
        some = f"{report.equal:,} of " if report.equal < report.inputs else ""
        parts.append(f"{some}{_count(report.inputs, 'input')} reproduced bit for bit")
    if report.stored:
        parts.append(f"{_count(report.stored, 'stored input')} compared, {_wrong(report.causes['stored'])}")
    elif stored:
        parts.append("none of them was stored")
    if batches:
        parts.append(f"outputs of {_count(batches, 'batch', 'batches')} recomputed, {_wrong(report.causes['outputs'])}")
    return "; ".join(parts)


def lines(report: Report) -> list[str]:
    """One line per file and cause, names not escaped."""
    differences = report.differences
    shown = [_line(first, count) for first, count in differences[:LISTED]]
    return [*shown, f"... and {len(differences) - LISTED:,} more"] if len(differences) > LISTED else shown


def failure(report: Report) -> str:
    """Why the replay failed, with counts: `2 inputs could not be reproduced: the image files changed after the run`."""
    causes, parts = report.causes, []
    why = Counter({cause: count for cause, count in causes.most_common() if cause in _WHY_INPUTS})
    if why:
        reasons = [
            (CAUSES[cause] if count == 1 else _WHY_INPUTS[cause]) + (f" ({count:,})" if len(why) > 1 else "")
            for cause, count in why.items()
        ]
        parts.append(f"{_count(why.total(), 'input')} could not be reproduced: {', '.join(reasons)}")
    if causes["stored"]:
        verb = "does" if causes["stored"] == 1 else "do"
        parts.append(f"{_count(causes['stored'], 'stored input')} {verb} not match the recorded digest")
    if causes["outputs"]:
        parts.append(f"the outputs of {_count(causes['outputs'], 'batch', 'batches')} are not those recorded")
    return "; ".join(parts)


def to_json(report: Report) -> dict[str, Any]:
    """All counts, and the first LISTED_JSON differences."""
    return {
        "inputs": report.inputs,
        "equal": report.equal,
        "stored": report.stored,
        "causes": dict(report.causes),
        "differences": [{**first._asdict(), "count": count} for first, count in report.differences[:LISTED_JSON]],
    }


def _line(first: Difference, count: int) -> str:
    times = f", the first of {count:,}" if count > 1 else ""
    detail = f" ({first.detail})" if first.detail else ""
    return f"{first.subject}: {CAUSES[first.cause]}{detail}; {first.place} (line {first.line}){times}"


def _wrong(n: int) -> str:
    return f"{n:,} {'differs' if n == 1 else 'differ'}" if n else "all equal"


def _count(n: int, what: str, several: str = "") -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {several or what + 's'}"
