"""A folder of a public data set: the names of its files, and what becomes of them.

Layout("pets", ["{cat,dog}/{1..9}.png"], ["cat", "dog"]).files()    # {a,b} and {1..3} as in bash
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """One data set: its files, and either its classes or the fact that its names do not tell them."""

    name: str
    patterns: Sequence[str]
    classes: Sequence[str] | int | None
    """The classes, their number, or None where no names tell them."""
    refused: bool = False
    """Refused at first; one of the commands that the error names finds `classes`."""
    splits: Sequence[str] = ("train", "val")
    """Splits of the images that have a label."""
    skipped: Sequence[str] = ()
    """Reasons, besides files that are no images."""
    tables: dict[str, str] = field(default_factory=dict)
    """Text files and what is in them."""
    warned: bool = False
    """Reported as a close call, or as names that may not be meant."""

    def files(self) -> list[str]:
        """Expand the patterns."""
        return [path for pattern in self.patterns for path in expand(pattern)]


def expand(pattern: str) -> Iterator[str]:
    """Expand the first pair of braces, then those that follow."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        values = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    else:
        values = match[1].split(",")
    for value in values:
        yield from expand(pattern[: match.start()] + value + pattern[match.end() :])


def digest(number: int) -> str:
    """Make the hexadecimal name of an image."""
    return f"{(number + 1) * 2654435761 % 2**32:08x}{(number + 7) * 40503 % 2**16:04x}"


def rows(header: str, lines: Sequence[str]) -> str:
    """Make the text of a table."""
    return "\n".join([header, *lines]) + "\n"
