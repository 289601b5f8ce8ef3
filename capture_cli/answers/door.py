"""`capture_cli.open_run`: the door to a run (capture_cli.runs) whose runs also answer questions.

    from capture_cli import open_run

    with open_run("runs/a") as a, open_run("runs/b") as b:
        a.suspects().flagged            # samples whose label is probably wrong
        a.diff(b).measures()            # accuracy_drop, flips, ...

Every answer is a frozen dataclass with `to_json()`; those of many rows have `to_pandas()`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from capture_cli import runs
from capture_cli.answers.diff import Diff, compare
from capture_cli.answers.duplicates import Duplicates, find_duplicates
from capture_cli.answers.learning import DynamicsSummary, find_learning
from capture_cli.answers.summary import Summary, summarise
from capture_cli.answers.suspects import Suspects, find_suspects


class Run(runs.Run):
    """A run, and the answers to what people ask of it. Each is one pass over the records."""

    def suspects(self, *others: runs.Run) -> Suspects:
        """Rank the samples by how likely their label is wrong, together with `others`: runs of the same files.

        Raises UsageError where samples do not have one label each, RecordsError where nothing was captured.
        """
        return find_suspects(self, *others)

    def diff(self, other: runs.Run, *, limit: int = 10, epoch: int | str = "last") -> Diff:
        """Compare with another run, which is `b`; at most `limit` images for each direction of a flip.

        Predictions are those of an epoch: `last`, `best` (of each run) or a number.
        """
        return compare(self, other, limit=limit, epoch=epoch)

    def summary(self, *, worst: int = 8, epoch: int | str = "last") -> Summary:
        """The run at a glance, as `capture inspect` shows it, with its lesson. `epoch` is a number, `best` or `last`."""
        return summarise(self, worst=worst, epoch=epoch)

    def dynamics(self, *, most: int = 8) -> DynamicsSummary:
        """How classes and samples were learned, as `capture inspect --dynamics` shows it."""
        return find_learning(self, most=most)

    def duplicates(self) -> Duplicates:
        """Pictures that are in the run more than once."""
        return find_duplicates(self)


def open_run(run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Run:
    """Open a run, as capture_cli.runs.open_run does."""
    return runs.open_run(run, kind=Run)
