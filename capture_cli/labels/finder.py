"""Find images by what the rows of a table say of them: a path, a file name, a name without extension.

finder = Finder(["cat/1.png"], [])
finder.find("photos/cat/1")     # "cat/1.png"

Names may be in another Unicode form: macOS takes an umlaut apart, other systems write it as one character.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from capture_cli.errors import DataError
from capture_cli.labels.names import plain


class Finder:
    """Finds files by what rows say of them."""

    def __init__(self, files: Sequence[str], others: Sequence[str]) -> None:
        self._files, self._others = files, others
        self._paths = {*files, *others}
        self._names = [self._index(files), self._index(others)]

    @staticmethod
    def _index(files: Iterable[str]) -> dict[str, list[str]]:
        index: dict[str, list[str]] = defaultdict(list)
        for file in files:
            name = file.rpartition("/")[2]
            index[name].append(file)
            index[name.rpartition(".")[0]].append(file)
        return index

    def find(self, text: str) -> str | None:
        """Find one file. Raises DataError if several have the name."""
        found = self._find(text)
        if found is None and not text.isascii() and (name := self._composed._find(_composed(text))) is not None:
            files = self._files_of[name]
            if len(files) > 1:
                raise _several(text, files)
            return files[0]
        return found

    @cached_property
    def _files_of(self) -> dict[str, list[str]]:
        """Name in composed form -> files."""
        index: dict[str, list[str]] = defaultdict(list)
        for file in (*self._files, *self._others):
            index[_composed(file)].append(file)
        return index

    @cached_property
    def _composed(self) -> "Finder":
        """Find names in composed form."""
        return Finder(*([*dict.fromkeys(map(_composed, files))] for files in (self._files, self._others)))

    def _find(self, text: str) -> str | None:
        if text in self._paths:  # with blanks and backslashes of its own
            return text
        text = _slashes(text).removeprefix("./")
        rest = text
        while rest:
            if rest in self._paths:
                return rest
            rest = rest.partition("/")[2]
        name = text.rpartition("/")[2]
        for index in self._names:
            found = index.get(name, ())
            if len(found) == 1:
                return found[0]
            matching = [file for file in found if f"/{file}".rpartition(".")[0].endswith(f"/{text}")] if "/" in text else []
            if len(matching) == 1:
                return matching[0]
            if found:
                raise _several(text, found)
        return None

    def in_other_case(self, text: str) -> str | None:
        """Return a file that has this name but for upper and lower case, and spaces."""
        name = plain(_slashes(text).rpartition("/")[2])
        return next((files[0] for index in self._names for key, files in index.items() if plain(key) == name), None)

    def count(self, values: Iterable[str]) -> int:
        """Count the values that name a file."""
        total = 0
        for value in values:
            try:
                total += self.find(value) is not None
            except DataError:
                total += 1
        return total


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _slashes(text: str) -> str:
    return text.strip().replace("\\", "/")


def _several(text: str, files: Sequence[str]) -> DataError:
    message = f"'{text}' names {len(files):,} images: '{files[0]}', '{files[1]}'"
    return DataError(message, "write their paths into the table")
