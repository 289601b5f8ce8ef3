"""The error that ended a run, and warnings, from its events. Records have them not: they are about more than the run.

failure(run.folder)                     # "the device is out of memory"; "" if it did not fail, or its events do not tell
warning(run.folder, "trained-on")       # the last warning of this category, "" without one
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from capture_cli.errors import RecordsError
from capture_cli.records.values import loads
from capture_cli.runs.listing import EVENTS

_BYTES = 1 << 16
"""Events are looked for in so many bytes at the end."""


def failure(folder: Path | None) -> str:
    """Return the error with which the run in `folder` ended last; empty if there is none."""
    *_, end = [{}, *(one for one in _last_events(folder) if one.get("event") == "end")]
    error = end.get("error") if end.get("status") == "failed" else None
    return error if isinstance(error, str) else ""


def warning(folder: Path | None, category: str) -> str:
    """Return the last warning of `category` among the events of the run in `folder`; empty if there is none."""
    texts = [
        one.get("text") for one in _last_events(folder) if (one.get("event"), one.get("category")) == ("warning", category)
    ]
    return texts[-1] if texts and isinstance(texts[-1], str) else ""


def _last_events(folder: Path | None) -> list[dict[str, Any]]:
    if folder is None:
        return []
    found = []
    with suppress(OSError), (folder / EVENTS).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _BYTES))
        for line in file.read().splitlines():
            with suppress(RecordsError):
                found.append(loads(line))
    return found
