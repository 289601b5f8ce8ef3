"""What a replay finds: differences, each with a cause, and their sums.

report = Report()
report.note(Difference(cause="missing", subject="cat_1.png", detail="", line=12, place="train batch 3 of epoch 0, sample 5"))
report.differences          # [(the first difference of a cause and file, how many)]
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

CAUSES = {
    "missing": "the file is gone",
    "changed": "the file has changed since the run",
    "unreadable": "the file cannot be read now",
    "decoder": "the decoder is not the one of the run",
    "untrue": "the recipe differs, or the record is untrue",
    "stored": "the stored input is not the one of the record",
    "outputs": "the model does not answer as recorded",
}
"""Cause -> what it says to a person."""


class Difference(NamedTuple):
    """Something that is not as recorded."""

    cause: str
    """One of CAUSES."""
    subject: str
    """The file, or for `outputs` the batch."""
    detail: str
    line: int
    """Of the records, from 1."""
    place: str
    """The batch and the sample in it, in words."""


@dataclass
class Report:
    """What came of a replay. It grows with the files that are wrong, not with their visits."""

    inputs: int = 0
    """Made again, or tried to."""
    equal: int = 0
    stored: int = 0
    """Stored inputs that were compared."""
    _found: dict[tuple[str, str], tuple[Difference, int]] = field(default_factory=dict)

    def note(self, difference: Difference) -> None:
        """Count one difference."""
        first, count = self._found.get((difference.cause, difference.subject), (difference, 0))
        self._found[difference.cause, difference.subject] = first, count + 1

    @property
    def differences(self) -> list[tuple[Difference, int]]:
        """The first difference of each cause and subject, and how many there are like it."""
        return list(self._found.values())

    @property
    def causes(self) -> Counter[str]:
        """How many differences each cause has."""
        counts: Counter[str] = Counter()
        for first, count in self._found.values():
            counts[first.cause] += count
        return counts
