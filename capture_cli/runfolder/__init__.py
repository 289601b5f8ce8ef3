"""The output of a run: a run folder, one file of records, or a pipe.

    with open_output(out, name=name, model="cnn", force=False) as output:
        output.journal.append(...)
        output.event("epoch", seconds=1.5)

A run folder holds `records.jsonl`, `events.jsonl` (times, speed, environment, warnings: everything in which equal runs may
differ), `config.toml`, checkpoints, `model.safetensors`, `best.safetensors` and, on request, `inputs/` and `tensorboard/`.
Files are only added to a folder that is new, empty or, with `force`, was a run folder before; nothing else in it is touched.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from capture_cli.errors import CaptureError, UsageError, absent, redacted
from capture_cli.files import is_removed, sync_folder, write_all, write_atomically
from capture_cli.journal import Journal, JournalPosition, Tail
from capture_cli.runfolder.names import (
    BEST,
    CHECKPOINT,
    CONFIG,
    EVENTS,
    INPUTS,
    MODEL,
    PREVIOUS,
    RECORDS,
    TENSORBOARD,
)
from capture_cli.runfolder.removing import check_removable, folds_in, remove_run

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CONFIG",
    "EVENTS",
    "INPUTS",
    "MODEL",
    "PREVIOUS",
    "RECORDS",
    "TENSORBOARD",
    "Output",
    "adopt_output",
    "check_output",
    "check_removable",
    "name_of_rank",
    "not_written",
    "open_output",
    "remove_run",
    "reopen_output",
]


@dataclass
class Output:
    """The journal of a run, and its run folder if it has one."""

    journal: Journal
    folder: Path | None
    """None where only the records are written."""
    where: str
    """Its name in messages: a path, or `standard output`."""
    descriptor: int | None = None
    """Descriptor of the folder: everything in it is written through it, so a run continues where its folder is moved to."""
    _events: BinaryIO | None = None

    def event(self, event: str, **values: Any) -> None:
        """Note an event and its time, if there is a run folder. Raises CaptureError if it cannot be written."""
        if not self._events:
            return
        body = {"event": event, "time": round(time.time(), 3), **values}
        try:
            text = orjson.dumps(body, default=str).decode()
        except TypeError:  # orjson refuses the lone surrogates of names that are not UTF-8
            text = json.dumps(body, default=str)
        line = redacted(text).encode() + b"\n"  # the command line may hold a URI with a password
        try:
            write_all(self._events.fileno(), line)
        except OSError as error:
            raise not_written(f"'{self.where}/{EVENTS}'", error, self.descriptor) from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Save the options as a file for `--config`."""
        if self.folder:
            self._write(CONFIG, to_toml(config))

    def write_model(self, data: bytes, name: str = MODEL) -> None:
        """Save the trained weights."""
        if self.folder:
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        assert self.folder  # noqa: S101 - checked by both callers
        assert self.descriptor is not None  # noqa: S101
        try:
            write_atomically(self.descriptor, name, data)
        except OSError as error:
            raise not_written(f"'{self.folder / name}'", error, self.descriptor) from error

    @property
    def records(self) -> Path | None:
        """The file of records as it was called; None for a pipe."""
        return self.folder / RECORDS if self.folder else Path(self.where) if self.journal.is_file else None

    @property
    def place(self) -> str:
        """The run folder where it is now, in messages; the name as it was called unless it was moved."""
        return self.where if self.folder is None or self.descriptor is None else place_of(self.folder, self.descriptor)

    def close(self) -> None:
        """Close the files. May be called twice."""
        self.journal.close()
        if self._events:
            self._events.close()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def not_written(what: str, error: OSError, folder: int | None) -> CaptureError:
    """Make the error of a file that could not be written into a run folder, given a descriptor of the folder."""
    if folder is not None and is_removed(folder):
        return CaptureError(f"{what} could not be written: the run folder was removed", "start the run again")
    return CaptureError(f"{what} could not be written: {error.strerror}", "the records are kept and valid")


_FILES = {".gz", ".zst", ".xz", ".bz2", ".zip", ".json", ".ndjson", ".csv", ".parquet"}
"""Names that end like this are meant as files: no run folder is called so by mistake."""


def open_output(
    out: str | None, *, name: str | None, model: str, force: bool, needs_folder: str = "", processes: int = 1
) -> Output:
    """Open the output that `-o OUT` or `--name NAME` asks for, by default `runs/<time>-<model>` in the current folder.

    OUT is `-` (standard output), a file if it ends in `.jsonl` or is a pipe or device, else a run folder. `needs_folder` names
    an option that requires a run folder. Other `processes` of a distributed training write their records beside these, and may
    have begun. Raises UsageError for a contradiction and for an output that exists (without `force`),
    CaptureError if it cannot be written or is in use.
    """
    only_records = _check_place(out, name, needs_folder)
    if out == "-":
        return Output(Journal(os.dup(sys.stdout.fileno()), "standard output"), None, "standard output")
    if out is not None and only_records:
        return Output(Journal.create(Path(out), force=force), None, out)
    folder = chosen_folder(out, name, model)
    if out is not None and folder.suffix in _FILES and not folder.is_dir():
        pipe = f", or -o - and a pipe: | gzip > {out}" if folder.suffix in (".gz", ".zst") else ""
        raise UsageError(
            f"'{out}' has the name of a file that is not written", f"give a folder, or FILE.jsonl for the records{pipe}"
        )
    existing = make_folder(folder, force=force, processes=processes)
    with opened(folder) as descriptor:
        journal = Journal.create(folder / RECORDS, force=force, folder=descriptor)  # locked before anything else is touched
        for old in existing:
            if old in (EVENTS, CONFIG, MODEL, BEST, CHECKPOINT, PREVIOUS) or _rank_of(old):
                os.unlink(old, dir_fd=descriptor)
        for old in existing & {INPUTS, TENSORBOARD}:
            shutil.rmtree(old, dir_fd=descriptor)
        return _in_folder(folder, descriptor, journal)


def check_output(out: str | None, *, name: str | None, model: str, force: bool, needs_folder: str = "") -> None:
    """Raise UsageError for a contradiction or an output that exists, as `open_output` would. Nothing is made."""
    if _check_place(out, name, needs_folder):
        if out is not None and Path(out).is_file() and not force:
            raise UsageError(f"'{out}' exists", "choose another -o or --name, or overwrite it with --force")
        return
    folder = chosen_folder(out, name, model)
    if folder.is_dir():
        _check_taken(folder, {entry.name for entry in folder.iterdir()}, force=force)


def _check_place(out: str | None, name: str | None, needs_folder: str) -> bool:
    """Tell if only the records are asked for. Raises UsageError for options that contradict each other."""
    if out is not None and name is not None:
        raise UsageError("--out and --name both say where the run goes", "give one of them")
    only_records = is_only_records(out)
    if needs_folder and only_records:
        raise UsageError(f"{needs_folder} needs a run folder", "give -o a folder, or --name")
    return only_records


def adopt_output(out: str, journal: Callable[[int, str], Journal]) -> Output:
    """Open the output that the parent of this process has opened and not used; `journal` is made of a descriptor and a name."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    path = Path(out)
    if is_only_records(out):
        return Output(journal(os.open(path, flags), out), None, out)
    with opened(path) as folder:
        records = os.open(RECORDS, flags, dir_fd=folder)
        return _in_folder(path, folder, journal(records, str(path / RECORDS)))


def is_only_records(out: str | None) -> bool:
    """Tell if `-o OUT` asks for the records alone: standard output, a file, a pipe or a device."""
    return out is not None and (out == "-" or _is_file(Path(out)))


def chosen_folder(out: str | None, name: str | None, model: str) -> Path:
    """Return the run folder that `-o OUT` or `--name NAME` asks for."""
    return Path(out) if out is not None else Path("runs") / (_checked(name) if name else _new_name(model))


def reopen_output(folder: Path, position: JournalPosition, tail: Tail) -> Output:
    """Open the run folder of an earlier process to continue at `position`, as capture_cli.journal.Journal.resume does."""
    with opened(folder) as descriptor:
        return _in_folder(folder, descriptor, Journal.resume(folder / RECORDS, position, tail, folder=descriptor))


def place_of(folder: Path, descriptor: int) -> str:
    """Find where the folder `descriptor` is now: a name to show, `folder` unless it was moved."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return str(folder)
    try:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - no file
    except OSError:
        return str(folder)


def to_toml(config: Mapping[str, Any]) -> bytes:
    """Encode options as a file for `--config`."""
    import tomli_w

    return tomli_w.dumps(dict(config)).encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Give a descriptor of the folder, closed only after an error. Raises CaptureError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CaptureError(f"'{folder}' cannot be opened: {error.strerror}", "give the folder of a run") from error
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _in_folder(folder: Path, descriptor: int, journal: Journal) -> Output:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        events = os.open(EVENTS, flags, 0o666, dir_fd=descriptor)
    except OSError as error:
        journal.close()
        raise not_written(f"'{folder / EVENTS}'", error, descriptor) from error
    return Output(journal, folder, str(folder), descriptor, os.fdopen(events, "ab", buffering=0))


def _is_file(path: Path) -> bool:
    if path.is_dir():
        return False
    return path.suffix == ".jsonl" or (path.exists() and not path.is_file())


def _checked(name: str) -> str:
    if name in (".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"--name '{name}' is not the name of a folder", "use -o for a path")
    return name


def _new_name(model: str) -> str:
    """Return `<time>-<model>`, with a number if two runs start in the same second."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9]+', '-', model.rsplit('/', 1)[-1]).strip('-')}"
    number, name = 1, stem
    while (Path("runs") / name).exists():
        number, name = number + 1, f"{stem}-{number + 1}"
    return name


def name_of_rank(rank: int) -> str:
    """Return the name of the records of one process of a distributed training."""
    return f"records-rank{rank}.jsonl" if rank else RECORDS


def _rank_of(name: str) -> int:
    """Return the rank that is in the name of records, else 0."""
    match = re.fullmatch(r"records-rank([1-9][0-9]{0,5})\.jsonl", name)
    return int(match[1]) if match else 0


def make_folder(folder: Path, *, force: bool, processes: int = 1) -> set[str]:
    """Make the folder; return the names in it: none but those of other processes, unless `force` overwrites a run folder.

    A run with folds that `force` overwrites is removed. Raises UsageError, CaptureError.
    """
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in new:
            sync_folder(one.parent)
        existing = {entry.name for entry in folder.iterdir() if not 0 < _rank_of(entry.name) < processes}
    except (FileExistsError, NotADirectoryError) as error:
        in_the_way = next(one for one in (folder, *folder.parents) if os.path.lexists(one) and not one.is_dir())
        message = (
            absent(in_the_way, "folder") if in_the_way.is_symlink() or in_the_way.is_file() else f"'{in_the_way}' is no folder"
        )
        raise UsageError(message, "give a folder, or FILE.jsonl for the records alone") from error
    except OSError as error:
        raise CaptureError(f"'{folder}' cannot be made: {error.strerror}", "choose another place with -o") from error
    if _check_taken(folder, existing, force=force):
        remove_run(folder)
        return make_folder(folder, force=False, processes=processes)
    return existing


def _check_taken(folder: Path, existing: set[str], *, force: bool) -> bool:
    """Tell if a run with folds is there. Raises UsageError for a folder that is not empty, unless `force` overwrites a run."""
    has_folds = bool(folds_in(folder, existing))
    if existing and RECORDS not in existing and not has_folds:
        raise UsageError(f"'{folder}' is not empty and not a run folder", "choose another -o or --name")
    if existing and not force:
        raise UsageError(f"'{folder}' already holds a run", "choose another -o or --name, or overwrite it with --force")
    return has_folds
