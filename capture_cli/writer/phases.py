"""The phases of a run while they are open: their sums, and which samples have come.

    phases.check("train", 0)                    # raises UsageError: the epoch has ended
    phases.check_ids("train", 0, ids)           # raises UsageError: an id comes twice
    sums = phases.enter("train", 0)             # opened if it is not
    phases.open["train"] = sums.plus(n=64, loss=..., correct=..., captured=True)
    phases.note("train", ids)
    record = phases.sums("train").record(accuracy=True)
    phases.leave("train")

More than one phase may be open: who evaluates in the middle of an epoch goes on with it afterwards.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import cast

from capture_cli.errors import UsageError
from capture_cli.records import Epoch
from capture_cli.records.checking import PHASE

_FLAGS_UP_TO = 2**26


@dataclass
class Sums:
    """Of one phase of one epoch, over every sample, captured or not."""

    phase: str = ""
    epoch: int = -1
    batches: int = 0
    n: int = 0
    loss: float = 0.0
    correct: float = 0
    captured: int = 0

    def plus(self, *, n: int, loss: float, correct: float, captured: bool) -> "Sums":
        """With a batch of n samples more."""
        return Sums(
            phase=self.phase,
            epoch=self.epoch,
            batches=self.batches + 1,
            n=self.n + n,
            loss=self.loss + loss,
            correct=self.correct + correct,
            captured=self.captured + captured * n,
        )

    def record(self, *, accuracy: bool) -> Epoch:
        """What is written of them."""
        return Epoch(
            phase=self.phase,
            epoch=self.epoch,
            n=self.n,
            loss=self.loss / self.n if self.n else math.nan,
            accuracy=self.correct / self.n if accuracy and self.n else None,
            captured=self.captured,
            not_captured=self.n - self.captured,
        )


class Phases:
    """Which are open, the one that the last batch was of last."""

    def __init__(self) -> None:
        self.open: dict[str, Sums] = {}
        self._ended: dict[str, int] = {}
        self._seen: dict[str, _Seen] = {}

    def check(self, phase: str, epoch: int) -> None:
        """Raise UsageError unless a batch may be of this phase of this epoch: epochs of a phase go up."""
        if not isinstance(phase, str) or not re.fullmatch(PHASE, phase):
            raise UsageError(f"phase={phase!r} cannot be honoured", "it takes a short word in lower case, such as train or val")
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise UsageError(f"epoch={epoch!r} cannot be honoured", "it takes a whole number from 0 up")
        if epoch <= self._ended.get(phase, -1) or (phase in self.open and epoch < self.open[phase].epoch):
            raise UsageError(
                f"epoch {epoch} of the phase {phase} has ended",
                "epochs of a phase go up; give a second evaluation another phase, such as val-2",
            )

    def check_ids(self, phase: str, epoch: int, ids: Sequence[int | str]) -> None:
        """Raise UsageError where an id comes twice in a phase of an epoch."""
        seen = self._seen[phase] if phase in self.open and self.open[phase].epoch == epoch else _Seen()
        if len(set(ids)) < len(ids) or seen.any_of(ids):
            counts = Counter(ids)
            again = next(one for one in ids if counts[one] > 1 or seen.any_of([one]))
            raise UsageError(
                f"ids: {again!r} comes twice in {phase} epoch {epoch}", "give the recorder repeats=True where that is meant"
            )

    def enter(self, phase: str, epoch: int) -> Sums:
        """The sums of a phase, opened if it is not. Those of its epoch before must have been left."""
        sums = self.open.pop(phase, None) or Sums(phase, epoch)
        if not sums.batches:
            self._seen[phase] = _Seen()
        self.open[phase] = sums
        return sums

    def batches(self, phase: str, epoch: int) -> int:
        """How many there were of a phase of an epoch, if it is open."""
        sums = self.open.get(phase)
        return sums.batches if sums and sums.epoch == epoch else 0

    def is_over(self, phase: str, epoch: int) -> bool:
        """Whether an earlier epoch of the phase is still open."""
        return phase in self.open and self.open[phase].epoch != epoch

    def note(self, phase: str, ids: Sequence[int | str]) -> None:
        """Remember that these samples have come."""
        self._seen[phase].add(ids)

    def sums(self, phase: str | None = None) -> Sums:
        """Of a phase, by default the one that the last batch was of. Raises UsageError if it is not open."""
        name = phase if phase is not None else next(reversed(self.open), "")
        if name not in self.open:
            raise UsageError(f"no batch of the phase {name!r} has come since its last end", "end a phase after its last batch")
        return self.open[name]

    def leave(self, phase: str) -> None:
        """Close a phase whose sums were written."""
        self._ended[phase] = self.open.pop(phase).epoch


class _Seen:
    """Ids that have come: a byte for each number up to the largest, as those of a data set are; others in a set."""

    def __init__(self) -> None:
        self._flags = bytearray()
        self._others: set[int | str] = set()

    def any_of(self, ids: Sequence[int | str]) -> bool:
        places, others = _apart(ids)
        known = places if not places or max(places) < len(self._flags) else [one for one in places if one < len(self._flags)]
        if known and any(itemgetter(*known, known[0])(self._flags)):  # of one place alone it would not return a tuple
            return True
        return bool(others) and not self._others.isdisjoint(others)

    def add(self, ids: Sequence[int | str]) -> None:
        places, others = _apart(ids)
        self._others.update(others)
        flags = self._flags
        if places and (needed := max(places) + 1) > len(flags):
            flags.extend(bytes(max(needed, 2 * len(flags)) - len(flags)))
        for one in places:
            flags[one] = 1


def _apart(ids: Sequence[int | str]) -> tuple[Sequence[int], Sequence[int | str]]:
    """The small numbers, and the others. No array is made of them: for a batch that takes longer than to look at each."""
    if isinstance(ids[0], str):
        return (), ids
    numbers = cast(Sequence[int], ids)
    if min(numbers) >= 0 and max(numbers) < _FLAGS_UP_TO:
        return numbers, ()
    return [one for one in numbers if 0 <= one < _FLAGS_UP_TO], [one for one in numbers if not 0 <= one < _FLAGS_UP_TO]
