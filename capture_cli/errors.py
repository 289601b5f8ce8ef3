"""Every error a user can meet, each with the way out and the exit code of the command that meets it.

    CaptureError            1  the work failed
    ├── UsageError          2  an option that cannot be honoured
    ├── DataError           3  no usable images or labels
    │   └── Unusable        3  one file that cannot be trained on (becomes a `skip` record)
    └── RecordsError        4  records that are damaged, untrue or of another format

Foreign errors (OSError, PIL's, torch's) are mapped to these where they arise, with `raise ... from error`;
the command line catches CaptureError once and prints it as one line on stderr.
"""


class CaptureError(Exception):
    """What went wrong, where, and how to go on.

    `message` names the thing and the value; `hint` is the way out, a clause without a full stop.
    Either may quote file names, which are hostile text: whoever prints them makes them safe first.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CaptureError):
    """An option, or a pair of options, that cannot be honoured."""

    exit_code = 2


class DataError(CaptureError):
    """A folder from which nothing can be learnt."""

    exit_code = 3


class Unusable(DataError):  # noqa: N818 - the term of the format
    """One file that cannot be used; `reason` is a short code such as `truncated`.

    `detail` adds what a person would ask next. It is a function of the file alone: no address, clock or absolute path,
    since it goes into the records.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RecordsError(CaptureError):
    """Records that do not verify or cannot be read; `line` counts from 1, 0 where no line is meant."""

    exit_code = 4

    def __init__(self, message: str, hint: str = "", *, line: int = 0) -> None:
        super().__init__(message, hint)
        self.line = line
