"""The error that ended a run, from its events. Records have it not: the same run fails in other words on another machine.

failure(run.folder)         # "the device is out of memory"; "" of a run that did not fail, or whose events do not tell
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import orjson

from capture_cli.runs.listing import EVENTS

_BYTES = 1 << 16
"""The last event is looked for in so many bytes at the end."""


def failure(folder: Path | None) -> str:
    """Return the error in the last event of the run in `folder`; empty if there is none."""
    if folder is None:
        return ""
    with suppress(OSError, ValueError, IndexError, TypeError, KeyError), (folder / EVENTS).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _BYTES))
        event = orjson.loads(file.read().splitlines()[-1])
        if (event["event"], event["status"]) == ("end", "failed") and isinstance(event["error"], str):
            return event["error"]
    return ""
