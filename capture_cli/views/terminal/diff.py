"""The output of `capture diff` for people: the verdict in one line, then where two runs diverge, why, and what changed.

    show_diff(diff, a="runs/a", b="runs/b", limit=10, width=80)

The runs are called A and B, as in the usage. Epochs and batches are shown as recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.answers.diff import Diff, RecordDifference
from capture_cli.answers.files import FirstOf
from capture_cli.answers.predictions import ClassChange, ComparedPhase, Flip, LabelChange, PredictionChanges
from capture_cli.answers.shares import percent
from capture_cli.answers.side import RecordPosition
from capture_cli.answers.state import RunState
from capture_cli.views.terminal.losses import loss_parts
from capture_cli.views.terminal.scores import gallery
from capture_cli.views.terminal.tables import FittedTable, number_or_dash, show, table_of, unbroken_table
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from capture_cli.views.pictures import Picture

_MAX_EPOCHS = 20
"""Rows of the table of epochs: the last ones. The JSON has all."""
_RARE = 0.05
_MAX_ITEMS = 12
"""Items shown of a list in a run record."""
_ENDED: Mapping[str | None, str] = {"failed": "failed", "interrupted": "was interrupted"}
"""Status of a run that is sealed and not completed -> a verb."""
_FILES = {
    "only_a": "only in A",
    "only_b": "only in B",
    "bytes": "other bytes",
    "label": "another label",
    "split": "another split",
    "skipped_a": "skipped only in A",
    "skipped_b": "skipped only in B",
}


def show_diff(
    diff: Diff,
    *,
    a: str,
    b: str,
    limit: int = 10,
    width: int | None = None,
    pictures: Sequence[Picture | None] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print a comparison on stdout.

    `a` and `b` are how the user named the runs; at most `limit` classes are shown. `width` is that of the terminal in cells,
    None for a pipe. `pictures` are those of `listed_flips`, `notes` say why some are missing.
    """
    first = plain(verdict(diff, a=a, b=b), "bold")
    runs = ["", _runs(diff, a, b)] if diff.relation != "equal" else []
    records: list[RenderableType] = []
    for title, difference in (("first difference", diff.first), ("first batch that differs", diff.first_batch)):
        if difference:
            records += ["", *_difference(title, difference)]
    settings = ["", _settings(diff)] if diff.changes else []
    epochs = ["", _epochs(diff)] if diff.epochs else []
    results = _results(diff, limit, width, pictures, notes) if diff.relation != "equal" else []
    headline = _headline(diff)
    if headline:
        parts = [plain(headline, "bold"), *runs, *settings, *_files(diff), *epochs, *results, "", first, *records]
    else:
        parts = [first, *runs, *records, *settings, *_files(diff), *epochs, *results]
    show(parts, width=width)


def _headline(diff: Diff) -> str:
    """The accuracy of both, of runs that were meant to differ; empty for others, whose first difference says more."""
    found = diff.predictions
    if diff.relation != "differ" or not diff.is_meant:
        return ""
    if not found and not diff.losses and not diff.error:
        return _nothing_to_compare(diff)
    if not found or not found.both:
        return ""
    a, b, both = found.a, found.b, found.both
    accuracy = f"{found.phase} accuracy {a.correct / both:.3f} in A, {b.correct / both:.3f} in B"
    flips = found.right_to_wrong.count + found.wrong_to_right.count
    chance = f"p = {found.mcnemar_p:.2g}: {_chance(found.mcnemar_p)}" if flips else "no image is right in one of them alone"
    part = captured_part(diff)
    return f"{accuracy}, over {_images(both)} in both{f' ({part})' if part else ''}; {chance}"


def captured_part(diff: Diff) -> str:
    """Samples that the measures leave out, since `every` or `--capture-every` did; empty if there are none."""
    missing = [f"{n:,} samples in {name}" for name, n in zip("AB", diff.not_captured, strict=True) if n]
    return f"captured in part, without {' and '.join(missing)}" if missing else ""


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _chance(p: float) -> str:
    return "chance alone rarely does that" if p < _RARE else "chance alone may do that"


def _results(
    diff: Diff, limit: int, width: int | None, pictures: Sequence[Picture | None], notes: Sequence[str]
) -> list[RenderableType]:
    """The predictions or losses that changed, of runs that are not equal."""
    part = captured_part(diff)
    partly = [plain(f"{part}: what follows is of captured samples; the table of epochs is of all")] if part else []
    if diff.predictions:
        captions = [(flip.file, f"{flip.pred_a} -> {flip.pred_b}") for flip in listed_flips(diff)]
        shown = gallery(zip(pictures, captions, strict=False), width)
        beside = ["", *shown, *(plain(note, "dim") for note in notes)] if shown or notes else []
        return ["", *partly, *_predictions(diff.predictions, limit, diff.best, (diff.a, diff.b)), *beside]
    if diff.losses:
        return ["", *partly, *loss_parts(diff.losses, limit)]
    return [] if diff.error or _headline(diff) else ["", plain(_nothing_to_compare(diff))]


def _nothing_to_compare(diff: Diff) -> str:
    """The reason why no phase is compared: the phases that each run has."""
    of_a, of_b = (" and ".join(map(_phase, phases)) or "no whole epoch" for phases in diff.phases)
    epoch = "" if diff.a.is_finished and diff.b.is_finished else " of the same epoch"
    need = f"both need labels and captured batches in the same phase{epoch}"
    return f"no predictions to compare: A has {of_a}, B has {of_b}; {need}"


def _phase(name: str) -> str:
    return f"{name} (without labels)" if name == "predict" else name


def listed_flips(diff: Diff) -> list[Flip]:
    """The images that have pictures: those that went from right to wrong, then the others."""
    found = diff.predictions
    if not found or diff.relation == "equal":
        return []
    return [*found.right_to_wrong.first, *found.wrong_to_right.first]


def show_table(found: Sequence[Diff], runs: Sequence[str], *, width: int | None = None) -> None:
    """Print one row a run on stdout: how good it is, and what changed against the first of `runs`."""
    bases: dict[tuple[str, int], PredictionChanges] = {}
    for one in found:
        if one.predictions and one.predictions.both:
            bases.setdefault((one.predictions.phase, one.predictions.a.epoch), one.predictions)
    base = next(iter(bases.values()), None)
    rows: list[tuple[str, ...]] = [(runs[0], "-", one.phase, *_scores(one.a, one.both), *["-"] * 3) for one in bases.values()]
    for diff, name in zip(found, runs[1:], strict=True):
        changes = diff.predictions
        if not changes or not changes.both:
            rows.append((name, diff.relation, *["-"] * 9))
            continue
        flips = (f"{changes.right_to_wrong.count:,}", f"{changes.wrong_to_right.count:,}", f"{changes.mcnemar_p:.2g}")
        rows.append((name, diff.relation, changes.phase, *_scores(changes.b, changes.both), *flips))
    phases = ", ".join(dict.fromkeys(one.predictions.phase for one in found if one.predictions)) or "no phase in common"
    heads = [
        ("run", ""),
        ("relation", ""),
        ("phase", ""),
        *((name, "#") for name in ("epoch", "images", "accuracy", "loss", "ECE")),
    ]
    heads += [("right to wrong", "#"), ("wrong to right", "#"), ("McNemar p", "#")]
    title = f"{phases}, over the images that a run has in common with {runs[0]}, with the same label; flips against it"
    if base and base.a.calibration:
        title += f"; ECE over {base.a.calibration.bin_count} bins"
    if any(map(captured_part, found)):
        title += "; captured in part, so of captured samples only"
    if len({phase for phase, _ in bases}) < 2:
        heads.pop(2)
        rows = [(*row[:2], *row[3:]) for row in rows]
    least = ("images", "relation", "ECE", "epoch", "loss", "McNemar p")
    show([plain(title, "bold"), "", *unbroken_table(heads, rows, width=width, least=least)], width=width)


def _scores(one: ComparedPhase, both: int) -> tuple[str, ...]:
    ece = f"{one.calibration.ece:.3f}" if one.calibration else "-"
    return (f"{one.epoch}", f"{both:,}", f"{one.correct / both:.3f}", number_or_dash(one.loss), ece)


def _epochs(diff: Diff) -> FittedTable:
    """Loss and accuracy of both, the last epochs of each phase."""
    rows: list[tuple[str, ...]] = []
    has_ious = any(one.mean_iou_a is not None or one.mean_iou_b is not None for one in diff.epochs)
    for one in diff.epochs[-_MAX_EPOCHS:]:
        change = None if one.accuracy_a is None or one.accuracy_b is None else one.accuracy_b - one.accuracy_a
        ious = (number_or_dash(one.mean_iou_a), number_or_dash(one.mean_iou_b)) if has_ious else ()
        rows.append(
            (
                *(f"{one.epoch}", one.phase, number_or_dash(one.loss_a), number_or_dash(one.loss_b)),
                *(number_or_dash(one.accuracy_a), number_or_dash(one.accuracy_b), "-" if change is None else f"{change:+.3f}"),
                *ious,
            )
        )
    heads = [("epoch", "#"), ("phase", ""), ("loss A", "#"), ("B", "#"), ("accuracy A", "#"), ("B", "#"), ("change", "#")]
    heads += [("mean IoU A", "#"), ("B", "#")] if has_ious else []
    return table_of(heads, rows, more=len(diff.epochs) - _MAX_EPOCHS, noun="phases before these")


def verdict(diff: Diff, *, a: str, b: str) -> str:
    """The conclusion in one line."""
    if diff.relation == "equal":
        so_far = "" if diff.a.is_finished else f" so far ({diff.a.ending.sentence})"
        return f"equal{so_far}: {a} and {b}, {_lines(diff.common)}, chain {diff.a.ending.chain}"
    if diff.relation in ("a_is_prefix", "b_is_prefix"):
        one, other, whole = ("A", "B", diff.b) if diff.relation == "a_is_prefix" else ("B", "A", diff.a)
        return (
            f"{one} is a prefix of {other}: the first {diff.common:,} of the {whole.ending.lines:,} lines of {other} are equal"
        )
    if diff.relation == "undecided":
        equal = f"{_lines(diff.common)} of {a} and {b} are equal, then " if diff.common else ""
        reasons = [f"{name}: {state.error.message}" for name, state in (("A", diff.a), ("B", diff.b)) if state.error]
        return f"undecided: {equal}{'; '.join(reasons)}"
    where = f"different: {a} and {b} diverge at line {diff.common + 1:,}"
    return f"{where}, {_where(diff.first)}, in {_field(diff, diff.first)}" if diff.first else where


def _field(diff: Diff, first: RecordDifference) -> str:
    """The first field that differs, and in a run record the setting."""
    if first.a.kind == first.b.kind == "run" and diff.changes:
        return diff.changes[0].name
    return first.fields[0] if first.fields else "bytes"


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def _runs(diff: Diff, a: str, b: str) -> FittedTable:
    runs = (("A", a, diff.a), ("B", b, diff.b))
    rows = ((letter, run, _lines(state.ending.lines), state.ending.sentence) for letter, run, state in runs)
    return table_of([("", "bold"), ("", "fold"), ("", ""), ("", "fold")], rows, header=False)


def _where(difference: RecordDifference) -> str:
    a, b = difference.a, difference.b
    return _position(a) if a.kind == b.kind else f"{_position(a)} in A and {_position(b)} in B"


def _position(position: RecordPosition) -> str:
    """`batch (train, epoch 1, batch 3)`."""
    parts = [] if position.phase is None else [position.phase, f"epoch {position.epoch}"]
    parts += [] if position.batch is None else [f"batch {position.batch}"]
    return position.kind + (f" ({', '.join(parts)})" if parts else "")


def _difference(title: str, difference: RecordDifference) -> list[RenderableType]:
    """Two records that differ: their positions, their fields, their images."""
    a, b = difference.a, difference.b
    seqs = f"seq {a.seq:,}" if a.seq == b.seq else f"seq {a.seq:,} in A, {b.seq:,} in B"
    parts: list[RenderableType] = [
        plain(f"{title}: {_where(difference)}, {seqs}", "bold"),
        plain(f"fields: {', '.join(difference.fields) or 'none'}"),
    ]
    if difference.same_inputs:
        parts.append(plain("same images and same inputs: the predictions differ"))
    elif difference.only_a.count or difference.only_b.count:
        parts += [plain("the batches hold different images")] if difference.same_inputs is False else []
    elif difference.same_inputs is False:
        parts.append(plain("different inputs: the tensors that went into the model are not the same"))
    for name, only in (("A", difference.only_a), ("B", difference.only_b)):
        if only.count:
            more = f" and {only.more:,} more" if only.more else ""
            parts.append(plain(f"only in {name}: {', '.join(only.first)}{more}"))
    if difference.files.count:
        heads = [("image", "fold"), ("differs in", ""), ("A", "fold"), ("B", "fold")]
        rows = ((one.file, one.field, _text(one.a), _text(one.b)) for one in difference.files.first)
        parts.append(table_of(heads, rows, more=difference.files.more, noun="images"))
    return parts


def _settings(diff: Diff) -> FittedTable:
    rows = ((change.name, _text(change.was), _text(change.now)) for change in diff.changes)
    return table_of([("setting", ""), ("A", "fold"), ("B", "fold")], rows)


def _text(value: Any) -> str:
    """A value of a record for people, exact; None as `-`."""
    if value is None:
        return "-"
    if isinstance(value, list):
        shown = ", ".join(map(_text, value[:_MAX_ITEMS]))
        return f"{shown}, ... ({len(value):,} in all)" if len(value) > _MAX_ITEMS else shown
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return str(value)


def _files(diff: Diff) -> list[RenderableType]:
    rows = []
    for name, title in _FILES.items():
        files: FirstOf[str] = getattr(diff.files, name)
        if files.count:
            # Files are named when they are first used: a run that is not finished may still name them.
            other = {"only_a": diff.b, "only_b": diff.a}.get(name)
            so_far = _so_far(other) if other else ""
            rows.append((title + so_far, f"{files.count:,}", ", ".join(files.first) + (", ..." if files.more else "")))
    moved = diff.files.moved
    if moved.count:
        pairs = [f"{one.file_a} -> {one.file_b}" for one in moved.first]
        rows.append(("another path, same bytes", f"{moved.count:,}", ", ".join(pairs) + (", ..." if moved.more else "")))
    return ["", table_of([("files", ""), ("", "#"), ("such as", "fold")], rows)] if rows else []


def _so_far(state: RunState) -> str:
    """Words for a run whose records may lack what another has; empty for one that was completed."""
    status = state.ending.status
    return "" if state.is_finished else f" (the other {_ENDED[status]})" if status in _ENDED else " so far"


def _not_best(changes: PredictionChanges, best: tuple[int | None, int | None]) -> list[RenderableType]:
    """A line that names the best epochs, if others are compared."""
    shown = zip("AB", best, (changes.a.epoch, changes.b.epoch), strict=True)
    others = [f"epoch {epoch} in {name}" for name, epoch, compared in shown if epoch not in (None, compared)]
    text = f"best: {', '.join(others)}, which predict, evaluate and export use; --epoch best compares the best epochs"
    return [plain(text)] if others and changes.phase == "val" else []


def _predictions(
    changes: PredictionChanges,
    limit: int,
    best: tuple[int | None, int | None] = (None, None),
    states: Sequence[RunState | None] = (None, None),
) -> list[RenderableType]:
    a, b, both = changes.a, changes.b, changes.both
    epochs = f"epoch {a.epoch}" if a.epoch == b.epoch else f"epoch {a.epoch} in A, {b.epoch} in B"
    under_way = "".join(_cut_short(*one) for one in zip("AB", states, (a, b), strict=True) if not one[2].complete)
    changed = changes.labels_changed.count
    alone = (("A", a.n - both - changed), ("B", b.n - both - changed))
    only = "".join(f", {n:,} only in {name}" for name, n in alone if n)
    if changed:
        only = f" with the same label; {'1 label' if changed == 1 else f'{changed:,} labels'} changed{only}"
    parts: list[RenderableType] = [plain(f"{changes.phase}, {epochs}{under_way}: {_images(both)} in both{only}", "bold")]
    parts += _not_best(changes, best)
    if not both:
        return parts
    correct = f"{a.correct:,} in A ({percent(a.correct / both)}), {b.correct:,} in B ({percent(b.correct / both)})"
    flips = f"right to wrong {changes.right_to_wrong.count:,}, wrong to right {changes.wrong_to_right.count:,}"
    parts.append(plain(f"correct: {correct}; {flips}, wrong in both with another prediction {changes.wrong_to_wrong:,}"))
    parts.append(plain(f"McNemar's test: p = {changes.mcnemar_p:.2g}; {_chance(changes.mcnemar_p)}"))
    if a.calibration and b.calibration:
        ece = f"ECE {a.calibration.ece:.3f} in A, {b.calibration.ece:.3f} in B ({a.calibration.bin_count} bins)"
        parts.append(plain(f"loss {number_or_dash(a.loss)} in A, {number_or_dash(b.loss)} in B; calibration: {ece}"))
    if changed:
        parts.append(
            plain("images whose label changed are in none of these numbers; the table of epochs has each run's own labels")
        )
    for title, found in (("right to wrong", changes.right_to_wrong), ("wrong to right", changes.wrong_to_right)):
        if found.first:
            parts += ["", _flips(title, found)]
    if changes.labels_changed.first:
        parts += ["", _label_changes(changes.labels_changed)]
    differing = sorted((one for one in changes.classes if one.change), key=lambda one: -abs(one.change or 0.0))
    if differing and limit:
        parts += ["", _classes(differing[:limit], len(differing) - limit)]
    return parts


def _cut_short(name: str, state: RunState | None, _: ComparedPhase) -> str:
    """Words for a phase that did not end in the run `name`."""
    status = state.ending.status if state else None
    return f" ({name} {_ENDED[status]} in it)" if status in _ENDED else f" (under way or cut off in {name})"


def _classes(changed: Sequence[ClassChange], more: int) -> FittedTable:
    rows = (
        (
            one.name,
            f"{one.n:,}",
            *(f"{one.correct_a / one.n:.3f}", f"{one.correct_b / one.n:.3f}", f"{one.change:+.3f}"),
            *(number_or_dash(one.loss_a), number_or_dash(one.loss_b)),
        )
        for one in changed
    )
    heads = [("class", "name"), ("n", "#"), ("accuracy A", "#"), ("B", "#"), ("change", "#"), ("loss A", "#"), ("B", "#")]
    return table_of(heads, rows, more=more, noun="classes")


def _label_changes(found: FirstOf[LabelChange]) -> FittedTable:
    rows = ((one.file, one.label_a, one.label_b, one.pred_a, one.pred_b) for one in found.first)
    heads = [(name, "name") for name in ("label changed", "label A", "label B", "pred A", "pred B")]
    return table_of(heads, rows, more=found.more, noun="images")


def _flips(title: str, flips: FirstOf[Flip]) -> FittedTable:
    rows = (
        (
            one.file,
            one.label,
            *(one.pred_a, one.pred_b, number_or_dash(one.p_label_a), number_or_dash(one.p_label_b)),
        )
        for one in flips.first
    )
    heads = [(title, "name"), ("label", "name"), ("pred A", "name"), ("pred B", "name"), ("p(label) A", "#"), ("B", "#")]
    return table_of(heads, rows, more=flips.more, noun="images", least=[("p(label) A", "B")])
