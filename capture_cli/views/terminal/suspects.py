"""Suspects for a terminal, and as CSV.

show_suspects(found, found.suspects[:20], width=80, pictures=pictures)
show_duplicates(found.duplicates, as_json=False, as_csv=False, label=None, top=None, width=80)
write_csv(found.suspects, sys.stdout)
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from capture_cli.answers.duplicates import DuplicateGroup, Duplicates
from capture_cli.answers.suspects import COLUMNS, Suspect, Suspects
from capture_cli.views.csv_lines import CsvLines
from capture_cli.views.terminal.scores import gallery
from capture_cli.views.terminal.tables import FittedTable, show, table_of
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from capture_cli.views.pictures import Picture

KINDS = {"bytes": "the bytes of the files", "input": "input tensors", "near": "perceptual hashes"}
"""Comparisons in words."""


def show_suspects(
    found: Suspects,
    rows: Sequence[Suspect],
    *,
    review: bool = False,
    width: int | None = None,
    pictures: Sequence[Picture | None] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print how many labels are probably wrong, and `rows` as a table; with `review` they are of the list of contradictions.

    `width` is that of the terminal, None for a pipe; `pictures` are of the rows, `notes` say why some are missing.
    """
    parts: list[Any] = [plain(_sentence(found), "bold")]
    parts += [plain(f"{phase.phase}: {note}", "dim") for phase in found.phases for note in phase.notes]
    parts += [plain(line, "dim") for line in _further(found, review)]
    captions = [(f"{rank} {one.label}", f"-> {one.suggested}") for rank, one in enumerate(rows, 1)]
    parts += ["", *gallery(zip(pictures, captions, strict=False), width), *(plain(note, "dim") for note in notes)]
    show([*parts, _table(rows, phases=len(found.phases) > 1) if rows else plain("no samples to show")], width=width)


def show_duplicates(
    found: Duplicates | None, *, as_json: bool, as_csv: bool, label: str | None, top: int | None, width: int | None
) -> None:
    """Print groups of duplicates, one row a picture (JSON: one object a group): the first `top`; with `label` those with it.

    What was not compared is said beside them, for JSON and CSV on stderr.
    """
    groups = [one for one in (found.groups if found else ()) if label is None or label in one.labels]
    shown = groups[:top]
    rows = [(number, group, one) for number, group in enumerate(shown, 1) for one in group.members]
    tests = _not_compared(found.not_compared if found else 0)
    if tests and (as_json or as_csv):
        sys.stderr.write(f"{tests}\n")
    if as_json:
        for group in shown:
            sys.stdout.write(json.dumps({**asdict(group), "labels": list(group.labels), "splits": list(group.splits)}) + "\n")
    elif as_csv:
        writer = csv.writer(CsvLines(sys.stdout))
        writer.writerow(("group", "kind", "file", "id", "label", "split"))
        writer.writerows((number, group.kind, one.file, one.id, one.label, one.split) for number, group, one in rows)
    else:
        compared = " and ".join(KINDS[one] for one in (found.compared if found else ())) or "nothing"
        parts: list[Any] = [plain(_count(groups), "bold"), plain(f"compared: {compared}", "dim")]
        parts += [plain(tests, "dim")] * bool(tests)
        parts += [plain(f"shown: the first {len(shown):,}", "dim")] * (len(shown) < len(groups))
        heads = [("group", "#"), ("file", "name"), ("label", "name"), ("split", ""), ("same", "")]
        cells = (
            (f"{n}", one.file, one.label or "-", one.split or "-", group.kind if group.is_certain else "perhaps")
            for n, group, one in rows
        )
        show([*parts, "", table_of(heads, cells)] if rows else parts, width=width)


def write_csv(rows: Sequence[Suspect], out: TextIO) -> None:
    """Write rows with a header, in the columns of the JSON."""
    writer = csv.writer(CsvLines(out))
    writer.writerow(COLUMNS)
    for one in rows:
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in one.to_json().values()])


def _table(rows: Sequence[Suspect], *, phases: bool) -> FittedTable:
    """One row a suspect, with its phase if `phases`. Where there is no room, the reasons go first, which the other columns
    nearly tell, with the flags if there are none."""
    names = ("file", *["phase"] * phases, "label", "suggested")
    heads = [("", "#"), *((head, "" if head == "phase" else "name") for head in names), ("confidence", "#"), ("p(wrong)", "#")]
    heads += [("flag", ""), ("reason", "fold")]
    cells = [
        [
            *(f"{rank}", one.file, *[one.phase] * phases, one.label, one.suggested, f"{one.confidence:.2f}"),
            *("-" if one.p_wrong is None else f"{one.p_wrong:.3f}", "wrong" if one.flagged else "", one.reason),
        ]
        for rank, one in enumerate(rows, 1)
    ]
    reasons = ("reason",) if any(one.flagged for one in rows) else ("reason", "flag")
    least = [reasons, ("confidence",), ("phase",), ("p(wrong)",)]
    return table_of(heads, cells, least=least, elsewhere="; a wider terminal, --csv and --json have all")


def _sentence(found: Suspects) -> str:
    counted = [phase for phase in found.phases if phase.method != "margin"] or found.phases
    samples = sum(phase.samples for phase in counted)
    if found.expected is None:
        return f"{samples:,} samples, those with the lowest mean margin first; this run cannot tell how many labels are wrong"
    flagged = sum(one.flagged for one in found.suspects)
    if found.is_rough:
        return f"too few {found.largest.few} to tell how many labels are wrong: look at the first rows; {flagged:,} flagged"
    between = f"{found.low:,.0f} to {found.high:,.0f}"
    return f"about {found.expected:,.0f} of {samples:,} labels are probably wrong ({between}); {flagged:,} flagged"


def _further(found: Suspects, review: bool) -> list[str]:
    """Lines that say what the list of contradictions is, and name the other lists where there is anything in them."""
    lines = []
    others = len(found.review) - len(found.flagged)
    if review:
        lines.append(f"{len(found.review):,} samples whose mean prediction contradicts the label, by score")
    elif others > 0 and found.expected is not None:
        lines.append(f"--review lists {others:,} more whose mean prediction contradicts the label; most are hard images")
    groups = found.duplicates.groups if found.duplicates else ()
    if groups:
        lines.append(f"{_count(groups)}: --duplicates")
    return lines


def _not_compared(tests: int) -> str:
    if not tests:
        return ""
    images = "1 image of a test split is" if tests == 1 else f"{tests:,} images of a test split are"
    return f"{images} not compared, since training leaves them alone: `capture labels FOLDER --check` compares all"


def _count(groups: Sequence[DuplicateGroup]) -> str:
    """The number of groups, in words."""
    same = [one for one in groups if one.is_certain]
    labels, splits = (sum(len(getattr(one, name)) > 1 for one in same) for name in ("labels", "splits"))
    some = "no picture is" if not same else "1 picture is" if len(same) == 1 else f"{len(same):,} pictures are"
    text = f"{some} in the run more than once"
    if same:
        text += f" ({labels:,} with several labels, {splits:,} across splits)"
    near = len(groups) - len(same)
    return f"{text}; {near:,}{' more' if same else ''} may be, by their perceptual hashes" if near else text
