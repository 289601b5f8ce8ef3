"""The end of a recorder, also of one that nobody closes: a notebook cell that is run again, a script that ends in the middle.

The end of the program closes what is open, so that the records say how it ended. A recorder on the output of an open one of the
same process takes it over, unless a `with` block will close that one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder
    from capture_cli.runfolder import Output
    from capture_cli.writer import BatchWriter

_MAX_ERROR = 300
"""Characters kept of the error that ended a run."""

_open: weakref.WeakValueDictionary[str, Recorder] = weakref.WeakValueDictionary()
"""Recorders that write to a path, by that path."""


def register(recorder: Recorder, out: str) -> None:
    """Have `recorder` closed at the end of the program, if it is still open."""
    if out != "-":
        _open[_key(out)] = recorder


def take_over(out: str) -> None:
    """Close the recorder of this process that still writes to `out`, with a warning."""
    recorder = _open.pop(_key(out), None)
    if recorder is not None and _is_abandoned(recorder):
        warnings.warn(f"the recorder that still wrote to '{out}' is closed as interrupted: it was never closed", stacklevel=4)
        recorder.close("interrupted")


def _is_abandoned(recorder: Recorder) -> bool:
    """Return True if it is open in this process and no `with` block will close it."""
    values = vars(recorder)
    return not (values["_closed"] or values["_entered"]) and os.getpid() == values["_pid"]


def seal(writer: BatchWriter, output: Output, status: str, why: str, *, classes: int) -> None:
    """Write what is pending, the sums of open phases and the end; `why` it failed goes to the events.

    The run record of a run without a batch has `classes`. Raises UsageError for a batch that does not fit.
    """
    unfit = None
    try:
        writer.flush()
    except UsageError as error:  # a batch that was on its way from the device
        unfit, status, why = error, "failed", why or one_line(error)
    writer.begin(classes)
    for phase in list(writer.phases.open):
        writer.end_phase(phase)
    writer.seal(status)
    output.event("end", status=status, **({"error": why} if status == "failed" and why else {}))
    if unfit:
        raise unfit


def one_line(error: BaseException) -> str:
    """Return type and text of an error in one line of limited length: `ValueError: the loss is NaN`."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - code of others, after an error
        text = ""
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR - 3]}..."


@atexit.register
def _close_all() -> None:
    """Close what is open: `failed` after an error that nobody caught, else `interrupted`."""
    error = getattr(sys, "last_value", None)
    for recorder in list(_open.values()):
        with contextlib.suppress(Exception):  # at this time nobody can do anything about it
            recorder.close("interrupted" if error is None else "failed", error=error)


def _key(out: str) -> str:
    return os.path.realpath(Path(out))
