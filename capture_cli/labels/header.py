"""Tell whether the first line of a label table names its columns, where its first cell also names an image.

is_header(["0", "1"], [["0", "bag"], ["1", "cat"]], wanted=())              # True: names that pandas gives
is_header(["7.png", "cat"], [["8.png", "dog"], ["9.png", "cat"]], wanted=()) # False: a row like the others
"""

import re
from collections.abc import Collection, Sequence

_LABEL_WORDS = {"label", "labels", "class", "target", "category"}


def is_header(cells: Sequence[str], rows: Sequence[Sequence[str]], *, wanted: Collection[str]) -> bool:
    """Judge the first line by the `rows` below it; `wanted` are the columns that the user names."""
    if re.fullmatch(r"[^\W\d]+", cells[0]):
        return True
    places = [str(number) for number in range(1, len(cells) + 1)]  # what columns without names are called
    if wanted and all(name in cells and name != places[cells.index(name)] for name in wanted):
        return True
    is_counted = list(cells) in (places, [str(number) for number in range(len(cells))])
    is_like_others = any(row[at].strip() == cell for row in rows for at, cell in enumerate(cells) if at)
    if any(cells[0] in _names(row[0]) for row in rows):
        return is_counted or not is_like_others
    return not is_like_others and (is_counted or any(cell.casefold() in _LABEL_WORDS for cell in cells[1:]))


def _names(text: str) -> tuple[str, str, str]:
    """Return the ways to write the image that a cell names: as it is, without folders, and without its extension too."""
    name = text.strip().rpartition("/")[2]
    return text.strip(), name, name.rpartition(".")[0]
