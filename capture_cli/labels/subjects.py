"""Patients, videos and the like, many images of which look alike: found by words in paths, or by a column of a table.

Images of one subject on both sides of the split count as right what is learned of the subject.

    group, keys = subjects_in_paths(["ill/person1_a.png", "well/x.png"])    # "person[ _-]?[0-9]+", ["person1", None]
    subject_columns(["lesion_id", "dx"], used=set())                        # [0]
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence

_WORDS = "patient|subject|subj|participant|person|donor|animal|mouse|video|clip|sequence|session|scene"
_IN_PATH = re.compile(rf"(?i)(?<![a-z])({_WORDS})[ _-]?[0-9]+")
_COLUMN = re.compile(rf"(?i)({_WORDS}|driver|lesion|case|study|specimen|slide)s?[ _-]?(id|uid|no|nr|num|number|name|code)?")


def subjects_in_paths(files: Sequence[str]) -> tuple[str, list[str | None]]:
    """Return the value of `--group` that finds the word that most paths hold, and the subject that each path names.

    Nothing is found if less than a tenth of the paths hold one.
    """
    found = [_IN_PATH.search(file) for file in files]
    words = Counter(match[1] for match in found if match)
    word, number = max(words.items(), key=lambda item: item[1], default=("", 0))
    if 10 * number < len(files):
        return "", [None] * len(files)
    return f"{word}[ _-]?[0-9]+", [match[0] if match and match[1] == word else None for match in found]


def subject_columns(columns: Sequence[str], *, used: Collection[int | str | None]) -> list[int]:
    """Return the places of columns that are called like subjects, but those in use, which are given by place or name."""
    return [at for at, name in enumerate(columns) if _COLUMN.fullmatch(name) and not {at, name} & set(used)]


def noun(column_or_group: str) -> str:
    """Return the word for a subject: `patient` for `Patient ID` and for `patient[ _-]?[0-9]+`."""
    match = _COLUMN.match(column_or_group)
    return match[1].lower() if match else "subject"
