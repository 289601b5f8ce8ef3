"""What `capture inspect` shows: a run at a glance, or the history of one image; for people, or as JSON.

    show_summary(summary, run="runs/mine", limit=20, pictures=[None, ...], notes=["..."])
    sys.stdout.write(json.dumps(summary_json(summary, run="runs/mine")) + "\\n")

On a terminal long names fold into their column and the worst samples have pictures; into a pipe or file every row is one line
of plain text, and no name is shortened. All text goes through views.text. Epochs count from 0, as they do in the records and in
the commands that are shown, so that what is read here can be asked for there.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from capture_cli.answers.phase import PhaseScore
from capture_cli.answers.summary import Summary
from capture_cli.records import Epoch, Run
from capture_cli.views.epochs import number
from capture_cli.views.tables import new_table, show, stdout_console
from capture_cli.views.text import plain, safe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import RenderableType
    from rich.table import Table

    from capture_cli.answers.history import History

    Picture = npt.NDArray[np.uint8] | None
    """uint8 [C, H, W]."""

MAX_EPOCHS = 40
"""Rows of the table of epochs; of more, the last ones are shown. The JSON has all."""
_ROOMY = 72
"""Cells from which on all numbers of a visit are shown."""
_CARD = 18
"""Cells of a picture with what is written below it."""


def show_summary(
    summary: Summary, *, run: str, limit: int = 20, pictures: Sequence[Picture] = (), notes: Sequence[str] = ()
) -> None:
    """Print a summary on stdout.

    `run` is how the user named it; at most `limit` classes are shown, the least accurate of more; `pictures` are of the worst
    samples, in their order, `notes` say what is missing among them.
    """
    parts: list[RenderableType] = [_header(summary)]
    if summary.epochs or summary.under_way:
        parts += [plain(""), *_epochs(summary)]
    phase = summary.phase
    if phase and phase.n:
        parts += [plain(""), plain(_phase_title(phase), "bold"), plain(""), *_classes(phase, limit)]
        if phase.confusions:
            parts += [plain(""), *_confusions(phase)]
        parts += [plain(""), *_worst(phase, pictures, notes)]
    show([*parts, "", plain("to dig further", "bold"), *_command_lines(summary, run)])


def show_history(history: History, *, run: str, picture: Picture = None, note: str = "") -> None:
    """Print every visit of one image on stdout."""
    sample = history.sample
    parts: list[RenderableType] = [
        plain(sample.file, "bold"),
        plain(f"label {sample.label}, split {sample.split}, {sample.size:,} bytes, BLAKE2b {sample.digest}"),
        plain(f"in {run}: {history.ending.sentence}"),
    ]
    if sys.stdout.isatty():
        parts += _picture(picture, note)
    numbers = _numbers()
    places = ("epoch", "batch", "step")
    table = new_table(("phase", ""), *((name, "#") for name in (*places, *numbers)), ("pred", "fold"), ("", ""))
    for one in history.visits:
        table.add_row(
            plain(one.phase),
            *(str(getattr(one, name)) for name in places),
            *(_number(getattr(one, name)) for name in numbers.values()),
            plain(one.pred),
            "" if one.correct else "wrong",
        )
    parts += ["", table if history.visits else plain("not captured in any batch")]
    show(parts)


def summary_json(summary: Summary, *, run: str) -> dict[str, Any]:
    """The same as one JSON object: every epoch, every class; numbers as in the records."""
    phase = summary.phase
    return {
        "run": run,
        **_ending_json(summary),
        **_run_json(summary.run),
        "samples": dict(summary.splits),
        "left_out": dict(summary.skips),
        "epochs": [_epoch_json(epoch, phases) for epoch, phases in _by_epoch(summary.epochs).items()],
        "under_way": [asdict(one) for one in summary.under_way],
        "phase": None if phase is None else _phase_json(phase),
        "commands": _command_lines(summary, run),
    }


def history_json(history: History, *, run: str) -> dict[str, Any]:
    """The same as one JSON object."""
    visits = [asdict(one) for one in history.visits]
    return {"run": run, **_ending_json(history), "sample": asdict(history.sample), "visits": visits}


def _ending_json(answer: Summary | History) -> dict[str, Any]:
    ending, error = answer.ending, answer.error
    return {
        "state": ending.state,
        "status": ending.status,
        "error": None if error is None else str(error),
        "lines": ending.lines,
        "chain": ending.chain,
        "counts": dict(ending.counts),
    }


def _run_json(run: Run) -> dict[str, Any]:
    names = ("folder", "classes", "images", "model", "config", "recipe", "versions", "device", "threads")
    return {name: getattr(run, name) for name in names}


def _epoch_json(epoch: int, phases: Mapping[str, Epoch]) -> dict[str, Any]:
    names = ("n", "loss", "accuracy", "captured", "not_captured")
    return {"epoch": epoch} | {phase: {name: _finite(getattr(one, name)) for name in names} for phase, one in phases.items()}


def _phase_json(phase: PhaseScore) -> dict[str, Any]:
    body = asdict(phase)
    for scores, one in zip(body["classes"], phase.classes, strict=True):
        scores["accuracy"] = one.accuracy
    body["worst"] = [{**worst["visit"], "digest": worst["digest"]} for worst in body["worst"]]
    return body


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def _header(summary: Summary) -> Table:
    run, ending = summary.run, summary.ending
    counts = {split: n for split, n in run.images.items() if isinstance(n, int)} or summary.splits
    images = (
        f"{sum(counts.values()):,} images of {len(run.classes):,} classes ({_joined(f'{n:,} {s}' for s, n in counts.items())})"
    )
    skips = f"; left out: {_joined(f'{n:,} {reason}' for reason, n in summary.skips.items())}" if summary.skips else ""
    parameters = run.model.get("parameters")
    size = f" ({parameters:,} parameters)" if isinstance(parameters, int) else ""
    rows = {
        "run": f"{summary.name}: {ending.sentence}" + ("" if ending.state == "damaged" else f" ({ending.lines:,} lines)"),
        "trained" if "epochs" in run.config else "evaluated": f"{run.model.get('name')}{size} on {run.folder}: {images}{skips}",
        "classes": _joined(run.classes[:12]) + (f", ... ({len(run.classes):,} in all)" if len(run.classes) > 12 else ""),
        "config": _pairs(run.config),
        "input": _pairs({name: run.recipe[name] for name in ("height", "width", "channels", "augment") if name in run.recipe}),
        "versions": _pairs(run.versions),
        "device": f"{run.device}, {run.threads} thread{'' if run.threads == 1 else 's'}",
    }
    table = new_table(("", "bold"), ("", "fold"), header=False)
    for name, text in rows.items():
        table.add_row(name, plain(text))
    return table


def _joined(parts: Any) -> str:
    return ", ".join(parts)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _by_epoch(epochs: Sequence[Epoch]) -> dict[int, dict[str, Epoch]]:
    grouped: dict[int, dict[str, Epoch]] = {}
    for one in epochs:
        grouped.setdefault(one.epoch, {})[one.phase] = one
    return grouped


def _epochs(summary: Summary) -> list[RenderableType]:
    """One row an epoch, two columns a phase, and how much of it was captured."""
    grouped = _by_epoch(summary.epochs)
    for one in summary.under_way:
        grouped.setdefault(one.epoch, {})
    names = {one.phase for one in summary.epochs} | {one.phase for one in summary.under_way}
    phases = sorted(names, key=lambda name: (name != "train", name))
    under_way = {(one.phase, one.epoch): one for one in summary.under_way}
    table = new_table(
        ("epoch", "#"), *((f"{phase} {what}", "#") for phase in phases for what in ("loss", "acc")), ("captured", "")
    )
    shown = sorted(grouped)[-MAX_EPOCHS:]
    for epoch in shown:
        cells: list[str] = []
        captured = missed = 0
        for phase in phases:
            sums, begun = grouped[epoch].get(phase), under_way.get((phase, epoch))
            if sums:
                cells += [number(sums.loss), f"{sums.accuracy:.3f}"]
                captured, missed = captured + sums.captured, missed + sums.not_captured
            else:
                cells += [f"({_number(begun.loss)})" if begun else "", ""]
                captured += begun.n if begun else 0
        partly = " so far" if any(key[1] == epoch for key in under_way) else ""
        cells.append(f"{captured:,}{partly}" + (f" of {captured + missed:,}" if missed else ""))
        table.add_row(f"{epoch}", *map(plain, cells))
    left_out = len(grouped) - len(shown)
    return [table, plain(f"the last {len(shown)} of {len(grouped):,} epochs; --json has all", "dim")] if left_out else [table]


def _phase_title(phase: PhaseScore) -> str:
    name = f"{phase.phase}, epoch {phase.epoch}{'' if phase.complete else ' (under way)'}"
    missed = f"; {phase.not_captured:,} more were not captured" if phase.not_captured else ""
    return f"{name}: {phase.correct:,} of {phase.n:,} captured samples right ({phase.correct / phase.n:.1%}){missed}"


def _classes(phase: PhaseScore, limit: int) -> list[RenderableType]:
    shown = [one for one in phase.classes if one.n]
    if len(shown) > limit:
        shown = sorted(shown, key=lambda one: one.correct / one.n)[:limit]
    table = new_table(("class", "fold"), ("n", "#"), ("wrong", "#"), ("accuracy", "#"), ("loss", "#"))
    for one in shown:
        table.add_row(
            plain(one.name), f"{one.n:,}", f"{one.n - one.correct:,}", f"{one.correct / one.n:.3f}", _number(one.loss)
        )
    if len(shown) == len(phase.classes):
        return [table]
    least = "least accurate " if len(shown) == limit else ""
    note = f"{len(shown):,} {least}of {len(phase.classes):,} classes, those without a sample left out; --json has all"
    return [table, plain(note, "dim")]


def _confusions(phase: PhaseScore) -> list[RenderableType]:
    table = new_table(("label", "fold"), ("taken for", "fold"), ("times", "#"), ("of the label", "#"))
    for one in phase.confusions:
        table.add_row(plain(one.label), plain(one.pred), f"{one.count:,}", f"{one.share:.1%}")
    left_out = phase.confusions_left_out
    return [table, plain(f"and {left_out:,} more pairs", "dim")] if left_out else [table]


def _numbers() -> dict[str, str]:
    """The columns of numbers there is room for: heading and field of a visit."""
    some = {"p(label)": "p_label", "loss": "loss_nats"}
    return (
        some
        if stdout_console().width < _ROOMY
        else {"p(label)": "p_label", "p(pred)": "p_pred", "margin": "margin", "loss": "loss_nats"}
    )


def _worst(phase: PhaseScore, pictures: Sequence[Picture], notes: Sequence[str]) -> list[RenderableType]:
    """The samples with the highest losses: pictures on a terminal, then a table."""
    if not phase.worst:
        return []
    numbers = _numbers()
    table = new_table(("", "#"), ("highest loss", "fold"), ("label", ""), ("pred", ""), *((name, "#") for name in numbers))
    for place, worst in enumerate(phase.worst, 1):
        one = worst.visit
        cells = (_number(getattr(one, name)) for name in numbers.values())
        table.add_row(f"{place}", plain(one.file), plain(one.label), plain(one.pred), *cells)
    parts: list[RenderableType] = []
    if sys.stdout.isatty():
        parts += _gallery(phase, pictures)
        parts += [plain(note, "dim") for note in notes]
    return [*parts, table]


def _gallery(phase: PhaseScore, pictures: Sequence[Picture]) -> list[RenderableType]:
    from capture_cli.views.pictures import Card, Gallery, Thumbnail, fitting
    from capture_cli.views.text import shorten

    cards = []
    for place, (worst, picture) in enumerate(zip(phase.worst, pictures, strict=False), 1):
        if picture is not None:
            one = worst.visit
            texts = (f"{place} {one.label}", f"said {one.pred}")
            cards.append(Card(Thumbnail(picture, columns=_CARD, rows=8), [plain(shorten(text, _CARD)) for text in texts]))
    console = stdout_console()
    row = max(1, fitting(console.width, _CARD))
    lines: list[RenderableType] = []
    for start in range(0, len(cards), row):
        lines += [Gallery(cards[start : start + row], card_width=_CARD), ""]
    return lines


def _picture(picture: Picture, note: str) -> list[RenderableType]:
    from capture_cli.views.pictures import Thumbnail

    return [plain(note, "dim")] if picture is None else ["", Thumbnail(picture, columns=32, rows=16)]


def _command_lines(summary: Summary, run: str) -> list[str]:
    """Commands for a shell that go on from here; none that quotes a name which would not show as it is."""
    name = "RUN" if run == "-" else _shell(f"./{run}" if run.startswith("-") else run)
    phase = summary.phase
    if phase is None:
        return [f"capture rows {name} --limit 5"]
    wrong = f"not correct and phase = '{phase.phase}'"
    lines = [f"capture rows {name} --where {_shell(wrong)} | jq -r .file | sort | uniq -c | sort -rn | head"]
    if phase.confusions:
        worst = phase.confusions[0]
        where = (
            f"label = {_sql(worst.label)} and pred = {_sql(worst.pred)} and phase = '{phase.phase}' and epoch = {phase.epoch}"
        )
        lines.append(f"capture rows {name} --where {_shell(where)} --columns file,p_label,p_pred,margin --format csv")
    if phase.worst:
        lines.append(f"capture inspect {name} --sample={_shell(phase.worst[0].visit.file)}")
    return [line for line in lines if safe(line) == line]


def _sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _shell(text: str) -> str:
    """`text` as one word of a POSIX shell, in double quotes where that is enough: SQL is full of single ones."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return shlex.quote(text) if set(text) & set('$`"\\!') else f'"{text}"'


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
