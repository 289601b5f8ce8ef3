"""The error that ended a run, and warnings, from its events. Records have them not: they are about more than the run.

failure(run.folder)                     # "the device is out of memory"; "" if it did not fail, or its events do not tell
warning(run.folder, "trained-on")       # the last warning of this category, "" without one
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from capture_cli.runs.listing import EVENTS

_BYTES = 1 << 16
"""Events are looked for in so many bytes at the end."""


def failure(folder: Path | None) -> str:
    """Return the error in the last event of the run in `folder`; empty if there is none."""
    *_, event = [{}, *_last_events(folder)]
    error = event.get("error") if (event.get("event"), event.get("status")) == ("end", "failed") else None
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
            with suppress(ValueError):
                event = orjson.loads(line)
                found += [event] if isinstance(event, dict) else []
    return found
