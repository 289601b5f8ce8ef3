"""The error that ended a run, and warnings, from its events. Records have them not: they are about more than the run.

Each training of a run with folds has events of its own; all are read.

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
from capture_cli.runs.names import fold_folders

_BYTES = 1 << 16
"""Events are looked for in so many bytes at the end."""


def failure(folder: Path | None) -> str:
    """Return the error with which the run in `folder` ended last; empty if there is none."""
    *_, end = [{}, *(one for one in _last_events(folder) if one.get("event") == "end")]
    error = end.get("error") if end.get("status") == "failed" else None
    return error if isinstance(error, str) else ""


def warning(folder: Path | None, category: str) -> str:
    """Return the last warning of `category` among the events of the run in `folder`; empty if there is none.

    Of a run with folds it is that of the last training which has one, and says of how many.
    """
    given = [one for one in _last_events(folder) if (one.get("event"), one.get("category")) == ("warning", category)]
    text = given[-1].get("text") if given else ""
    if not isinstance(text, str):
        return ""
    trainings = {one["training"] for one in given} - {""}
    more = f"; {len(trainings)} trainings have this warning" if len(trainings) > 1 else ""
    return f"{given[-1]['training']}: {text}{more}" if trainings else text


def _last_events(folder: Path | None) -> list[dict[str, Any]]:
    """Read the last events of a run, or of each of its trainings by number, with the `training`: `fold-1`, else empty."""
    if folder is None:
        return []
    found = []
    trainings = fold_folders(folder)
    for one in trainings or [folder]:
        with suppress(OSError), (one / EVENTS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _BYTES))
            for line in file.read().splitlines():
                with suppress(RecordsError):
                    found.append({**loads(line), "training": one.name if trainings else ""})
    return found
