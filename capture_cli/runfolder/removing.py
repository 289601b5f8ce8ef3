"""The removal of runs: only what capture wrote, and nothing that is being written."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from capture_cli.errors import CaptureError, UsageError
from capture_cli.files import open_folder
from capture_cli.runfolder.names import CONFIG, EVENTS, FOLD, INPUTS, RECORDS, TENSORBOARD


def check_removable(folder: Path) -> None:
    """Raise UsageError unless `folder` is a run folder that nobody writes, with nothing in it but what capture wrote."""
    names = _names_in(folder)
    if folds := folds_in(folder, names):
        if others := [name for name in names if name not in folds and not _OWN.fullmatch(name)]:
            raise _also_holds(folder, others[0])
        with _held(folder):
            for name in folds:
                if _names_in(folder / name):  # it was made, and its training has not begun
                    check_removable(folder / name)
        return
    records = [name for name in names if name.startswith("records") and ".jsonl" in name]
    if not records or not any(_begins_a_run(folder / name) for name in records):
        raise UsageError(f"'{folder}' is not a run folder: it has no {RECORDS} of capture", "only runs are removed")
    if others := [name for name in names if not _OWN.fullmatch(name)]:
        raise _also_holds(folder, others[0])
    for name in records:
        with _locked(folder / name):
            pass


def remove_run(folder: Path) -> None:
    """Remove a run folder, its records last: what is interrupted can be repeated. Raises as `check_removable`."""
    check_removable(folder)
    names = _names_in(folder)
    folds = folds_in(folder, names)
    try:
        with contextlib.ExitStack() as locks:
            if folds:
                locks.enter_context(_held(folder))
            elif (folder / RECORDS).exists():
                locks.enter_context(_locked(folder / RECORDS))  # nobody can resume it meanwhile
            for name in sorted(names, key=lambda name: name in (RECORDS, *folds[:1])):
                path = folder / name
                if name in folds and _names_in(path):
                    remove_run(path)
                elif path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        folder.rmdir()
    except OSError as error:
        raise CaptureError(f"'{error.filename or folder}' could not be removed: {error.strerror}") from error


def folds_in(folder: Path, names: Iterable[str]) -> list[str]:
    """List the folds among the `names` in a folder, by number; none if it is not the folder of a run with folds."""
    known = set(names)
    if CONFIG not in known or RECORDS in known:
        return []
    folds = [name for name in known if FOLD.fullmatch(name) and (folder / name).is_dir() and not (folder / name).is_symlink()]
    return sorted(folds, key=lambda name: int(name.rpartition("-")[2]))


def _names_in(folder: Path) -> list[str]:
    if folder.is_symlink():
        raise UsageError(f"'{folder}' is a link", "remove the run where it is")
    try:
        return sorted(one.name for one in folder.iterdir())
    except OSError as error:
        raise UsageError(f"'{folder}' is not a run folder: {error.strerror}") from error


def _also_holds(folder: Path, name: str) -> UsageError:
    return UsageError(
        f"'{folder}' also holds '{name}', which capture did not write", "move it elsewhere, or remove the folder yourself"
    )


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder of a run with folds. Raises UsageError if another process does."""
    with open_folder(folder) as descriptor:
        lock_folder(folder, descriptor)
        yield


def lock_folder(folder: Path, descriptor: int) -> None:
    """Lock a folder until `descriptor` is closed. Raises UsageError if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _is_written(folder) from error
    except OSError:  # a file system without locks
        pass


_OWN = re.compile(
    rf"records.*\.jsonl.*|{re.escape(EVENTS)}|{re.escape(CONFIG)}|[^/]+\.(safetensors|onnx)|\..+\.part|{INPUTS}|{TENSORBOARD}"
)
"""Names in a run folder that capture writes."""


def _begins_a_run(path: Path) -> bool:
    """Tell if the records begin as capture begins them, or are compressed or empty."""
    if path.suffix in (".gz", ".zst"):
        return True
    beginning = b'{"seq":0,"kind":"run"'
    with path.open("rb") as file:
        return file.read(len(beginning)) in (beginning, b"")


@contextlib.contextmanager
def _locked(records: Path) -> Iterator[None]:
    """Hold the lock of a file of records. Raises UsageError if another process does."""
    descriptor = os.open(records, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except (BlockingIOError, PermissionError) as error:
        raise _is_written(records.parent) from error
    finally:
        os.close(descriptor)


def _is_written(folder: Path) -> UsageError:
    return UsageError(f"'{folder}' is being written", "stop the run first, or wait for its end")
