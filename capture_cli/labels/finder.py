"""Find images by what the rows of a table say of them: a path, a file name, a name without extension.

finder = Finder(["cat/1.png"], [])
finder.find("photos/cat/1")     # "cat/1.png"
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from capture_cli.errors import DataError


class Finder:
    """Finds files by what rows say of them."""

    def __init__(self, files: Sequence[str], others: Sequence[str]) -> None:
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
        if text in self._paths:  # with blanks and backslashes of its own
            return text
        text = text.strip().replace("\\", "/").removeprefix("./")
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
                message = f"'{text}' names {len(found):,} images: '{found[0]}', '{found[1]}'"
                raise DataError(message, "write their paths into the table")
        return None

    def in_other_case(self, text: str) -> str | None:
        """Return a file that has this name but for upper and lower case."""
        name = text.strip().rpartition("/")[2].casefold()
        return next((files[0] for index in self._names for key, files in index.items() if key.casefold() == name), None)

    def count(self, values: Iterable[str]) -> int:
        """Count the values that name a file."""
        total = 0
        for value in values:
            try:
                total += self.find(value) is not None
            except DataError:
                total += 1
        return total
