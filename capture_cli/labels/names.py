"""Class names that differ only in case, spaces at their ends, or Unicode form.

similar(["Cat", "cat"])         # [["Cat", "cat"]]
merged({"a.png": "Cat", ...})   # one spelling for all: the most frequent one
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence


def similar(names: Iterable[str]) -> list[list[str]]:
    """Group names that are equal but for case, spaces and Unicode form; names without such twins are not listed."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[plain(name)].append(name)
    return [group for group in alike.values() if len(group) > 1]


def merged(labels: Mapping[str, str], classes: Sequence[str] = ()) -> dict[str, str]:
    """Give similar names one spelling: that of `classes`, else the most frequent, then the first in code point order."""
    counts = Counter(labels.values()) + Counter(dict.fromkeys(classes, len(labels) + 1))
    spelling = {name: max(sorted(group), key=counts.__getitem__) for group in similar(counts) for name in group}
    return {file: spelling.get(label, label) for file, label in labels.items()}


def plain(name: str) -> str:
    """Write a name without its case, its Unicode form, and spaces at its ends or in a row."""
    return unicodedata.normalize("NFC", " ".join(name.split())).casefold()
