"""THE DOOR to a run: read its records, verified, without torch.

    with open_run("runs/mine") as run:              # a run folder, a .jsonl file, or "-" for stdin
        run.info.classes                            # the run record
        for record in run.records():                # typed records, one by one
            ...
        for visits in run.visits(["label", "loss"], phase="val"):
            visits["loss"]                          # float32 [N], one row a sample and visit
        run.ending                                  # how the records ended: sealed, unsealed, torn, damaged
        run.fold(summary, confusion)                # any number of answers from one pass
        for block in run.follow(run.cursor):        # what has been written since, without waiting
            ...
        run.images.read("cat/1.png")                # the file as it was used, verified; run.images_in(folder): where it is now

Nothing is handed out that does not verify: a line must be complete, follow the line before it and be of a kind that may come
there. Memory does not grow with the run.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from capture_cli.errors import CaptureError, UsageError
from capture_cli.runs.images import RunImages
from capture_cli.runs.lines import BATCHES, Cursor, Ending, Line, RewrittenError, batch_beginning
from capture_cli.runs.reading import Reading
from capture_cli.runs.run import Block, Fold, Run, read_once
from capture_cli.runs.visits import Visits

__all__ = [
    "BATCHES",
    "RECORDS",
    "Block",
    "Cursor",
    "Ending",
    "Fold",
    "Line",
    "RewrittenError",
    "Run",
    "RunImages",
    "Visits",
    "batch_beginning",
    "open_run",
]

RECORDS = "records.jsonl"


def open_run(run: str | os.PathLike[str]) -> Run:
    """Open a run folder, a file of records or, for `-`, stdin.

    Raises UsageError if there is no such thing, CaptureError if it cannot be read.
    """
    text = os.fspath(run)
    if text == "-":
        if sys.stdin is None:
            raise UsageError("there is no stdin", "name a run folder or file")
        return Run(read_once(Reading(os.dup(sys.stdin.fileno()), "stdin")), "stdin")
    path = Path(text)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if is_folder:
            path = path / RECORDS
            if not stat.S_ISREG(path.stat().st_mode):  # a FIFO in a folder from elsewhere would hang us
                raise UsageError(f"{str(path)!r} is not a regular file")
        return Run(lambda: _open(path), str(path), folder=Path(text) if is_folder else None)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"no {RECORDS} in {text!r}" if path != Path(text) else f"no such run: {text!r}"
        raise UsageError(
            what, "a run is a folder that `capture train` made, a .jsonl file of records, or - for stdin"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaptureError(f"{text!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(path: Path) -> Reading:
    return Reading(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))
