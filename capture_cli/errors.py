"""The errors a user can meet, each with a way out and the exit code of the command that meets it.

    CaptureError            1  the work failed
    ├── UsageError          2  an option that is not valid
    ├── DataError           3  no usable images or labels
    │   └── Unusable        3  one file that cannot be trained on (becomes a `skip` record)
    └── RecordsError        4  records that are damaged or untrue
        └── FormatError     4  records of another version of the format

Foreign errors (OSError, Pillow's, torch's) are mapped to these where they arise, with `raise ... from error`. The command line
catches CaptureError once and prints it as one line on stderr.
"""

import os
import re
from collections.abc import Iterable

_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s\"'/@]*|[^\s\"'/:@]*:(?!\d+/)[^\s\"'@]*)(?:@[^\s\"'/@]*)*@")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~])?")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z])")
_SECRETS = re.compile(r"(?i)([?&;][^=&;\s\"']*(?:passw|pwd|token|secret|key)[^=&;\s\"']*=)[^&;\s\"']*")


def redacted(text: str) -> str:
    """Take user names, passwords and other secrets out of every URI in `text`."""
    return _SECRETS.sub(r"\1***", _CREDENTIALS.sub("", text))


def quoted(error: BaseException, most: int = 200) -> str:
    """Return what an error of another package says, for a message: its first line, without escape codes and passwords.

    A line of more than `most` characters ends with its last whole sentence in them, else after a word, with an ellipsis. An
    error that says nothing is called by its type.
    """
    text = redacted(_ESCAPES.sub("", str(error))).strip().partition("\n")[0].strip()
    if len(text) > most:
        ends = [found.start() for found in _SENTENCE_END.finditer(text[: most + 2])]
        begun = text[: most - 1]
        text = text[: ends[-1]] if ends else f"{begun.rpartition(' ')[0] or begun}…"
    return text.removesuffix(".") or type(error).__name__


def shown(value: object) -> str:
    """Return the repr of a value for a message; Python refuses to write whole numbers of very many digits."""
    try:
        return repr(value)
    except ValueError:
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def absent(path: str | os.PathLike[str], kind: str) -> str:
    """Say why there is no `kind` (file, folder) at `path`: nothing is there, something else, or a link that leads nowhere."""
    name = os.fspath(path)
    if os.path.islink(name) and not os.path.exists(name):  # noqa: PTH110, PTH114
        return f"'{name}' is a link to '{os.readlink(name)}', which does not exist"  # noqa: PTH115
    if os.path.isdir(name):  # noqa: PTH112
        return f"'{name}' is a folder"
    return f"'{name}' is a file" if os.path.isfile(name) else f"no such {kind}: '{name}'"  # noqa: PTH113


def closest(name: str, known: Iterable[str], number: int = 1) -> list[str]:
    """Return the names in `known` that somebody who typed `name` may have meant, the closest first; case does not count.

    Where none is close, they are those that begin with it.
    """
    import difflib  # in errors alone: most commands never need it

    names = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), names, n=number)
    longer = [one for one in names if one.startswith(name.lower())] if len(name) > 1 else []
    return [names[one] for one in (close or longer[:number])]


def any_of(choices: Iterable[str]) -> str:
    """Join names as a choice: `adamw, adam or sgd`. Of none, it is empty."""
    *others, last = [*choices] or [""]
    return f"{', '.join(others)} or {last}" if others else last


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", *, number: int = 1) -> str:
    """Return the hint for a name that there is not: the closest of `known`, or `otherwise` if none is close."""
    close = closest(name, known, number)
    return f"did you mean {any_of(close)}?" if close else otherwise


class CaptureError(Exception):
    """A failure: what went wrong, where, and the way out.

    `message` names the thing and the value. `hint` is the way out, a clause without a full stop. `str(error)` shows both. They
    may quote file names, which are hostile text: make them safe before printing.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return "; ".join(part for part in (self.message, self.hint) if part)


class UsageError(CaptureError):
    """An option, or a combination of options, that is not valid."""

    exit_code = 2


class DataError(CaptureError):
    """A folder that a model cannot be trained on."""

    exit_code = 3


class Unusable(DataError):  # noqa: N818 - the term of the format
    """One file that cannot be used; `reason` is a short code such as `truncated`.

    `detail` says more. It is a function of the file alone, without addresses, times or absolute paths, since it goes into the
    records.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RecordsError(CaptureError):
    """Records that do not verify or cannot be read; `line` counts from 1 and is 0 where no line is at fault."""

    exit_code = 4

    def __init__(self, message: str, hint: str = "", *, line: int = 0) -> None:
        super().__init__(message, hint)
        self.line = line


class FormatError(RecordsError):
    """Records in a format that this version does not read."""
