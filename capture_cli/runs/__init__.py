"""THE DOOR to a run: read its records, verified, without torch.

    with open_run("runs/mine") as run:              # a run folder, a .jsonl file, a name in runs/, "last", or "-" for stdin
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
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, overload

from capture_cli.errors import CaptureError, UsageError, absent
from capture_cli.runs.cursor import Cursor, RewrittenError
from capture_cli.runs.file import Block, File
from capture_cli.runs.images import RunImages
from capture_cli.runs.lines import BATCHES, Ending, Line, batch_beginning
from capture_cli.runs.merging import FoldedEpoch, folds_of, summed
from capture_cli.runs.names import A_RUN_IS, RECORDS, RECORDS_OF_RANK, find_run, fold_folders, run_folders
from capture_cli.runs.reading import Reading, read_once
from capture_cli.runs.run import Fold, Run
from capture_cli.runs.visits import Visits

R = TypeVar("R", bound=Run)

__all__ = [
    "BATCHES",
    "RECORDS",
    "Block",
    "Cursor",
    "Ending",
    "Fold",
    "FoldedEpoch",
    "Line",
    "RewrittenError",
    "Run",
    "RunImages",
    "Visits",
    "batch_beginning",
    "folds_of",
    "is_training",
    "open_run",
    "summed",
]


@overload
def open_run(run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Run: ...
@overload
def open_run(run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, kind: type[R]) -> R: ...
def open_run(run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, kind: type[Run] = Run) -> Run:
    """Open a run folder, a file of records or, for `-`, stdin; several files of one run are read as one.

    A run folder holds records.jsonl and, from other processes of a distributed training, records-rank1.jsonl, ...; each may be
    compressed and then ends in .gz or .zst. That of a run with folds holds a run folder for each, see
    capture_cli.runs.merging. What is no path is a name, as on the command line (capture_cli.runs.names). The run is of class
    `kind`. Raises UsageError if there is no such thing, CaptureError if it cannot be read.
    """
    names = [os.fspath(one) for one in ([run] if isinstance(run, str | os.PathLike) else run)]
    files: list[File] = []
    with ExitStack() as undo:
        for at, name in enumerate(names):
            if not name.strip():
                raise UsageError("the name of the run is empty", A_RUN_IS)
            names[at] = _found(name)
            for path in _paths(names[at]):
                files.append(_file(path))
                undo.callback(files[-1].close)
        undo.pop_all()
    if not files:
        raise UsageError("no run is named", A_RUN_IS)
    folder = Path(names[0]) if len(names) == 1 and files[0].name != names[0] and names[0] != "-" else None
    several = str(folder) if folder else f"{files[0].name} and {len(files) - 1} more"
    is_one = len(files) == 1 and folder in (None, Path(files[0].name).parent)
    return kind(files, files[0].name if is_one else several, folder=folder)


def _found(name: str) -> str:
    """Return the path that a name stands for, as on the command line; of a path itself."""
    if name == "-":
        return name
    try:
        found = find_run(name)
        return name if found == Path(name) else str(found)
    except PermissionError:
        return name  # opening it says why not


def is_training(run: str | os.PathLike[str]) -> bool:
    """Tell a training from an evaluation or a prediction, whose run record names the digest of the weights they used.

    A run that cannot be read counts as a training: whoever opens it is told what is wrong.
    """
    try:
        with open_run(run) as opened:
            return "weights_digest" not in opened.info.config
    except CaptureError:
        return True


def _paths(name: str) -> list[str]:
    """The files that `name` stands for: itself, or those of a run folder by rank, of each rank the plain one before others.

    Of a run with folds they are those of every training.
    """
    if name != "-" and (folds := fold_folders(Path(name))):
        return [path for fold in folds for path in _paths(str(fold))]
    try:
        if name == "-" or not Path(name).is_dir():
            return [name]
        found = sorted(
            (int(match[1] or 0), one) for one in Path(name).iterdir() if (match := RECORDS_OF_RANK.fullmatch(one.name))
        )
        paths = list(dict(reversed(found)).values())[::-1]
        if special := [path for path in paths if not path.is_file()]:  # a FIFO in a folder from elsewhere would hang us
            raise UsageError(f"'{special[0]}' is not a regular file")
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    if not found or found[0][0]:
        holds_runs = not found and run_folders(Path(name))
        raise UsageError(f"no {RECORDS} in {name!r}", f"it holds runs: see `capture runs {name}`" if holds_runs else A_RUN_IS)
    return list(map(str, paths))


def _file(path: str) -> File:
    """Open one file. Raises UsageError if it is not there, CaptureError if it cannot be read."""
    if path == "-":
        if sys.stdin is None:
            raise UsageError("there is no stdin", "name a run folder or file")
        return File(read_once(Reading(os.dup(sys.stdin.fileno()), "stdin")), "stdin")
    try:
        return File(lambda: Reading(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path), path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error


def _unreadable(name: str, error: OSError | ValueError) -> CaptureError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UsageError(absent(name, "run"), A_RUN_IS)
    return CaptureError(f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}")
