"""Whether a run is what was written: every line, the whole of it, and nothing after it.

    with open_run("runs/mine") as run:
        error = verify(run)                         # None, or what is wrong
        error = repair(run, Path("saved.jsonl"))    # the same, and what verifies is saved

A run verifies if the sequence and the chain of its lines hold, every record can be read, and an end line seals it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli.answers.visits import checked
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import KINDS, RunInfo
from capture_cli.runs import BATCHES

if TYPE_CHECKING:
    from capture_cli.runs import Run


def verify(reading: Run, keep: Callable[[bytes], object] = lambda _line: None) -> RecordsError | None:
    """Read all of it; what it was is in `reading.ending` afterwards. Returns what is wrong, or None.

    `keep` is given each line that verifies, newline included, up to the first that does not. A kind of record that this
    version does not know is checked by its chain alone.
    """
    run: RunInfo | None = None
    try:
        for line in reading.lines():
            if line.kind == "run":
                run = line.run(run)
            elif line.kind in BATCHES and run is not None:
                checked(line, run)
            elif line.kind in KINDS:
                line.record()
            keep(line.data + b"\n")
    except RecordsError as error:
        return reading.located(error)
    ending = reading.ending
    damage = ending.error(reading.name)
    if damage or ending.state == "sealed":
        return damage
    what = "one line verifies" if ending.lines == 1 else f"{ending.lines:,} lines verify"
    return RecordsError(f"{reading.name} is not sealed: {ending.sentence}", f"its {what}")


def repair(reading: Run, target: Path) -> RecordsError | None:
    """Verify, and save what verifies in the new file `target`, durably; nothing is changed in what is read.

    Returns what is wrong, or None where nothing is: then, and where not even the first line verifies, no file is left. What
    stands behind a line that does not verify is not saved: nothing proves that it belonged there.
    Raises UsageError if the file exists, CaptureError if it cannot be written.
    """
    try:
        with target.open("xb") as file:
            error = verify(reading, file.write)
            file.flush()
            os.fsync(file.fileno())
            saved = file.tell()
    except FileExistsError as failure:
        raise UsageError(f"'{target}' exists", "give --repair the name of a new file") from failure
    except OSError as failure:
        raise CaptureError(
            f"'{target}' cannot be written: {failure.strerror}", "give --repair the name of a new file"
        ) from failure
    if error is None or not saved:
        target.unlink()
    return error
