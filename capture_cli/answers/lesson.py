"""The lesson of a run: what somebody should know first, a sentence each, said only where it is true.

    for finding in summary.lesson:
        finding.text                            # "The most frequent error in val is shirt predicted as tshirt: 4 of 22 errors."
        finding.command                         # ("suspects", RUN): arguments of `capture` that show more

The sentences about labels and classes read every visit, so they are made only where the batch records take at most
MAX_BYTES; then they cost about as much as the rest of `capture inspect`. All others come from what `inspect` reads anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from capture_cli.answers.best import BestEpoch
from capture_cli.answers.digests import SampleDigests
from capture_cli.answers.duplicates import Duplicates
from capture_cli.answers.held_out import HeldOut
from capture_cli.answers.scores import Confusion, PhaseScore
from capture_cli.answers.shares import percent
from capture_cli.records import RunInfo
from capture_cli.runs import Block, Visits, folds_of

RUN = "RUN"
"""Stands for the run in the arguments of a command."""
MAX_BYTES = 4 << 20
"""Batch records up to this size are read whole for the lesson: at most about 0.2 s (docs/benchmarks.md)."""
_MIN_COUNT = 3
"""A confusion that happened less often is chance."""
_MIN_IOU_GAP = 0.1
"""A class whose IoU is less below the mean does not stand out."""
_MIN_GAP = 0.03
"""Confidence and accuracy that differ less are not worth a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence of the lesson."""

    kind: str
    """held_out, confusion, iou, suspects, best_epoch, overfitting, learned, calibration, leaks or contradictions."""
    text: str
    command: tuple[str, ...]
    """Arguments of `capture` that show more, with RUN for the run."""

    def to_json(self) -> dict[str, Any]:
        """Kind and text; the command is in words of a shell, which the caller knows how to quote."""
        return {"kind": self.kind, "text": self.text}


class Waiting:
    """Every visit of a small run, unread; nothing of a larger one. A fold."""

    def __init__(self) -> None:
        self.is_whole = True
        """False once there was more than MAX_BYTES."""
        self._visits: list[Visits] = []
        self._bytes = self._folds = 0

    def update(self, block: Block) -> None:
        """Take the next block."""
        if isinstance(block, RunInfo):
            self._folds = folds_of(block)
        elif isinstance(block, Visits) and self.is_whole:
            self._visits.append(block)
            self._bytes += block.size_bytes
            if self._bytes > MAX_BYTES:
                self.is_whole, self._visits = False, []

    def findings(self, digests: SampleDigests) -> tuple[list[Finding], list[Finding]]:
        """Findings about labels, and about which classes were learned; none of a large run."""
        if not self._visits:
            return [], []
        from capture_cli.answers.label_lesson import label_findings  # not loaded for large runs

        return label_findings(self._visits, self._folds, digests)


def lesson(
    *,
    held_out: HeldOut | None = None,
    phase: PhaseScore | None,
    best: BestEpoch | None,
    makes_models: bool = False,
    duplicates: Duplicates,
    about_labels: Sequence[Finding] = (),
    about_learning: Sequence[Finding] = (),
    is_first: bool = False,
) -> tuple[Finding, ...]:
    """Every sentence that is true of a run.

    `makes_models`: it has a model of its best epoch; `is_first`: `phase` is of the first epoch of a training.
    """
    found: list[Finding] = []
    if held_out:
        calibration = phase.calibration if phase and phase.phase == "val" else None
        # It is of the last epochs; the phase may be of another one.
        calibration = calibration if phase and phase.epoch == max(one.epoch for one in held_out.folds) else None
        ece = f"; {calibration.error}" if calibration else ""
        found.append(Finding(kind="held_out", text=f"{held_out.sentence}{ece}.", command=("rows", RUN, "--per", "epoch")))
    if phase:
        found += [*_confusion(phase), *_masks(phase)]
    found += about_labels
    if best:
        found.append(_best(best, phase, makes_models))
        if best.gap_sentence:
            found.append(Finding(kind="overfitting", text=best.gap_sentence, command=("rows", RUN, "--per", "epoch")))
    found += about_learning
    # In the first epoch, and while it learns, every model is less certain than it is right, or the other way round.
    if phase and phase.complete and phase.phase != "train" and not is_first:
        found += _calibration(phase)
    return (*found, *_duplicates(duplicates))


def _best(best: BestEpoch, phase: PhaseScore | None, makes_models: bool) -> Finding:
    """The best epoch, and if it is not the last, which one the scores are of and which one the models."""
    text, command = f"{best.sentence}.", ("rows", RUN, "--per", "epoch")
    shown = phase.epoch if phase and phase.phase == "val" else best.epoch
    if best.epoch < best.last or shown != best.epoch:
        text += f" The tables below show epoch {shown}{', the last' if shown == best.last else ''}"
        text += f"; predict, evaluate and export use epoch {best.epoch}." if makes_models else "."
    if shown != best.epoch:
        command = ("inspect", RUN, "--epoch", "best")
    return Finding(kind="best_epoch", text=text, command=command)


def _confusion(phase: PhaseScore) -> list[Finding]:
    if not phase.confusions or phase.correct is None or phase.confusions[0].count < _MIN_COUNT:
        return []
    most, errors = phase.confusions[0], phase.n - phase.correct
    if len(phase.confusions) > 1 and phase.confusions[1].count == most.count:
        return []
    where = _captured_part(phase)
    start = f"Most errors in {where} are" if 2 * most.count > errors else f"The most frequent error in {where} is"
    text = f"{start} {most.label} predicted as {most.pred}: {most.count:,} of {errors:,} errors."
    where = confusion_where(most, phase)
    command = ("rows", RUN, "--where", where, "--columns", "file,p_label,p_pred,margin", "--format", "csv")
    return [Finding(kind="confusion", text=text, command=command)]


def _captured_part(phase: PhaseScore) -> str:
    """The phase, or the captured part of it."""
    if not phase.not_captured:
        return phase.phase
    return f"the {phase.n:,} captured samples of {phase.phase} ({phase.not_captured:,} were not)"


def _masks(phase: PhaseScore) -> list[Finding]:
    """The class whose masks are worst, if it stands out, and what it is taken for."""
    masks = phase.masks
    known = [one for one in masks.classes if one.labelled and one.iou is not None] if masks else []
    if masks is None or masks.mean_iou is None or len(known) < 2:
        return []
    worst = min(known, key=lambda one: one.iou or 0.0)
    if masks.mean_iou - (worst.iou or 0.0) < _MIN_IOU_GAP:
        return []
    taken = next((one for one in masks.confusions if one.label == worst.name), None)
    where = f"; {taken.rate:.0%} of its pixels are predicted as {taken.pred}" if taken else ""
    start = f"The masks of {worst.name} are the worst in {_captured_part(phase)}"
    text = f"{start}: IoU {worst.iou:.2f}, mean {masks.mean_iou:.2f}{where}."
    condition = f"phase = '{phase.phase}' and epoch = {phase.epoch}"
    command = ("rows", RUN, "--per", "class", "--where", condition, "--columns", "label,images,labelled,iou", "--format", "csv")
    return [Finding(kind="iou", text=text, command=command)]


def confusion_where(one: Confusion, phase: PhaseScore) -> str:
    """The SQL condition of the visits that make up a confusion."""
    return f"label = {_sql(one.label)} and pred = {_sql(one.pred)} and phase = '{phase.phase}' and epoch = {phase.epoch}"


def _sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _calibration(phase: PhaseScore) -> list[Finding]:
    found = phase.calibration
    if found is None:
        return []
    gap, accuracy = found.confidence - found.accuracy, found.accuracy
    noise = 2 * (accuracy * (1 - accuracy) / found.n) ** 0.5
    if abs(gap) < max(_MIN_GAP, noise):
        return []
    least, most = floor(1000 * found.confidence) / 1000, ceil(1000 * found.confidence) / 1000
    word, which = (
        ("overconfident", f"not correct and p_pred >= {least}")
        if gap > 0
        else ("underconfident", f"correct and p_pred <= {most}")
    )
    means = f"mean probability {percent(found.confidence)}, accuracy {percent(accuracy)}"
    text = f"The model is {word} in {_captured_part(phase)}: {means}"
    where = f"{which} and phase = '{phase.phase}' and epoch = {phase.epoch}"
    command = ("rows", RUN, "--where", where, "--columns", "file,label,pred,p_pred", "--format", "csv")
    return [Finding(kind="calibration", text=f"{text} ({found.error}; the calibration table has them).", command=command)]


def _duplicates(found: Duplicates) -> list[Finding]:
    findings = []
    command = ("suspects", RUN, "--duplicates")
    if found.leaks:
        splits = " and ".join(found.leaks[0].splits)
        n = sum(len(one.members) for one in found.leaks)
        text = f"Leak: {n:,} images are the same picture in {splits}, first {found.leaks[0].members[0].file}."
        findings.append(Finding(kind="leaks", text=text, command=command))
    if found.contradictions:
        first = found.contradictions[0]
        some = "1 picture has" if len(found.contradictions) == 1 else f"{len(found.contradictions):,} pictures have"
        text = f"{some} more than one label, first {first.members[0].file}: {' and '.join(first.labels)}."
        findings.append(Finding(kind="contradictions", text=text, command=command))
    return findings
