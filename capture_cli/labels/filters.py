"""`--include GLOB` and `--exclude GLOB`: which files of a source are looked at.

    files, skipped = choose_files(listed, include=["cat/*"], exclude=["*_old.png"])

`*` matches any text, `/` too, `?` one character, `[ab]` one of several, whatever their Unicode form. A pattern is compared with
the whole path, the file name, and every folder on the way: `old` and `old/` both mean everything below a folder `old`.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from unicodedata import normalize

from capture_cli.errors import DataError
from capture_cli.sources import Skipped


def choose_files(files: Sequence[str], *, include: Sequence[str], exclude: Sequence[str]) -> tuple[list[str], list[Skipped]]:
    """Split files into those to use and those that are excluded. Raises DataError for a pattern that matches nothing."""
    if not (include or exclude):
        return list(files), []
    wanted, unwanted = ({pattern: _matching(files, pattern) for pattern in patterns} for patterns in (include, exclude))
    for option, found in (("--include", wanted), ("--exclude", unwanted)):
        for pattern, matching in found.items():
            if not matching:
                raise DataError(
                    f"{option} {pattern} matches none of {len(files):,} images, such as '{min(files)}'",
                    "patterns are compared with paths in the folder: '*.png', 'cat/*', 'old'",
                )
    used = set(files) if not include else set().union(*wanted.values())
    used -= set().union(*unwanted.values())
    return [file for file in files if file in used], [Skipped(file, "excluded") for file in files if file not in used]


def _matching(files: Sequence[str], pattern: str) -> set[str]:
    glob = re.compile(translate(normalize("NFC", pattern.rstrip("/"))))
    found = set()
    for file in files:
        path = normalize("NFC", file)
        parts = path.split("/")
        if (
            glob.match(path)
            or any(glob.match(part) for part in parts)
            or any(glob.match("/".join(parts[:depth])) for depth in range(2, len(parts)))
        ):
            found.add(file)
    return found
