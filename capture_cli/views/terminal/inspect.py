"""What `capture inspect` shows: a run at a glance, or the history of one image; for people, or as JSON.

    show_summary(summary, run="runs/mine", limit=20, pictures=[None, ...], notes=["..."])
    sys.stdout.write(json.dumps(summary_json(summary, run="runs/mine")) + "\\n")

On a terminal long names fold into their column and the worst samples have pictures; into a pipe or file every row is one line
of plain text, and no name is shortened. All text goes through views.text. Epochs count from 0, as they do in the records and in
the commands that are shown, so that what is read here can be asked for there.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from capture_cli.answers.phase import PhaseScore
from capture_cli.answers.summary import Summary
from capture_cli.answers.visits import NUMBERS_TASKS
from capture_cli.records import Epoch, RunInfo
from capture_cli.views.terminal.epochs import number
from capture_cli.views.terminal.scores import score_parts, visits_table
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain, safe

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
        parts += [plain(""), *score_parts(phase, what=_what(summary), limit=limit, pictures=pictures, notes=notes)]
    show([*parts, "", plain("to dig further", "bold"), *_command_lines(summary, run)])


def show_history(history: History, *, run: str, picture: Picture = None, note: str = "") -> None:
    """Print every visit of one image on stdout."""
    sample = history.sample
    known = {"label": sample.label, "split": sample.split, "BLAKE2b": sample.digest}
    facts = [f"{name} {value}" for name, value in known.items() if value is not None]
    if sample.size is not None:
        facts.insert(2, f"{sample.size:,} bytes")
    parts: list[RenderableType] = [plain(sample.file, "bold"), *([plain(", ".join(facts))] if facts else [])]
    parts += [plain(f"{name}: {_text(value)}") for name, value in history.extra.items()]
    parts.append(plain(f"in {run}: {history.ending.sentence}"))
    if sys.stdout.isatty() and sample.digest is not None:
        parts += _picture(picture, note)
    show([*parts, "", visits_table(history.visits) if history.visits else plain("not captured in any batch")])


def _text(value: Any) -> str:
    """A value that the caller of the recorder gave."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
        "error": None if error is None else error.message,
        "lines": ending.lines,
        "chain": ending.chain,
        "counts": dict(ending.counts),
    }


def _run_json(run: RunInfo) -> dict[str, Any]:
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


def _finite(value: float | None) -> float | None:
    return value if value is not None and value == value and abs(value) != float("inf") else None


def _header(summary: Summary) -> Table:
    run, ending = summary.run, summary.ending
    counts = {split: n for split, n in run.images.items() if isinstance(n, int)} or summary.splits
    if counts.keys() <= {one.phase for one in summary.epochs}:  # every file was looked at: those that could be used
        counts = {split: summary.splits.get(split, 0) for split in counts}
    images = (
        f"{sum(counts.values()):,} images of {len(run.classes):,} classes ({_joined(f'{n:,} {s}' for s, n in counts.items())})"
    )
    skips = f"; left out: {_joined(f'{n:,} {reason}' for reason, n in summary.skips.items())}" if summary.skips else ""
    parameters = run.model.get("parameters")
    size = f" ({parameters:,} parameters)" if isinstance(parameters, int) else ""
    trained = "trained" if "epochs" in run.config else "evaluated"
    what = f"{run.model.get('name', 'a model')}{size}" + (f" on {run.folder}: {images}{skips}" if run.folder else "")
    rows = {
        "run": f"{summary.name}: {ending.sentence}" + ("" if ending.state == "damaged" else f" ({ending.lines:,} lines)"),
        trained if run.folder else "model": what if run.folder or run.model else "",
        "task": run.task or "",
        "outputs" if run.task in NUMBERS_TASKS else "classes": _joined(run.classes[:12])
        + (f", ... ({len(run.classes):,} in all)" if len(run.classes) > 12 else ""),
        "config": _pairs(run.config),
        "input": _pairs({name: run.recipe[name] for name in ("height", "width", "channels", "augment") if name in run.recipe}),
        "versions": _pairs(run.versions),
        "device": f"{run.device}, {run.threads} thread{'' if run.threads == 1 else 's'}",
    }
    table = new_table(("", "bold"), ("", "fold"), header=False)
    for name, text in rows.items():
        if text:
            table.add_row(name, plain(text))
    return table


def _joined(parts: Any) -> str:
    return ", ".join(parts)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _what(summary: Summary) -> str:
    """What is captured, in the plural."""
    return "positions" if summary.run.task == "sequence" else "samples"


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
    whats = ("loss",) if summary.run.task == "regression" else ("loss", "acc")
    table = new_table(("epoch", "#"), *((f"{phase} {what}", "#") for phase in phases for what in whats), ("captured", ""))
    shown = sorted(grouped)[-MAX_EPOCHS:]
    for epoch in shown:
        cells: list[str] = []
        captured = missed = 0
        for phase in phases:
            sums, begun = grouped[epoch].get(phase), under_way.get((phase, epoch))
            if sums:
                cells += [number(sums.loss), "-" if sums.accuracy is None else f"{sums.accuracy:.3f}"][: len(whats)]
                captured, missed = captured + sums.captured, missed + sums.not_captured
            else:
                cells += [f"({_number(begun.loss)})" if begun else "", ""][: len(whats)]
                captured += begun.n if begun else 0
        partly = " so far" if any(key[1] == epoch for key in under_way) else ""
        cells.append(f"{captured:,}{partly}" + (f" of {captured + missed:,}" if missed else ""))
        table.add_row(f"{epoch}", *map(plain, cells))
    left_out = len(grouped) - len(shown)
    return [table, plain(f"the last {len(shown)} of {len(grouped):,} epochs; --json has all", "dim")] if left_out else [table]


def _picture(picture: Picture, note: str) -> list[RenderableType]:
    from capture_cli.views.terminal.pictures import Thumbnail

    return [plain(note, "dim")] if picture is None else ["", Thumbnail(picture, columns=32, rows=16)]


def _command_lines(summary: Summary, run: str) -> list[str]:
    """Commands for a shell that go on from here; none that quotes a name which would not show as it is."""
    name = "RUN" if run == "-" else _shell(f"./{run}" if run.startswith("-") else run)
    phase = summary.phase
    if phase is None:
        return [f"capture rows {name} --limit 5"]
    wrong = f"not correct and phase = '{phase.phase}'"
    lines = [f"capture rows {name} --where {_shell(wrong)} | jq -r .file | sort | uniq -c | sort -rn | head"]
    if summary.run.task == "regression":
        here = f"phase = '{phase.phase}' and epoch = {phase.epoch}"
        lines = [f"capture rows {name} --where {_shell(here)} --columns file,targets,outputs,loss --format csv"]
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
