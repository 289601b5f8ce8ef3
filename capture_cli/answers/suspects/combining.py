"""Several runs of the same files together: a label that every run doubts is likelier wrong than one that a single run doubts.

The score of a sample is the mean of its scores in the runs that ranked it by the noise model; the number of wrong labels is the
mean of theirs. Phase, suggestion and reason are those of the run that doubts the sample most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from capture_cli.answers.suspects import Suspect, Suspects
from capture_cli.answers.suspects.count import p_wrong
from capture_cli.errors import UsageError


def combined(found: Sequence[Suspects], classes: Sequence[Sequence[str]]) -> Suspects:
    """Join the answers of several runs, matched by file. Raises UsageError if their classes are not the same."""
    if any(set(one) != set(classes[0]) for one in classes):
        raise UsageError("these runs do not have the same classes", "suspects of several runs need runs of the same labels")
    by_model = [one for one in found if one.expected is not None]
    rows: dict[str, list[Suspect]] = defaultdict(list)
    for answer in by_model or found:
        for one in answer.suspects:
            if not by_model or one.p_wrong is not None:
                rows[one.file].append(one)
    if {len({one.label for one in same}) for same in rows.values()} - {1}:
        name = next(file for file, same in rows.items() if len({one.label for one in same}) > 1)
        raise UsageError(f"'{name}' does not have the same label in all of these runs", "name runs of the same labels")
    first = max(found, key=lambda one: len(one.suspects))
    score = np.array([np.mean([one.score for one in same]) for same in rows.values()])
    contradicted = np.array([2 * sum(one.contradicted for one in same) >= len(same) for same in rows.values()], bool)
    suspects = [max(same, key=lambda one: one.score) for same in rows.values()]
    p = np.zeros(0)
    flagged = np.zeros(len(score), bool)
    if by_model:
        count = round(float(np.mean([one.expected for one in by_model if one.expected is not None])))
        p = p_wrong(score, count)
        flagged[np.argsort(-score, kind="stable")[:count]] = True
        flagged &= contradicted
    joined = [
        replace(
            one,
            score=float(score[i]),
            p_wrong=float(p[i]) if len(p) else None,
            flagged=bool(flagged[i]),
            contradicted=bool(contradicted[i]),
        )
        for i, one in enumerate(suspects)
    ]
    joined.sort(key=lambda one: (-one.score, one.file))
    expected, spread = float(p.sum()), 2 * float(np.sqrt((p * (1 - p)).sum()))
    return Suspects(
        phases=first.phases,
        expected=expected if by_model else None,
        low=max(0.0, expected - spread),
        high=expected + spread,
        suspects=joined,
        duplicates=first.duplicates,
        states=[state for one in found for state in one.states],
    )
