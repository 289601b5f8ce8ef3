"""Runs by name: the words for a run on the command line, and the runs that a folder holds.

    find_run("runs/mine")       # a path
    find_run("mine")            # a run below runs/ in the current folder; also "sweep/lr-0.1"
    find_run("last")            # the run in runs/ that was written to last; the same as "@1"
    find_run("@2")              # the one before it

A path that is a run comes first, then a name, then `last` and `@N`, then folders that hold runs, in the same order. Nothing is
read but names and times, and the first bytes of files.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from capture_cli.errors import CaptureError, UsageError, absent, closest

RUNS = Path("runs")
"""The folder in which runs are made and found by name."""
RECORDS = "records.jsonl"
CONFIG = "config.toml"
BEST_MODEL = "best.safetensors"
MODEL = "model.safetensors"
FOLD = re.compile(r"fold-([1-9][0-9]{0,3})")
"""The run folder of one training of a run with folds."""
RECORDS_OF_RANK = re.compile(r"records(?:-rank([1-9][0-9]{0,5}))?\.jsonl(?:\.gz|\.zst)?")
A_RUN_IS = "a run is a folder that `capture train` made, a .jsonl file of records, or - for stdin"
_FIRST_BYTES = b'{"seq":0,"kind":"run",'
_LONGEST = 255
"""Bytes that the name of a file may have."""
_PLACE = re.compile(r"@([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Place:
    """A run folder or a file of records, and when the records were written to last (seconds since 1970)."""

    folder: Path
    written: float


def find_run(
    text: str, *, having: str | tuple[str, ...] = (), counts: Callable[[Path], bool] | None = None, runs: Path = RUNS
) -> Path:
    """Return the path of the run that `text` names; what is there may still not be a run.

    `having` names files, such as `model.safetensors`: `last` and `@N` then count only the runs that have one of them, and
    those of which `counts` says so. Raises UsageError, with the closest name, if there is no such run.
    """
    path = Path(text)
    if not text.strip():
        raise UsageError("the name of the run is empty", A_RUN_IS)
    if any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
        raise UsageError(f"no such run: '{text[:40]}...'", A_RUN_IS)
    if "\0" in text or path.is_file() or holds_run(path):
        return path
    named = path if ".." in path.parts else runs / path  # an absolute path stays itself
    if holds_run(named):
        return named
    place = _PLACE.fullmatch("@1" if text == "last" else text)
    if place and not holds_runs(path):
        return _counted(text, int(place[1]), having, counts, runs)
    there = [one for one in (path, named) if one.exists()]
    if there:  # no run, but maybe a folder of runs; any other folder hides none
        return next(filter(holds_runs, there), there[0]) if len(there) > 1 else there[0]
    raise UsageError(absent(text, "run"), _did_you_mean(text, runs))


def hidden_by(text: str, runs: Path = RUNS) -> Path | None:
    """Return the run or folder of runs called `text` in `runs`, where a path comes before it; None for `./text`."""
    path = Path(text)
    named = runs / path
    is_name = text == str(path) and named != path and ".." not in path.parts
    return named if is_name and (holds_run(named) or holds_runs(named)) else None


def holds_run(folder: Path) -> bool:
    """Tell if `folder` is a run folder: records are in it."""
    return _written(folder) is not None


def holds_runs(folder: Path) -> bool:
    """Tell if runs or files of records are in `folder`, or in a folder in it."""
    try:
        return bool(run_folders(folder) or run_files(folder) or folders_of_runs(folder))
    except CaptureError:  # it cannot be listed
        return False


def fold_folders(folder: Path) -> list[Path]:
    """List the run folders of the trainings of a run with folds that have begun, by number; none of any other folder.

    Such a run has its options in the folder itself: a folder in which somebody keeps runs called so is none.
    """
    try:
        if not (folder / CONFIG).is_file() or (folder / RECORDS).exists():
            return []
        found = [(int(match[1]), one) for one in folder.iterdir() if (match := FOLD.fullmatch(one.name))]
        return [one for _, one in sorted(found) if not one.is_symlink() and _written(one) is not None]
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return []


def name_of(run: Path) -> str:
    """Return the name of a run's folder; of a training of a run with folds both names, as `mine-fold-1`."""
    above = run.resolve().parent
    return f"{above.name}-{run.name}" if FOLD.fullmatch(run.name) and fold_folders(above) else run.name


def origin_of(model: Mapping[str, Any]) -> str:
    """Name the model that an evaluation or a prediction is of, by the `model` of its run record: `runs/mine, epoch 5`.

    Empty for a training, and where the record does not say.
    """
    file, epoch = model.get("file"), model.get("epoch")
    if not isinstance(file, str):
        return ""
    path = Path(file)
    name = path.parent if path.name in (MODEL, BEST_MODEL) and path.parent != Path() else path
    return f"{name}, epoch {epoch}" if isinstance(epoch, int) else f"{name}"


def demand_one_training(run: Path, why: str = "each with a model of its own") -> None:
    """Raise UsageError for a run with folds where one training is needed."""
    if folds := fold_folders(run):
        number = f"{len(folds)} trainings" if len(folds) > 1 else "folds"
        raise UsageError(f"'{run}' has {number}, {why}", f"name one of them, such as {folds[0]}")


def has_best_model(run: Path | None) -> bool:
    """Tell if a run folder has a model of its best epoch, which predict, evaluate and export use."""
    return run is not None and (run / BEST_MODEL).is_file()


def place_of(run: Path) -> Place | None:
    """Return a run folder as `run_folders` does, or a file as `run_files` does; None for any other folder."""
    written = run.stat().st_mtime if run.is_file() else _written(run)
    return None if written is None else Place(run, written)


def folders_of_runs(folder: Path) -> list[Path]:
    """List the folders in `folder` that are no runs, but hold some."""
    try:
        inside = sorted(one for one in folder.iterdir() if one.is_dir() and not holds_run(one))
    except OSError:
        return []
    return [one for one in inside if run_folders(one) or run_files(one)]


def run_files(folder: Path) -> list[Place]:
    """List the files of records in `folder`, as `Recorder("mine.jsonl")` and `--out FILE.jsonl` write them, the newest first.

    The records of `folder` itself, if it is a run folder, are not among them.
    """
    try:
        files = [one for one in folder.glob("*.jsonl") if one.is_file() and not RECORDS_OF_RANK.fullmatch(one.name)]
        found = [Place(one, one.stat().st_mtime) for one in files if _is_run(one)]
    except OSError:
        return []
    return sorted(found, key=lambda place: (-place.written, place.folder.name))


def _is_run(file: Path) -> bool:
    """Tell if a file begins as records do."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(_FIRST_BYTES)) == _FIRST_BYTES
    except OSError:
        return False


def run_folders(folder: Path = RUNS, *, having: str | tuple[str, ...] = ()) -> list[Place]:
    """List the run folders in `folder`, the one that was written to last first. Raises CaptureError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CaptureError(f"'{folder}' cannot be listed: {error.strerror}") from error
    found = [
        Place(one, written)
        for one in folders
        if (written := _written(one)) is not None and (not having or _has(one, _names(having)))
    ]
    return sorted(found, key=lambda place: (-place.written, place.folder.name))


def _written(folder: Path) -> float | None:
    """The time at which the records in `folder` were written to last; None if there are none."""
    try:
        state = (folder / RECORDS).stat()
        return state.st_mtime if stat.S_ISREG(state.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        return None
    try:
        with os.scandir(folder) as entries:
            found = [one.stat().st_mtime for one in entries if RECORDS_OF_RANK.fullmatch(one.name)]
    except OSError:
        return None
    if found or FOLD.fullmatch(folder.name):  # the folds of a run have none of their own
        return max(found, default=None)
    return max((written for one in fold_folders(folder) if (written := _written(one)) is not None), default=None)


def _has(folder: Path, names: Sequence[str]) -> bool:
    """Tell if a run, or a training of it, has one of these files."""
    return any((one / name).is_file() for one in (folder, *fold_folders(folder)) for name in names)


def _names(having: str | tuple[str, ...]) -> tuple[str, ...]:
    return (having,) if isinstance(having, str) else having


def _counted(text: str, number: int, having: str | tuple[str, ...], counts: Callable[[Path], bool] | None, runs: Path) -> Path:
    """The run at place `number`, from 1, among those of `runs` that have one of the files `having` and that are to count."""
    if not number:
        raise UsageError(f"'{text}' is not valid", "@1 is the last run, @2 the one before it; see `capture runs`")
    found = run_folders(runs, having=having)
    if counts:  # no more are looked at than needed
        found = list(islice((one for one in found if counts(one.folder)), number))
    with_it = f" with {_names(having)[0]}" if having else ""
    more = more_runs(folders_of_runs(runs))
    if not found:
        raise UsageError(f"there is no run{with_it} in {runs}/ for '{text}'", more or "`capture train FOLDER` makes one")
    if number > len(found):
        kind = "training" if counts else "run"
        count = f"{len(found):,} {kind}{'s' if len(found) > 1 else ''}{with_it}"
        raise UsageError(f"'{text}' is not valid: {runs}/ has {count}", f"@1 is the last one; {more or 'see `capture runs`'}")
    return found[number - 1].folder


def more_runs(folders: Sequence[Path]) -> str:
    """Tell how the runs in these folders are listed, with three of them at most; empty if there are none."""
    if not folders:
        return ""
    more = f" and {len(folders) - 3:,} more folders" if len(folders) > 3 else ""
    folder = shlex.quote(str(folders[0]))
    return f"more runs in {', '.join(map(str, folders[:3]))}{more}: capture runs {folder}"


def _did_you_mean(text: str, runs: Path) -> str:
    """Advise the closest name of a run, or say what a run is."""
    parent, name = Path(text).parent, Path(text).name
    try:
        beside = [*run_folders(parent), *run_files(parent)]
        choices = {str(place.folder): place.folder.name for place in beside}
        choices |= {place.folder.name: place.folder.name for place in run_folders(runs)}
    except CaptureError:
        choices = {}
    words = [*dict.fromkeys(choices.values()), *(["last"] if choices else [])]
    if close := closest(name, words):
        return f"did you mean {next((one for one, short in choices.items() if short == close[0]), close[0])}?"
    return f"{A_RUN_IS}; `capture runs` lists those in {runs}/" if choices else A_RUN_IS
