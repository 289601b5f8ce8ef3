"""Recorders that were made in one process and record in others, as with `torch.multiprocessing.spawn`, `ddp_spawn`, `ddp_fork`.

Each process that records writes the file of its rank, as if it had made the recorder itself. That is possible until the first
record is written:

* Sent to another process (pickled), a recorder goes as its settings. The sender gives up its file, which is still empty; the
  receiver opens its own with the first use, when its rank is known. The sender's `close` then does nothing.
* A forked process opens its file with the first use as well. That of rank 0 is locked by the parent, so the process takes it
  under a lock that only such processes use. The parent sees that its file is not empty, and writes nothing.

Nobody closes a recorder in these processes: their end does, as `completed` unless they raised.
"""

from __future__ import annotations

import fcntl
import os
import sys
from multiprocessing import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture_cli.errors import CaptureError, UsageError
from capture_cli.journal import Journal
from capture_cli.recorder.opening import current_rank, open_records
from capture_cli.runfolder import EVENTS, RECORDS, adopt_output

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder

_IN_EACH = "open a recorder in each process, all with the same run folder"

_HAS_SINKS = "it has sinks, which work only where they were opened"


def to_send(recorder: Recorder) -> dict[str, Any]:
    """Return the settings of a recorder for another process; give up its file. Raises UsageError if that cannot be."""
    values = vars(recorder)
    if is_waiting(recorder):
        return dict(values["_later"])
    if not values["_sent"]:
        _give_up(recorder)
    settings: dict[str, Any] = values["_settings"]
    return settings | {"model": values["_model"], "force": False}


def _give_up(recorder: Recorder) -> None:
    values = vars(recorder)
    settings, output = values["_settings"], values["_output"]
    reasons = {
        "it is closed": values["_closed"],
        "it has recorded here already": output.journal.lines and not settings["append"],
        "it writes to standard output": settings["out"] == "-",
        _HAS_SINKS: settings["sinks"],
        "it watches a loss function or loader here": values["_watch"] is not None,
    }
    if reason := next((text for text, holds in reasons.items() if holds), ""):
        raise UsageError(f"the recorder of '{output.where}' cannot be sent to another process: {reason}", _IN_EACH)
    values["_writer"].close()
    if not settings["append"] and output.descriptor is None:
        Path(output.where).unlink(missing_ok=True)
    elif not settings["append"]:
        for name in (RECORDS, EVENTS):
            os.unlink(name, dir_fd=output.descriptor)
    output.close()
    values["_closed"] = values["_sent"] = True


def received(settings: dict[str, Any]) -> Recorder:
    """Make a recorder that opens its file with its first use."""
    from capture_cli.recorder import Recorder

    recorder = Recorder.__new__(Recorder)
    vars(recorder)["_later"] = settings
    return recorder


def is_waiting(recorder: Recorder) -> bool:
    """Return True for a recorder that was received and has not been used."""
    return "_later" in vars(recorder)


def open_received(recorder: Recorder, attribute: str) -> None:
    """Open a recorder that was received, for its `attribute`. Raises what the constructor raises."""
    if attribute.startswith("__") or not is_waiting(recorder):
        raise AttributeError(f"a Recorder has no {attribute!r}")
    later = vars(recorder).pop("_later")
    try:
        recorder.__init__(**later | {"model": None})  # type: ignore[misc]
    except BaseException:
        vars(recorder)["_later"] = later
        raise
    vars(recorder)["_model"] = later["model"]
    _close_at_end(recorder)


def take_from_parent(recorder: Recorder) -> None:
    """Open the file of this process for a recorder that it got by a fork. Raises UsageError if that cannot be."""
    values = vars(recorder)
    settings, output = values["_settings"], values["_output"]
    reasons = {
        "it has recorded there already": output.journal.lines,
        "it continues a run there": settings["append"],
        "it writes to standard output": settings["out"] == "-",
        _HAS_SINKS: settings["sinks"],
    }
    if reason := next((text for text, holds in reasons.items() if holds), ""):
        raise UsageError(
            f"the recorder of '{output.where}' belongs to the process that this one was forked from: {reason}", _IN_EACH
        )
    rank = current_rank()
    if rank:
        opened, _ = open_records(settings["out"], rank=rank, force=settings["force"], append=False, needs_folder="")
    else:
        opened = adopt_output(settings["out"], _adopted)
    values["_pid"] = os.getpid()
    recorder.begin(opened, None)
    _close_at_end(recorder)


def _adopted(descriptor: int, name: str) -> Journal:
    """Return the journal of an empty file whose lock the parent holds. Raises CaptureError if another process has taken it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        empty = not os.fstat(descriptor).st_size
    except OSError:
        empty = False
    if not empty:
        os.close(descriptor)
        raise CaptureError(f"'{name}' is being written by another process", _IN_EACH)
    return Journal(descriptor, name, is_file=True)


def require_here(recorder: Recorder) -> None:
    """Raise UsageError unless this process may record; open the file of one that got the recorder by a fork."""
    values = vars(recorder)
    where = values["_output"].where
    if values["_closed"]:
        state = "was sent to other processes, which record" if values["_sent"] else "is closed"
        raise UsageError(f"the recorder of '{where}' {state}", "record inside its `with` block")
    if os.getpid() != values["_pid"]:
        take_from_parent(recorder)
    elif is_taken(values["_output"].journal):
        raise UsageError(f"'{where}' is written by a process that was forked from this one", "record there")


def is_taken(journal: Journal) -> bool:
    """Return True if a forked process has written to a file that this one has written nothing to."""
    return journal.is_file and not journal.lines and journal.size > 0


def _close_at_end(recorder: Recorder) -> None:
    """Close the recorder when a process of `multiprocessing` ends, which calls nothing else."""

    def close() -> None:
        error = sys.exc_info()[1]
        failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
        recorder.close("failed" if failed else "completed", error=error if failed else None)

    util.Finalize(None, close, exitpriority=10)
