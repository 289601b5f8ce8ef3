"""The sentences of the lesson that read every visit: labels that look wrong, and which classes were learned when.

suspects, learned = label_findings(blocks, folds, digests)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capture_cli.answers.digests import SampleDigests
from capture_cli.answers.dynamics import CLASS_TASKS, PHASES, Dynamics, SampleDynamics
from capture_cli.answers.lesson import RUN, Finding
from capture_cli.answers.suspects import Suspect, rank
from capture_cli.answers.suspects.combining import rank_trainings
from capture_cli.answers.suspects.score import MIN_EPOCHS
from capture_cli.errors import CaptureError, RecordsError
from capture_cli.runs import Visits

MAX_CLASSES = 40
"""Labels are checked for the lesson up to so many classes: the time grows with their square."""
LEARNED = 0.8
"""A class is learned in the first epoch from which on its accuracy stays at least this high."""
_MAX_NAMES = 3


def label_findings(blocks: Sequence[Visits], folds: int, digests: SampleDigests) -> tuple[list[Finding], list[Finding]]:
    """Findings about labels, and about learning; none without single labels, or if a batch makes no sense.

    Of a run with folds, labels are judged by every training, learning by the samples while they were held out.
    """
    dynamics = _collected(blocks, [Dynamics(phase) for phase in PHASES if phase == "val" or not folds])
    trainings = _collected(blocks, [Dynamics("train", training=number) for number in range(1, folds + 1)])
    return _suspects(dynamics, trainings, digests), _learned(dynamics)


def _collected(blocks: Sequence[Visits], folds: Sequence[Dynamics]) -> list[SampleDynamics]:
    try:
        for visits in blocks:
            if visits.info.task in CLASS_TASKS:
                for fold in folds:
                    fold.update(visits)
    except RecordsError:  # the answer that shows the batch reports it
        return []
    return [fold.result() for fold in folds if fold]


def _suspects(dynamics: Sequence[SampleDynamics], trainings: Sequence[SampleDynamics], digests: SampleDigests) -> list[Finding]:
    if (
        not dynamics
        or not 2 <= len(dynamics[0].classes) <= MAX_CLASSES
        or max(len(one.epochs) for one in dynamics) < MIN_EPOCHS
    ):
        return []
    try:
        ranked = rank_trainings(trainings, digests) if trainings else rank(dynamics, digests)
    except (CaptureError, ValueError):
        return []
    flagged: list[Suspect] = [one for one in ranked.suspects if one.flagged]
    if not flagged:
        return []
    first = flagged[0]
    some = "1 label looks" if len(flagged) == 1 else f"{len(flagged):,} labels look"
    guess = f" (a guess: few {ranked.largest.few})" if ranked.is_rough else ""
    text = f"{some} wrong{guess}, first {first.file}: labelled {first.label}, probably {first.suggested}."
    return [Finding(kind="suspects", text=text, command=("suspects", RUN))]


def _learned(dynamics: Sequence[SampleDynamics]) -> list[Finding]:
    """Which classes were learned first, and which not; of the samples that were not trained on, if there are any."""
    of_phase = {one.phase: one for one in dynamics if len(one.epochs) >= MIN_EPOCHS}
    found = of_phase.get("val") or of_phase.get("train")
    if found is None or not len(found.classes) >= 2:
        return []
    epochs = learned_epochs(found)
    learned = sorted((epoch, name) for name, epoch in epochs.items() if epoch is not None)
    never = [name for name, epoch in epochs.items() if epoch is None]
    if not learned or (learned[0][0] == learned[-1][0] and not never):
        return []
    first = [name for epoch, name in learned if epoch == learned[0][0]]
    text = f"Learned first in {found.phase}: {_names(first)}, at least {LEARNED:.0%} correct since epoch {learned[0][0]}"
    text += f"; not learned: {_names(never)}." if never else f"; last: {learned[-1][1]}, since epoch {learned[-1][0]}."
    where = f"phase = '{found.phase}'"
    command = ("rows", RUN, "--per", "class", "--where", where, "--columns", "label,epoch,n,recall", "--format", "csv")
    return [Finding(kind="learned", text=text, command=command)]


def learned_epochs(found: SampleDynamics) -> dict[str, int | None]:
    """For each class with samples the first epoch from which on at least LEARNED of its visits are right, or None."""
    epochs: dict[str, int | None] = {}
    seen, right = ~np.isnan(found.loss), found.correct
    for place, name in enumerate(found.classes):
        rows = found.labels == place
        if rows.any():
            visits = seen[:, rows].sum(1)
            is_low = (visits > 0) & (right[:, rows].sum(1) < LEARNED * visits)
            since = len(is_low) - int(is_low[::-1].argmax()) if is_low.any() else 0
            epochs[name] = int(found.epochs[since]) if since < len(is_low) else None
    return epochs


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
