"""Verdicts on findings in decoded pixels, for a training: an error, or warnings, in words.

    refuse_lost(observed, names)                    # raises DataError where a class or a split has no usable image left
    for text in warnings(found, names): ...         # one sentence each

Sentences name files, which are hostile text: make them safe before printing.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from capture_cli.errors import DataError, Unusable
from capture_cli.pixels.findings import NO_LABEL, SPLITS, Findings, Observed, Pair

_EXAMPLES = 3
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Names:
    """The N images of a data set by name. All but `classes` have one item for each."""

    files: Sequence[str]
    labels: Sequence[int]
    """Places in `classes`, or NO_LABEL."""
    splits: Sequence[str]
    classes: Sequence[str]

    def label(self, i: int) -> str:
        """Return the class of an image."""
        return "no label" if self.labels[i] == NO_LABEL else self.classes[self.labels[i]]

    def with_tests(self, tests: Sequence[tuple[str, str]]) -> Names:
        """Add files of a test split, each with the name of its class, which may be none of these."""
        places = {name: i for i, name in enumerate(self.classes)}
        return Names(
            files=[*self.files, *(file for file, _ in tests)],
            labels=[*self.labels, *(places.get(label, NO_LABEL) for _, label in tests)],
            splits=[*self.splits, *("test" for _ in tests)],
            classes=self.classes,
        )


def refuse_lost(observed: Observed, names: Names) -> None:
    """Raise DataError if every image of a split, or every training image of a class, was skipped.

    Only images that were looked at count: those of `observed` that are usable or skipped.
    """
    wanted, there = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for i, (split, label) in enumerate(zip(names.splits, names.labels, strict=True)):
        wanted[split, label] += 1
        there[split, label] += int(i not in observed.skipped)
    for split in sorted({split for split, _ in wanted}):
        of_split = [i for i, one in enumerate(names.splits) if one == split]
        if all(i in observed.skipped for i in of_split):
            raise DataError(
                f"none of the {len(of_split):,} {split} images can be used: {_reasons(observed, of_split)}", _REPAIR
            )
    lost = sorted(label for (split, label), count in wanted.items() if split == "train" and count and not there[split, label])
    if not lost:
        return
    images = [i for i, (split, label) in enumerate(zip(names.splits, names.labels, strict=True)) if label in lost]
    named = ", ".join(f"'{names.classes[label]}'" for label in lost[:_EXAMPLES]) + ", ..." * (len(lost) > _EXAMPLES)
    several = "no training image of the classes" if len(lost) > 1 else "no training image of the class"
    example = f"'{names.files[images[0]]}'"
    message = f"{several} {named} can be used: {_reasons(observed, images)}, such as {example}"
    raise DataError(message, _leave_out(images, lost, names) or _REPAIR)


_REPAIR = "repair or convert these files, or move them out of the folder"


def _leave_out(images: Sequence[int], lost: Collection[int], names: Names) -> str:
    """Advise the options that leave out classes which have folders of their own; empty if they have none."""
    folders = list(dict.fromkeys(names.files[i].rpartition("/")[0] for i in images))
    others = {file.rpartition("/")[0] for file, label in zip(names.files, names.labels, strict=True) if label not in lost}
    if (
        "" in folders
        or others & set(folders)
        or any(set(folder) & set("*?[]!") for folder in folders)
        or len(folders) > _EXAMPLES
    ):
        return ""
    options = " ".join(f"--exclude {shlex.quote(f'{folder}/*')}" for folder in folders)
    return f"repair or convert these files, or leave them out with {options}"


def _reasons(observed: Observed, images: Iterable[int]) -> str:
    counts = Counter(_reason(observed.skipped[i]) for i in images if i in observed.skipped)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def _reason(unusable: Unusable) -> str:
    """Return the reason; the detail too where it does not depend on the file."""
    return f"{unusable.reason} ({unusable.detail})" if unusable.reason == "format-not-allowed" else unusable.reason


def warnings(found: Findings, names: Names) -> list[str]:
    """Describe what is wrong with the images of a data set, the worst first."""
    said = [
        _skipped(found, names) or _halved_classes(found, names),
        _constant(found, names),
        *leaks(found.leaks, names),
        _conflicts(found.conflicts, names, "identical pixels"),
        *leaks(found.near_leaks, names, "nearly the same as"),
        _conflicts(found.near_conflicts, names, "nearly the same pixels"),
        _copies(found.copies, names),
    ]
    return [text for text in said if text]


def _skipped(found: Findings, names: Names) -> str:
    count = len(found.skipped)
    if count < _HALF * (found.usable + count):
        return ""
    by_reason: dict[str, list[int]] = defaultdict(list)
    for i, unusable in found.skipped.items():
        by_reason[_reason(unusable)].append(i)
    reasons = ", ".join(f"{len(images):,} {reason}" for reason, images in by_reason.items())
    return f"{count:,} of {found.usable + count:,} images cannot be used: {reasons}, such as {_some(found.skipped, names)}"


def _halved_classes(found: Findings, names: Names) -> str:
    """Name the classes of which half of the images or more were skipped, where not half of all were."""
    total, lost = Counter(names.labels), Counter(names.labels[i] for i in found.skipped)
    halved = sorted(
        (label for label in lost if label != NO_LABEL and lost[label] >= _HALF * total[label]), key=lambda one: -lost[one]
    )
    if not halved:
        return ""
    some = ", ".join(f"{lost[one]:,} of {total[one]:,} of '{names.classes[one]}'" for one in halved[:_EXAMPLES])
    more = f" and {len(halved) - _EXAMPLES:,} more classes" if len(halved) > _EXAMPLES else ""
    example = min(i for i in found.skipped if names.labels[i] in halved)
    return f"half of the images of a class or more cannot be used: {some}{more}, such as '{names.files[example]}'"


def _constant(found: Findings, names: Names) -> str:
    if not found.constant:
        return ""
    return (
        f"{_images(len(found.constant))} of one colour, such as {_some(found.constant, names)}: "
        "if they are not meant to be, see --depth (more than 8 bits) and --background (transparency)"
    )


def leaks(pairs: Sequence[Pair], names: Names, what: str = "identical to") -> list[str]:
    """Describe the leaks into each split from those before it, one sentence each."""
    said = []
    for split in SPLITS[1:]:
        for source in SPLITS[: SPLITS.index(split)]:
            some = [(a, b) for a, b in pairs if names.splits[a] == source and names.splits[b] == split]
            held_out = {b for _, b in some}
            if held_out:
                total, are = names.splits.count(split), "is" if len(held_out) == 1 else "are"
                images = f"{len(held_out):,} of {total:,} {_WORDS[split]} images {are} {what} a {_WORDS[source]} image"
                said.append(f"{images}, so accuracy is too high: {_some_pairs(some, names)}")
    return said


_WORDS = {"train": "training", "val": "validation", "test": "test"}


def _conflicts(pairs: Sequence[Pair], names: Names, what: str) -> str:
    if not pairs:
        return ""
    a, b = pairs[0]
    example = f"'{names.files[a]}' ({names.label(a)}) and '{names.files[b]}' ({names.label(b)})"
    count = len({i for pair in pairs for i in pair})
    noun = "pair of images has" if len(pairs) == 1 else f"pairs of images ({count:,} images) have"
    return f"{len(pairs):,} {noun} {what} and different labels: {example}"


def _copies(pairs: Sequence[Pair], names: Names) -> str:
    if not pairs:
        return ""
    return f"{_images(len(pairs))} identical to another of the same class: {_some_pairs(pairs, names)}"


def _images(count: int) -> str:
    return f"{count:,} image is" if count == 1 else f"{count:,} images are"


def _some(images: Collection[int], names: Names) -> str:
    return ", ".join(f"'{names.files[i]}'" for i in sorted(images)[:_EXAMPLES])


def _some_pairs(pairs: Sequence[Pair], names: Names) -> str:
    some = [f"'{names.files[b]}' and '{names.files[a]}'" for a, b in pairs[:1]]
    return "; ".join(some) + (f" and {len(pairs) - 1:,} more {'pairs' if len(pairs) > 2 else 'pair'}" if len(pairs) > 1 else "")
