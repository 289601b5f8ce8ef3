"""Groups: images that stay on one side of the split, such as those of one patient, video or burst.

    groups = groups_of(files, "P[0-9]+", paths={}, column={})       # one key for each file

`--group` takes a column of the label table, a rule as `--labels` does (`parent`, `field:1`), or a regular expression, searched
in the path: its group `group`, or else all of its match, is the key. A file without a key is a group of its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from capture_cli.errors import DataError, UsageError
from capture_cli.labels.rules import parse_rule

_RULE = re.compile(r"(parent|folder|field):[^/]*|parent|prefix|suffix|start|end")


def check_group(text: str) -> None:
    """Raise UsageError for a value of `--group` that is neither a column's name, nor a rule, nor a regular expression."""
    _reader(text)


def groups_of(files: Sequence[str], text: str, *, paths: Mapping[str, str], column: Mapping[str, str] | None) -> list[str]:
    """Return the group of each file; `column` maps files to values if `text` is a column. Raises DataError if none has one."""
    if column is None:
        rule, pattern = _reader(text)
        keys = [rule(paths.get(file, file)) if rule else _key(pattern, file) for file in files]
    else:
        keys = [column.get(file) for file in files]
    if not any(keys):
        raise DataError(
            f"--group {text} finds no group in any of {len(files):,} images, such as '{files[0]}'",
            "give a regular expression that matches the part that a group shares, such as 'patient_[0-9]+'",
        )
    return [f"group {key}" if key else file for key, file in zip(keys, files, strict=True)]


def _reader(text: str) -> tuple[Callable[[str], str | None] | None, re.Pattern[str] | None]:
    """Return the rule or the pattern that `--group TEXT` is."""
    if _RULE.fullmatch(text):
        rule = parse_rule(text)
        return (rule.label_of if rule else None), None
    try:
        return None, re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--group {text} is not a regular expression: {error}", "put it between single quotes, such as 'patient_[0-9]+'"
        ) from error


def _key(pattern: re.Pattern[str] | None, file: str) -> str | None:
    match = pattern.search(file) if pattern else None
    if match is None or pattern is None:
        return None
    return match["group"] if "group" in pattern.groupindex else match[1] if pattern.groups else match[0]
