"""The reason why a sample is ranked as it is, in words: the strongest thing that can be said of it.

reasons(dynamics, means, suggested, flagged, duplicates)     # one clause a sample
"""

from __future__ import annotations

import numpy as np

from capture_cli.answers.duplicates import Duplicates
from capture_cli.answers.dynamics import PHASES, SampleDynamics
from capture_cli.answers.suspects.epochs import Bools
from capture_cli.answers.suspects.noise_matrix import Floats, Ints

_BETWEEN = 0.25
"""A sample lies between two classes that both have more than this mean probability."""


def _twins(duplicates: Duplicates | None, phase: str) -> dict[int | str, str]:
    """The clause on each sample of the phase that is the same picture as one with another label, by its id.

    One id may be a sample in each phase (datasets that both count from 0): what is said of another phase is left out.
    """
    found: dict[int | str, str] = {}
    others = {*PHASES} - {phase}
    for group in duplicates.contradictions if duplicates else ():
        for one in group.members:
            if one.split not in others:
                twin = next(twin for twin in group.members if twin.label != one.label)
                same = {"bytes": "the same file as", "input": "the same input as"}.get(group.kind, "almost the same picture as")
                found.setdefault(one.id, f"duplicate with another label: {same} {twin.file}, labelled {twin.label}")
    return found


def reasons(
    dynamics: SampleDynamics,
    means: Floats,
    suggested: Ints,
    flagged: Bools,
    duplicates: Duplicates | None,
) -> list[str]:
    """One clause a sample, empty for one that nothing is odd about.

    `means` [N, C] are mean probabilities, `suggested` [N] the likeliest other class.
    """
    classes, last = dynamics.classes, dynamics.epochs[-1]
    correctness, forgetting, first = dynamics.correctness, dynamics.forgetting, dynamics.first_learned
    late = last - (last - dynamics.epochs[0]) / 3
    unusable = dynamics.visits == 0
    order = np.argsort(-means, axis=1)[:, :2].tolist()
    clauses, twins = [], _twins(duplicates, dynamics.phase)
    for i, (name, label, (one, other)) in enumerate(zip(dynamics.ids.tolist(), dynamics.labels.tolist(), order, strict=True)):
        if unusable[i]:
            clause = "unusable image: the loss was never finite"
        elif name in twins:
            clause = twins[name]
        elif flagged[i]:
            other_class = classes[int(suggested[i])]
            clause = f"wrong label: probably {other_class}; {1 - correctness[i]:.0%} of predictions contradict it"
        elif means[i, other] > _BETWEEN and label in (one, other):
            clause = f"between {classes[one]} and {classes[other]}"
        elif first[i] < 0:
            clause = f"never predicted as {classes[label]}"
        elif forgetting[i] > 1:
            clause = f"forgotten {forgetting[i]} times"
        elif first[i] > late:
            clause = f"learned late, in epoch {first[i]}"
        elif one != label:
            clause = f"unlike the other samples of {classes[label]}"
        else:
            clause = ""
        clauses.append(clause)
    return clauses
