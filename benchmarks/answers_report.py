"""The tables of docs/answers.md, of the runs that `answers.py --json FILE` has added to files."""

from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

RANKING = ("suspects", "AUM", "p margin", "log p", "cleanlab self", "cleanlab normalized")
FLAGS = ("flagged", "precision", "F1", "cleanlab F1", "F1 of review", "share flagged", "cleanlab share flagged", "ECE")
SIMPLE, CLEANLAB = ("AUM", "p margin"), ("cleanlab self", "cleanlab normalized")
Medians = dict[str, float]


def report(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Two tables of medians over the seeds, and how far ahead of the others we are on the mean of their rows, and at worst.

    A row is {"what": data and noise, "model": its name, "runs": for each seed the measures of `answers.measured`}.
    """
    found = {(row["what"], row["model"]): _medians(row["runs"]) for row in rows}
    noisy = {key: middle for key, middle in found.items() if "clean" not in key[0].split()}
    yield from _table(noisy, RANKING)
    yield ""
    yield from _table(found, FLAGS)
    yield ""
    yield from _lead("average precision, the better of AUM and the probability margin", noisy, "suspects", SIMPLE)
    yield from _lead("average precision, the better score of cleanlab", noisy, "suspects", CLEANLAB)
    yield from _lead("F1 of the flags, cleanlab's filter", noisy, "F1", ("cleanlab F1",))
    for what, name in (("ours", "share flagged"), ("cleanlab", "cleanlab share flagged")):
        clean = [middle[name] for key, middle in found.items() if key not in noisy and name in middle]
        if clean:
            yield f"share flagged of clean sets, {what}: {fmean(clean):.2%} over {len(clean)} rows; at most {max(clean):.2%}"


def _medians(runs: Sequence[Medians]) -> Medians:
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _table(found: dict[tuple[str, str], Medians], columns: Sequence[str]) -> Iterator[str]:
    yield f"| data | network | {' | '.join(columns)} |"
    yield "| --- " * (2 + len(columns)) + "|"
    for (what, model), middle in found.items():
        cells = (_cell(name, middle.get(name, float("nan")), "clean" in what.split()) for name in columns)
        yield f"| {what} | {model} | {' | '.join(cells)} |"


def _cell(name: str, value: float, clean: bool) -> str:
    if value != value or (clean and name in ("precision", "F1", "cleanlab F1", "F1 of review")):
        return "-"
    if name == "flagged":
        return f"{value:.0f}"
    if "share" in name:
        return f"{value:.1%}"
    return f"{value:.3f}" if name in (*RANKING, "ECE") else f"{value:.2f}"


def _lead(what: str, found: dict[tuple[str, str], Medians], ours: str, theirs: Sequence[str]) -> Iterator[str]:
    ahead = {
        f"{key[0]} ({key[1]})": middle[ours] - max(middle[name] for name in theirs)
        for key, middle in found.items()
        if all(name in middle for name in theirs)
    }
    if ahead:
        below = sorted((lead, name) for name, lead in ahead.items() if lead < -0.01)
        yield f"{what}: {fmean(ahead.values()):+.3f} over {len(ahead)} rows; {len(below)} of them more than 0.01 behind"
        yield from (f"    {lead:+.3f}  {name}" for lead, name in below)
