"""What `capture replay` says: a line for people, the same as JSON, and what is wrong, file by file.

print(sentence(report))             # 1,234 inputs made again, all equal
for line in lines(report): ...      # at most LISTED of the differences, and how many more there are
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture_cli.replay.findings import CAUSES

if TYPE_CHECKING:
    from capture_cli.replay.findings import Difference, Report

LISTED = 20
"""Differences that are listed for people."""
LISTED_JSON = 1000


def sentence(report: Report, *, stored: bool = False, batches: int = 0) -> str:
    """What came of it, in a line. `stored` inputs were asked for; `batches` had their outputs computed again."""
    if not report.inputs and report.stored:  # of a run without recipe
        wrong = report.causes["stored"]
        return f"{_count(report.stored, 'stored input')} compared, " + (f"{wrong:,} differ" if wrong else "all equal")
    text = f"{_count(report.inputs, 'input')} made again, "
    if report.equal == report.inputs:
        text += "all equal"
    else:
        text += f"{report.equal:,} equal, {report.inputs - report.equal:,} not"
    if report.stored:
        wrong = report.causes["stored"]
        text += f"; {report.stored:,} stored ones compared, " + (f"{wrong:,} differ" if wrong else "all equal")
    elif stored:
        text += "; none of them was stored"
    if batches:
        wrong = report.causes["outputs"]
        text += f"; outputs of {_count(batches, 'batch', 'batches')} computed again, "
        text += f"{wrong:,} not as recorded" if wrong else "all equal bit for bit"
    return text


def lines(report: Report, limit: int = LISTED) -> list[str]:
    """One line a file and cause, names not escaped."""
    differences = report.differences
    shown = [_line(first, count) for first, count in differences[:limit]]
    return [*shown, f"... and {len(differences) - limit:,} more"] if len(differences) > limit else shown


def causes(report: Report) -> str:
    """How many differences each cause has: `3 x the file is gone`."""
    return ", ".join(f"{count:,} x {CAUSES[cause]}" for cause, count in report.causes.most_common())


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


def _count(n: int, what: str, several: str = "") -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {several or what + 's'}"
