"""Recorders that nobody closes: a notebook cell that is run again after an error, a script that ends in the middle.

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

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder

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


@atexit.register
def _close_all() -> None:
    """Close what is open: `failed` after an error that nobody caught, else `interrupted`."""
    status = "failed" if getattr(sys, "last_value", None) is not None else "interrupted"
    for recorder in list(_open.values()):
        with contextlib.suppress(Exception):  # at this time nobody can do anything about it
            recorder.close(status)


def _key(out: str) -> str:
    return os.path.realpath(Path(out))
