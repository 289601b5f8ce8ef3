"""The result of a replay: differences, each with a cause, and their counts.

report = Report()
report.add(Difference("missing", "cat_1.png", "", 12, "train batch 3 of epoch 1, sample 5"))
report.differences          # [(the first difference of a cause and file, how many there are)]
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

CAUSES = {
    "missing": "the image file is missing",
    "changed": "the image file changed after the run",
    "unreadable": "the image file cannot be read",
    "decoder": "the image decoder is another version",
    "mismatch": "the record does not match the image file",
    "stored": "the stored input does not match the recorded digest",
    "outputs": "the model's outputs differ from the record",
}
"""Cause -> the same for people."""


class Difference(NamedTuple):
    """Something that is not as recorded."""

    cause: str
    """One of CAUSES."""
    subject: str
    """The file, or for `outputs` the batch."""
    detail: str
    line: int
    """Line of the records, from 1."""
    place: str
    """The batch and the sample in it, in words."""


@dataclass
class Report:
    """Counts of a replay. Grows with the number of files that differ, not with their visits."""

    inputs: int = 0
    """Inputs that were to be reproduced."""
    equal: int = 0
    """Inputs that have the recorded digest."""
    stored: int = 0
    """Stored inputs that were compared."""
    _found: dict[tuple[str, str], tuple[Difference, int]] = field(default_factory=dict)

    def add(self, differences: Iterable[Difference]) -> None:
        """Count differences."""
        for difference in differences:
            first, count = self._found.get((difference.cause, difference.subject), (difference, 0))
            self._found[difference.cause, difference.subject] = first, count + 1

    @property
    def differences(self) -> list[tuple[Difference, int]]:
        """The first difference of each cause and subject, and how many there are like it."""
        return list(self._found.values())

    @property
    def causes(self) -> Counter[str]:
        """Number of differences by cause."""
        counts: Counter[str] = Counter()
        for first, count in self._found.values():
            counts[first.cause] += count
        return counts
