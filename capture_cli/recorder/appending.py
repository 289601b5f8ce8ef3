"""The state of a recorder that an earlier process left, read from its records, to continue them.

    found = read_state(Path("run.jsonl"))               # verified line by line
    journal = Journal.resume(path, found.position, "set aside")

Lines are only added, with one exception: the end line of a run that did not complete, and the sums that were written because it
ended, are taken off, after they were copied aside. The epoch that was under way then continues, or begins again.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from capture_cli.errors import RecordsError, UsageError
from capture_cli.journal import BEGINNING, JournalPosition, verified_lines
from capture_cli.recorder.validation import short
from capture_cli.records import AnyBatch, Batch, End, Epoch, Record, RunInfo, decode
from capture_cli.records.checking import check
from capture_cli.writer.columns import CLASSIFICATION, class_counts, count_and_sum
from capture_cli.writer.measures import SEGMENTATION, number_sums
from capture_cli.writer.phases import CLASS_COUNTS, Sums


@dataclass(kw_only=True)
class RecordedState:
    """Everything needed to continue."""

    info: RunInfo | None = None
    """The last run record."""
    position: JournalPosition = field(default_factory=lambda: BEGINNING)
    step: int = 0
    open: dict[str, Sums] = field(default_factory=dict)
    """Sums of the phases that were under way, over the batches that were captured."""
    ended: dict[str, int] = field(default_factory=dict)
    """Phase -> its last epoch with sums."""

    def demand(self, task: str, classes: list[str] | None) -> None:
        """Raise UsageError unless the run has this task and, if they are given, these classes."""
        info = self.info
        if info and (info.task or CLASSIFICATION) != task:
            raise UsageError(f"task={task!r} is not that of the run, {info.task or CLASSIFICATION!r}", "use its task")
        if info and classes is not None and list(info.classes) != classes:
            raise UsageError("classes are not those of the run", f"it has {short(list(info.classes))}")


def read_state(path: Path) -> RecordedState:
    """Read the records of `path`. Raises RecordsError, naming the line, where they do not verify."""
    state, sums = RecordedState(), list[tuple[Epoch, JournalPosition]]()
    try:
        with path.open("rb") as lines:
            for line in verified_lines(lines):
                record = decode(line.data)[1]
                check(record)
                if isinstance(record, End) and record.status != "completed":
                    break
                if isinstance(record, Epoch):
                    sums.append((record, line.start))
                else:
                    _end_phases(state, sums)
                    _add(state, record)
                state.position = line.end
            else:
                record = None
    except RecordsError as error:
        saves = f"`capture verify {shlex.quote(str(path))} --repair NEWFILE` saves the lines before it"
        hint = error.hint or (saves if error.line > 1 else "restore the file as it was")
        raise RecordsError(f"'{path}' is damaged: {error.message}", hint, line=error.line) from error
    if record is None:  # killed, or completed: its sums are those of phases that ended
        _end_phases(state, sums)
    elif sums:
        state.position = sums[0][1]
        for one, _ in sums:
            state.open[one.phase] = _reopened(one, state.open.get(one.phase))
    return state


def _add(state: RecordedState, record: Record) -> None:
    if isinstance(record, RunInfo):
        state.info = record
    elif isinstance(record, AnyBatch):
        before = state.open.get(record.phase)
        if before is None or before.epoch != record.epoch:
            before = Sums(record.phase, record.epoch)
        info = state.info
        masks = info is not None and info.task == SEGMENTATION
        counted = masks or (info is not None and info.task is None and record.phase != "train")
        n, loss = count_and_sum(record, len(record.ids))
        added = before.plus(
            n=n,
            loss=loss,
            correct=int((record.preds == record.labels).sum()) if isinstance(record, Batch) else 0,
            captured=True,
            classes=class_counts(record, len(info.classes)) if info and counted else None,
        )
        added = added.with_numbers(number_sums(record)) if record.numbers or record.batch_numbers else added
        state.open[record.phase] = replace(added, batches=record.batch + 1)
        state.step = record.step + (record.phase == "train")


def _end_phases(state: RecordedState, sums: list[tuple[Epoch, JournalPosition]]) -> None:
    """Note that these phases ended."""
    for one, _ in sums:
        state.open.pop(one.phase, None)
        state.ended[one.phase] = one.epoch
    sums.clear()


def _reopened(epoch: Epoch, captured: Sums | None) -> Sums:
    """Return the sums of a phase whose record is taken off: they are over all batches, captured or not."""
    counts = epoch.class_counts
    return Sums(
        epoch.phase,
        epoch.epoch,
        batches=captured.batches if captured else 0,
        n=epoch.n,
        loss=epoch.loss * epoch.n if epoch.n else 0.0,
        correct=round((epoch.accuracy or 0.0) * epoch.n),
        captured=epoch.captured,
        classes=None if counts is None else np.array([counts[name] for name in CLASS_COUNTS]),
        numbers={name: ((one["mean"] or 0.0) * one["n"], one["n"]) for name, one in (epoch.number_means or {}).items()},
        padded=epoch.padded or 0,
    )
