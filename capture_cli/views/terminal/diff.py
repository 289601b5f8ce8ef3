"""What `capture diff` shows: the verdict in one line, then where two runs part, why, and what came of it; or all of it as JSON.

    show_diff(diff, a="runs/a", b="runs/b", limit=10)
    sys.stdout.write(json.dumps(diff_json(diff, a="runs/a", b="runs/b")) + "\\n")

The runs are called A and B, as in the usage. Epochs and batches count from 0, as they do in the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from capture_cli.answers.diff import Diff, Difference, Place, Side
from capture_cli.answers.files import Few
from capture_cli.answers.outcome import ClassChange, Outcome, Turn
from capture_cli.views.terminal.epochs import number
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MAX_ITEMS = 12
"""Of a list in a run record, as of classes, so many are shown."""
_FILES = {
    "only_a": "only in A",
    "only_b": "only in B",
    "bytes": "other bytes",
    "label": "another label",
    "split": "another split",
    "left_out_a": "left out of A alone",
    "left_out_b": "left out of B alone",
}


def show_diff(diff: Diff, *, a: str, b: str, limit: int = 10) -> None:
    """Print a comparison on stdout; `a` and `b` are how the user named the runs, `limit` the classes shown at most."""
    parts: list[RenderableType] = [plain(verdict(diff, a=a, b=b), "bold")]
    if diff.relation != "equal":
        parts += ["", _sides(diff, a, b)]
    for title, difference in (("first difference", diff.first), ("first batch that differs", diff.first_batch)):
        if difference:
            parts += ["", *_difference(title, difference)]
    if diff.changes:
        parts += ["", _changes(diff)]
    parts += _files(diff)
    if diff.outcome:
        parts += ["", *_outcome(diff.outcome, limit)]
    elif diff.relation != "equal" and not diff.error:
        parts += ["", plain("no predictions to compare: no phase in which classes are predicted was captured in both")]
    show(parts)


def verdict(diff: Diff, *, a: str, b: str) -> str:
    """The one line that says it all."""
    if diff.relation == "equal":
        unfinished = f" so far ({diff.a.ending.sentence})" if diff.a.unfinished else ""
        return f"equal{unfinished}: {a} and {b}, {_lines(diff.common)}, chain {diff.a.ending.chain}"
    if diff.relation == "a_begins_b":
        return f"A is a beginning of B: {_lines(diff.common)} of {a} are the first of {diff.b.ending.lines:,} of {b}"
    if diff.relation == "b_begins_a":
        return f"B is a beginning of A: {_lines(diff.common)} of {b} are the first of {diff.a.ending.lines:,} of {a}"
    if diff.relation == "undecided":
        return f"undecided: {_lines(diff.common)} of {a} and {b} are equal, then one of them cannot be read"
    if diff.first is None:
        return f"different: {a} and {b} part at line {diff.common + 1:,}"
    return f"different: {a} and {b} part at line {diff.common + 1:,}, {_where(diff.first)}, in {_what(diff)}"


def _what(diff: Diff) -> str:
    """The first field that differs; of a run record, what in it."""
    first = diff.first
    if first and first.a.kind == first.b.kind == "run":
        return next((change.name for change in diff.changes), first.fields[0])
    return first.fields[0] if first and first.fields else "bytes"


def diff_json(diff: Diff, *, a: str, b: str) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "equal": diff.relation == "equal",
        "relation": diff.relation,
        "common_lines": diff.common,
        "a": _side_json(diff.a, a),
        "b": _side_json(diff.b, b),
        "first_difference": _difference_json(diff.first),
        "first_batch": _difference_json(diff.first_batch),
        "run": [{"name": change.name, "a": change.was, "b": change.now} for change in diff.changes],
        "files": asdict(diff.files),
        "outcome": _outcome_json(diff.outcome),
    }


def _side_json(side: Side, run: str) -> dict[str, Any]:
    ending = side.ending
    return {
        "run": run,
        "state": ending.state,
        "status": ending.status,
        "error": None if side.error is None else side.error.message,
        "lines": ending.lines,
        "chain": ending.chain,
        "counts": dict(ending.counts),
    }


def _difference_json(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {"field": difference.fields[0] if difference.fields else None, **asdict(difference)}


def _outcome_json(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    body = asdict(outcome)
    for scores, one in zip(body["classes"], outcome.classes, strict=True):
        scores["change"] = one.change
    return body


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def _sides(diff: Diff, a: str, b: str) -> Table:
    rows = new_table(("", "bold"), ("", "fold"), ("", ""), ("", "fold"), header=False)
    for letter, run, side in (("A", a, diff.a), ("B", b, diff.b)):
        rows.add_row(letter, plain(run), _lines(side.ending.lines), plain(side.ending.sentence))
    return rows


def _where(difference: Difference) -> str:
    a, b = difference.a, difference.b
    return _place(a) if a.kind == b.kind else f"{_place(a)} in A and {_place(b)} in B"


def _place(place: Place) -> str:
    """`batch (train, epoch 0, batch 3)`."""
    parts = [] if place.phase is None else [place.phase, f"epoch {place.epoch}"]
    parts += [] if place.batch is None else [f"batch {place.batch}"]
    return place.kind + (f" ({', '.join(parts)})" if parts else "")


def _difference(title: str, difference: Difference) -> list[RenderableType]:
    """Where two records stand, what differs in them, and in which images."""
    a, b = difference.a, difference.b
    seqs = f"seq {a.seq:,}" if a.seq == b.seq else f"seq {a.seq:,} in A, {b.seq:,} in B"
    parts: list[RenderableType] = [
        plain(f"{title}: {_where(difference)}, {seqs}", "bold"),
        plain(f"fields: {', '.join(difference.fields) or 'none'}"),
    ]
    if difference.same_inputs is not None:
        parts.append(plain(_inputs(difference)))
    for name, few in (("A", difference.only_a), ("B", difference.only_b)):
        if few.count:
            parts.append(plain(f"only in {name}'s: {_few(few)}"))
    if difference.files.count:
        rows = new_table(("image", "fold"), ("differs in", ""), ("A", "fold"), ("B", "fold"))
        for one in difference.files.first:
            rows.add_row(plain(one.file), plain(one.field), plain(_text(one.a)), plain(_text(one.b)))
        _left_out(rows, difference.files, "images")
        parts.append(rows)
    return parts


def _inputs(difference: Difference) -> str:
    if difference.same_inputs:
        return "the images and the inputs made of them are the same: the answers differ"
    if difference.only_a.count or difference.only_b.count:
        return "the batches are not of the same images"
    return "the inputs are not the same: the tensors that went into the model differ"


def _changes(diff: Diff) -> Table:
    rows = new_table(("told differently", ""), ("A", "fold"), ("B", "fold"))
    for change in diff.changes:
        rows.add_row(plain(change.name), plain(_text(change.was)), plain(_text(change.now)))
    return rows


def _text(value: Any) -> str:
    """A value of a record for people, exact; what is not there as `-`."""
    if value is None:
        return "-"
    if isinstance(value, list):
        shown = ", ".join(map(_text, value[:_MAX_ITEMS]))
        return f"{shown}, ... ({len(value):,} in all)" if len(value) > _MAX_ITEMS else shown
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return str(value)


def _files(diff: Diff) -> list[RenderableType]:
    rows = new_table(("files", ""), ("", "#"), ("such as", "fold"))
    for field in fields(diff.files):
        few: Few[str] = getattr(diff.files, field.name)
        if few.count:
            # Files are named when they are first used: what has not ended may name more.
            other = {"only_a": diff.b, "only_b": diff.a}.get(field.name)
            so_far = " so far" if other and other.unfinished else ""
            more = ", ..." if few.count > len(few.first) else ""
            rows.add_row(_FILES[field.name] + so_far, f"{few.count:,}", plain(", ".join(few.first) + more))
    return ["", rows] if rows.row_count else []


def _few(few: Few[str]) -> str:
    more = few.count - len(few.first)
    return ", ".join(few.first) + (f" and {more:,} more" if more else "")


def _outcome(outcome: Outcome, limit: int) -> list[RenderableType]:
    a, b = outcome.a, outcome.b
    epochs = f"epoch {a.epoch}" if a.epoch == b.epoch else f"epoch {a.epoch} in A, {b.epoch} in B"
    under_way = "".join(f", under way in {name}" for name, score in (("A", a), ("B", b)) if not score.complete)
    parts: list[RenderableType] = [plain(f"{outcome.phase}, {epochs}{under_way}: {_both(outcome)}", "bold")]
    if not outcome.both:
        return parts
    parts.append(
        plain(
            f"right: {a.correct:,} in A ({a.correct / outcome.both:.1%}), {b.correct:,} in B ({b.correct / outcome.both:.1%}); "
            f"from right to wrong {outcome.right_to_wrong.count:,}, from wrong to right {outcome.wrong_to_right.count:,}, "
            f"wrong in both with another answer {outcome.otherwise_wrong:,}"
        )
    )
    for title, few in (("from right to wrong", outcome.right_to_wrong), ("from wrong to right", outcome.wrong_to_right)):
        if few.first:
            parts += ["", _turns(title, few)]
    moved = [one for one in outcome.classes if one.change]
    if moved and limit:
        parts += ["", _classes(sorted(moved, key=lambda one: -abs(one.change or 0.0)), limit)]
    return parts


def _both(outcome: Outcome) -> str:
    alone = [f"{score.n - outcome.both:,} only in {name}" for name, score in (("A", outcome.a), ("B", outcome.b))]
    alone = [text for text in alone if not text.startswith("0 ")]
    images = "1 image" if outcome.both == 1 else f"{outcome.both:,} images"
    return f"{images} in both{''.join(f', {text}' for text in alone)}"


def _turns(title: str, few: Few[Turn]) -> Table:
    rows = new_table(
        (title, "fold"), ("label", "fold"), ("A said", "fold"), ("B said", "fold"), ("p(label) A", "#"), ("B", "#")
    )
    for one in few.first:
        label = one.label if one.label == one.label_b else f"{one.label} in A, {one.label_b} in B"
        texts = (one.file, label, one.pred_a, one.pred_b, _number(one.p_label_a), _number(one.p_label_b))
        rows.add_row(*map(plain, texts))
    _left_out(rows, few, "images")
    return rows


def _classes(moved: Sequence[ClassChange], limit: int) -> Table:
    rows = new_table(("class", "fold"), ("n", "#"), ("accuracy A", "#"), ("B", "#"), ("change", "#"))
    for one in moved[:limit]:
        n = f"{one.n_a:,}" if one.n_a == one.n_b else f"{one.n_a:,}, {one.n_b:,}"
        shares = f"{one.correct_a / one.n_a:.3f}", f"{one.correct_b / one.n_b:.3f}"
        rows.add_row(plain(one.name), n, *shares, f"{one.change:+.3f}")
    _left_out(rows, Few(len(moved), tuple(moved[:limit])), "classes")
    return rows


def _left_out(rows: Table, few: Few[Any], what: str) -> None:
    if few.count > len(few.first):
        rows.caption = f"and {few.count - len(few.first):,} more {what}"
        rows.caption_justify = "left"


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
