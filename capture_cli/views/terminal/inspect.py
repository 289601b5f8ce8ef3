"""The output of `capture inspect` for people: a run at a glance, or the history of one image.

    show_summary(summary, run="runs/mine", limit=20, width=80, pictures=[None, ...], notes=["..."])
    show_history(history, run="runs/mine", width=80, picture=pixels)

`width` is that of the terminal in cells: long names fold into their column. Without it every row is one line of plain text, and
no name is shortened. Epochs are shown as recorded, so that the suggested commands find them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.answers.lesson import RUN, confusion_where
from capture_cli.answers.masks import mean_iou
from capture_cli.answers.summary import Summary
from capture_cli.records import Epoch, RunInfo
from capture_cli.runs import folds_of
from capture_cli.runs.masks import LOSS, MEASURE_TASKS, SEGMENTATION
from capture_cli.runs.names import origin_of
from capture_cli.runs.visits import NUMBER_TASKS
from capture_cli.views.terminal.scores import score_parts, visits_table
from capture_cli.views.terminal.tables import FittedTable, number, number_or_dash, show, table_of
from capture_cli.views.terminal.text import plain, safe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from capture_cli.answers.history import History
    from capture_cli.views.pictures import Picture

MAX_EPOCHS = 40
"""Rows of the table of epochs: the last ones. The JSON has all."""
_MAX_CLASSES = 12
"""Class names listed in the header."""
_MAX_NUMBERS = 4
"""Named numbers in the table of epochs."""


def show_summary(
    summary: Summary,
    *,
    run: str,
    limit: int = 20,
    width: int | None = None,
    pictures: Sequence[Picture | None] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print a summary on stdout.

    `run` is how the user named it; at most `limit` classes are shown, those of the lowest recall; `pictures` are those of the
    worst samples, in their order, and `notes` say why some are missing.
    """
    parts: list[RenderableType] = [*_lesson(summary, run), _header(summary)]
    if (summary.epochs or summary.under_way) and not (summary.phase and summary.phase.predicted):
        parts += ["", *_epochs(summary)]
    phase = summary.phase
    if phase and phase.n:
        noun = "positions" if summary.info.task == "sequence" else "samples"
        parts += ["", *score_parts(phase, noun=noun, limit=limit, width=width, pictures=pictures, notes=notes)]
    show([*parts, "", plain("next:", "bold"), *commands(summary, run)], width=width)


def _lesson(summary: Summary, run: str) -> list[RenderableType]:
    """Render the lesson, each sentence with the command that shows more."""
    parts: list[RenderableType] = []
    shown = set[str]()  # two sentences may have one command
    for finding in summary.lesson:
        command = capture_command(finding.command, run)
        parts += [plain(finding.text, "bold"), *([f"  {command}"] if safe(command) == command and command not in shown else [])]
        shown.add(command)
    return [*parts, ""] if parts else []


def lesson_json(summary: Summary, run: str) -> list[dict[str, Any]]:
    """The lesson as plain values, with commands for a shell."""
    return [{**one.to_json(), "command": capture_command(one.command, run)} for one in summary.lesson]


def capture_command(words: Sequence[str], run: str) -> str:
    """A command as somebody would type it, with the run in place of RUN."""
    return " ".join(["capture", *(_name(run) if word == RUN else _shell(word) for word in words)])


def show_history(
    history: History, *, run: str, width: int | None = None, picture: Picture | None = None, notes: Sequence[str] = ()
) -> None:
    """Print every visit of one image on stdout."""
    sample = history.sample
    size = None if sample.size is None else f"{sample.size:,} bytes"
    facts = {"label ": sample.label, "split ": sample.split, "": size, "BLAKE2b ": sample.digest}
    parts: list[RenderableType] = [plain(sample.file, "bold")]
    if any(facts.values()):
        parts.append(plain(", ".join(f"{name}{value}" for name, value in facts.items() if value is not None)))
    parts += [plain(f"{name}: {_extra_text(value)}") for name, value in history.extra.items()]
    parts.append(plain(f"in {run}: {history.state.ending.sentence}"))
    if picture is not None:
        from capture_cli.views.terminal.pictures import Thumbnail

        parts += ["", Thumbnail(picture, columns=32, rows=16)]
    parts += [plain(note, "dim") for note in notes]
    if history.note:
        parts.append(plain(f"{history.note}; to tell them apart, pass ids= to the recorder", "bold"))
    if history.visits:
        visits = visits_table(history.visits, labels=bool(history.labels), folds=history.folds, width=width)
    show([*parts, "", visits if history.visits else plain("not captured in any batch")], width=width)


def _extra_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def commands(summary: Summary, run: str) -> list[str]:
    """Shell commands that go on from here, beside those of the lesson; none with a name that would not show as it is."""
    name = _name(run)
    phase = summary.phase
    if phase is None:
        return [f"capture rows {name} --limit 5"]
    here = f"phase = '{phase.phase}' and epoch = {phase.epoch}"
    if phase.predicted:
        lines = [f'capture rows {name} --where "p_pred < 0.5" --columns file,pred,p_pred --format csv']
    elif summary.info.task in MEASURE_TASKS:
        order = f"capture rows {name} --where {_shell(here)} --format csv"
        lines = [f"{order} --columns {','.join(('file', *_COLUMNS[summary.info.task], *(summary.info.number_names or ())))}"]
    elif summary.info.task == "regression":
        lines = [f"capture rows {name} --where {_shell(here)} --columns file,targets,outputs,loss --format csv"]
    else:
        wrong = f"not correct and phase = '{phase.phase}'"
        lines = [f"capture rows {name} --where {_shell(wrong)} | jq -r .file | sort | uniq -c | sort -rn | head"]
    if phase.confusions:
        where = confusion_where(phase.confusions[0], phase)
        lines.append(f"capture rows {name} --where {_shell(where)} --columns file,p_label,p_pred,margin --format csv")
    if phase.worst:
        lines.append(f"capture inspect {name} --sample={_shell(phase.worst[0].visit.file)}")
    if phase.classes and summary.info.task is None:
        lines.append(f"capture suspects {name}")
    shown = {capture_command(one.command, run) for one in summary.lesson}
    return [line for line in lines if safe(line) == line and line not in shown]


_COLUMNS = {SEGMENTATION: ("accuracy", "mean_iou", "loss"), LOSS: ("loss",)}
"""Columns of `capture rows` that say most."""


def _name(run: str) -> str:
    """The run as a word of a shell command."""
    return "RUN" if run == "-" else _shell(f"./{run}" if run.startswith("-") else run)


def _shell(text: str) -> str:
    """`text` as one word of a POSIX shell, in double quotes where possible: SQL is full of single ones."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return shlex.quote(text) if set(text) & set('$`"\\!') else f'"{text}"'


_INPUT = ("height", "width", "channels", "resize", "background", "depth", "augment")
_USUAL = {"resize": "stretch", "background": 255, "depth": "high-byte"}
"""Values that the recipe of most runs has, and nobody needs to read."""


def _header(summary: Summary) -> FittedTable:
    info, ending = summary.info, summary.state.ending
    lines = "" if ending.state == "damaged" else f" ({ending.lines:,} lines)"
    rows = {"run": f"{summary.state.name}: {ending.sentence}{lines}"}
    if ending.status == "failed":
        rows["error"] = summary.failure or ("" if summary.phase else "it failed before its first batch was recorded")
    if summary.warning:
        rows["warning"] = summary.warning
    if info.folder:
        without_labels = bool(summary.phase and summary.phase.predicted)
        done = "trained" if "epochs" in info.config else "predicted" if without_labels else "evaluated"
        origin = origin_of(info.model)
        rows[done] = f"{origin}{': ' if origin else ''}{_model(info)} on {info.folder}: {_images(summary)}"
    elif info.model:
        rows["model"] = _model(info)
    more = f", ... ({len(info.classes):,} in all)" if len(info.classes) > _MAX_CLASSES else ""
    rows |= {
        "task": info.task or "",
        "outputs" if info.task in NUMBER_TASKS else "classes": ", ".join(info.classes[:_MAX_CLASSES]) + more,
        "config": _pairs(info.config.items()),
        "input": _pairs((name, info.recipe.get(name)) for name in _INPUT if info.recipe.get(name) != _USUAL.get(name)),
        "versions": _pairs(info.versions.items()),
        "device": f"{info.device}, {info.threads} thread{'' if info.threads == 1 else 's'}",
    }
    if padded := sum(one.padded or 0 for one in summary.epochs):
        what = "sample was excluded: a sampler repeated it" if padded == 1 else "samples were excluded: a sampler repeated them"
        rows["padding"] = f"{padded:,} padded {what} so that all processes get equally many"
    return table_of([("", "bold"), ("", "fold")], (row for row in rows.items() if row[1]), header=False)


def _model(info: RunInfo) -> str:
    parameters = info.model.get("parameters")
    return f"{info.model.get('name', 'a model')}" + (f" ({parameters:,} parameters)" if isinstance(parameters, int) else "")


def _images(summary: Summary) -> str:
    scanned = {split: n for split, n in summary.info.images.items() if isinstance(n, int)}
    counts: Mapping[str, int] = scanned or summary.splits
    if counts.keys() <= {one.phase for one in summary.epochs}:  # every file was read: count those that could be used
        counts = {split: summary.splits.get(split, 0) for split in counts}
    splits = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    skipped = ", ".join(f"{n:,} {reason}" for reason, n in summary.skipped.items())
    if folds := folds_of(summary.info):
        splits = f"{folds} folds, each image held out once"
    text = f"{sum(counts.values()):,} images of {len(summary.info.classes):,} classes ({splits})"
    return f"{text}; skipped: {skipped}" if skipped else text


def _pairs(items: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in items if value is not None)


def _epochs(summary: Summary) -> list[RenderableType]:
    """One row an epoch: the sums of each phase, and the number of captured samples. A `*` marks the best one."""
    sums_of = summary.by_epoch
    under_way = {(one.epoch, one.phase): one for one in summary.under_way}
    epochs = sorted(sums_of.keys() | {epoch for epoch, _ in under_way})
    names = {one.phase for one in summary.epochs} | {phase for _, phase in under_way}
    phases = sorted(names, key=lambda name: (name != "train", name))
    task, numbers = summary.info.task, _shown_numbers(summary)
    columns = {"regression": ("loss",), LOSS: ("loss", *numbers), SEGMENTATION: ("loss", "acc", "IoU", *numbers)}.get(
        task or "", ("loss", "acc", *numbers)
    )
    best = summary.best.epoch if summary.best and len(epochs) > 1 else None
    rows = []
    for epoch in epochs[-MAX_EPOCHS:]:
        row = [f"{'* ' if epoch == best else ''}{epoch}"]
        captured = missed = 0
        for phase in phases:
            sums, begun = sums_of.get(epoch, {}).get(phase), under_way.get((epoch, phase))
            if sums:
                row += [_epoch_cell(sums, column, task) for column in columns]
                captured, missed = captured + sums.captured, missed + sums.not_captured
            else:
                row += [f"({number_or_dash(begun.loss)})" if begun else "", *[""] * (len(columns) - 1)]
                captured += begun.n if begun else 0
        so_far = " so far" if any(epoch == other for other, _ in under_way) else ""
        rows.append([*row, f"{captured:,}{so_far}" + (f" of {captured + missed:,}" if missed else "")])
    heads = [(f"{phase} {column}", "#") for phase in phases for column in columns]
    table = table_of([("epoch", "#"), *heads, ("captured", "")], rows)
    if len(epochs) <= MAX_EPOCHS:
        return [table]
    return [table, "", plain(f"the last {MAX_EPOCHS} of {len(epochs):,} epochs; `capture rows RUN --per epoch` has all", "dim")]


def _shown_numbers(summary: Summary) -> tuple[str, ...]:
    """The named numbers that have a column in the table of epochs: the first few."""
    names = (name for one in summary.epochs for name in one.number_means or ())
    return tuple(dict.fromkeys(names))[:_MAX_NUMBERS]


def _epoch_cell(sums: Epoch, column: str, task: str | None) -> str:
    if column == "loss":
        return number(sums.loss)
    value = {"acc": sums.accuracy, "IoU": mean_iou(sums, task)}.get(column)
    if column in ("acc", "IoU"):
        return "-" if value is None else f"{value:.3f}"
    return number_or_dash((sums.number_means or {}).get(column, {}).get("mean"))
