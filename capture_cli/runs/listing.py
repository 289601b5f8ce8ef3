"""Runs side by side: what each is, how far it came and how good it got, without reading it whole.

    for run in map(listed, run_folders()):
        run.state, run.best, run.options
    differing(runs)                             # the options in which they differ

Of the records only the first line, the end and the epoch records are read. The events of a run say where these are; without
that, the epochs of the last TAIL_BYTES are found. Nothing is verified: that needs every line (`capture verify`).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from pathlib import Path
from typing import Any

import orjson

from capture_cli.errors import CaptureError, RecordsError
from capture_cli.records import End, Epoch, Record, RunInfo, decode
from capture_cli.records.checking import check
from capture_cli.runs.merging import summed, whole
from capture_cli.runs.names import RECORDS_OF_RANK, Place, fold_folders, origin_of

EVENTS = "events.jsonl"
TAIL_BYTES = 8 << 20
"""Bytes at the end to search for epoch records if the events do not say where they are."""
_END_BYTES = 1 << 16
_EPOCH_BYTES = 1 << 10
"""An epoch record is shorter."""
_INFO_BYTES = 1 << 20
"""So is a run record of some ten thousand classes."""
_SHORT_RECORDS = re.compile(rb'^\{"seq":\d+,"kind":"(?:run|epoch|end)",.*\n', re.MULTILINE)
_COMPRESSED = (".gz", ".zst")
COLUMNS = {
    "name": "varchar",
    "path": "varchar",
    "age": "double",
    "model": "varchar",
    "phase": "varchar",
    "epoch": "bigint",
    "accuracy": "double",
    "loss": "double",
    "last_epoch": "bigint",
    "bytes": "bigint",
    "state": "varchar",
}
"""The columns that every run has, with their SQL types; the options follow."""


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run folder, or a file of records, at a glance."""

    folder: Path
    written: float
    """When its records were written to last, in seconds since 1970."""
    size: int
    """Bytes of all its files."""
    info: RunInfo | None
    """The last run record that was found; None if there is none that can be read."""
    epochs: Sequence[Epoch]
    """The epoch records that were found."""
    epochs_omitted: bool
    """True if earlier epochs were not looked for."""
    state: str
    """`completed`, `interrupted`, `failed` (sealed), `running`, `cut off` (it has no end, and nobody writes it), `compressed`
    (the end was not looked for) or `damaged`."""
    problem: str = ""
    """The reason, if it is damaged."""
    folds: str = ""
    """`2 of 3 folds`: the trainings of a run with folds that are complete; empty for any other run."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @cached_property
    def best(self) -> Epoch | None:
        """The epoch with the highest accuracy, of equal ones that with the lowest loss, then the first.

        It is one of the phase `val`, else `test`, else the last that there is.
        """
        phases = dict.fromkeys(one.phase for one in self.epochs if one.n)
        phase = next((one for one in ("val", "test") if one in phases), next(reversed(phases), None))
        here = [one for one in self.epochs if one.phase == phase and one.n]
        if self.folds:  # an epoch that only some of the trainings have says nothing of the others
            here = [one for one in here if one.n == max(one.n for one in here)]
        return max(here, key=lambda one: (one.accuracy or 0.0, -one.loss if isfinite(one.loss) else -inf), default=None)

    @property
    def model(self) -> str:
        """The name of the model, as far as it is known."""
        return str((self.info.model if self.info else {}).get("name", ""))

    @property
    def last_epoch(self) -> int | None:
        """The epoch that ended last."""
        return max((one.epoch for one in self.epochs), default=None)

    @property
    def planned_epochs(self) -> int | None:
        """The epochs that `capture train` was asked for."""
        epochs = self.options.get("epochs")
        return epochs if type(epochs) is int else None

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The options, and the folder of images."""
        if self.info is None:
            return {}
        return {**self.info.config, **({"folder": self.info.folder} if self.info.folder else {})}

    def row(self, now: float) -> dict[str, Any]:
        """One flat row for sorting and conditions: age in seconds, `phase` to `loss` of the best epoch, then the options."""
        best = self.best
        row = {
            "name": self.name,
            "path": str(self.folder),
            "age": now - self.written,
            "model": self.model,
            "phase": best.phase if best else None,
            "epoch": best.epoch if best else None,
            "accuracy": best.accuracy if best else None,
            "loss": best.loss if best else None,
            "last_epoch": self.last_epoch,
            "bytes": self.size,
            "state": self.state,
        }
        return row | {name: value for name, value in self.options.items() if name not in row}

    def to_json(self) -> dict[str, Any]:
        """The run as plain values; sizes in bytes, times in seconds since 1970, accuracies from 0 to 1, losses in nats."""
        best = self.best
        return {
            "name": self.name,
            "path": str(self.folder),
            "written": round(self.written, 3),
            "model": self.model,
            "origin": origin_of(self.info.model) if self.info else "",
            "best": best
            and {"phase": best.phase, "epoch": best.epoch, "accuracy": best.accuracy, "loss": best.loss, "n": best.n},
            "last_epoch": self.last_epoch,
            "epochs_omitted": self.epochs_omitted,
            "options": dict(self.options),
            "bytes": self.size,
            "state": self.state,
            "folds": self.folds or None,
            "problem": self.problem or None,
        }


def listed(place: Place) -> ListedRun:
    """Look at one run folder or file of records. What is wrong with it is part of the answer, not an error."""
    folder = place.folder
    info, epochs, omitted, state = None, list[Epoch](), False, "damaged"
    problem = folds = ""
    try:
        trainings = fold_folders(folder)
        inside = () if folder.is_file() else (one for run in trainings or [folder] for one in run.iterdir())
        files = sorted(one for one in inside if RECORDS_OF_RANK.fullmatch(one.name) and one.is_file()) or [folder]
        if all(one.suffix in _COMPRESSED for one in files):
            info, state = _compressed_info(folder), "compressed"
        else:
            events = Path(os.devnull) if files == [folder] else None  # a file of records has none
            parts = [_Part(one, events or one.parent / EVENTS) for one in files if one.suffix not in _COMPRESSED]
            info = next((part.info for part in parts if part.info), None)
            epochs, omitted = _summed([part.epochs for part in parts]), any(part.omitted for part in parts)
            state = max((part.state for part in parts), key=_STATES.index)
            if trainings and info and info.fold:
                complete, planned = sum(part.state == "completed" for part in parts), info.fold["of"]
                folds = f"{complete} of {planned} folds"
                info = whole(info)
                if state == "completed" and complete < planned:
                    state = "running" if is_held(folder) else "cut off"
    except (CaptureError, OSError) as error:
        problem = error.message if isinstance(error, CaptureError) else error.strerror or str(error)
    return ListedRun(
        folder=folder,
        written=place.written,
        size=_size(folder),
        info=info,
        epochs=epochs,
        epochs_omitted=omitted,
        state=state,
        problem=problem,
        folds=folds,
    )


def differing(runs: Sequence[ListedRun]) -> list[str]:
    """The options that differ between the runs that have them, those with the most values first; `model` is not among them."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.options.items():
            values.setdefault(name, set()).add(repr(value))
    several = [name for name, found in values.items() if len(found) > 1 and name not in ("model", "weights_digest")]
    return sorted(several, key=lambda name: -len(values[name]))


def is_written(records: Path) -> bool:
    """Tell if a process holds the lock of this file of records. The caller must not have the file open itself."""
    descriptor = os.open(records, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def is_held(folder: Path) -> bool:
    """Tell if a process holds the lock of the folder of a run with folds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


_STATES = ("completed", "interrupted", "failed", "cut off", "running")
"""The last counts, if the files of several ranks differ."""


class _Part:
    """The records of one process of a run."""

    def __init__(self, path: Path, events: Path) -> None:
        """Read it. Raises RecordsError if its first line is no run record."""
        self.info: RunInfo | None = None
        self.epochs: list[Epoch] = []
        self.omitted = False
        with path.open("rb") as file:
            first, size = file.readline(), os.fstat(file.fileno()).st_size
            if first.endswith(b"\n"):
                record = _decoded(first)
                if not isinstance(record, RunInfo):
                    raise RecordsError("the first line is not a run record")
                self.info = record
            found: dict[tuple[str, int], Epoch] = {}
            for one in _by_events(file.fileno(), events):
                if isinstance(one, Epoch):
                    found[one.phase, one.epoch] = one
                else:
                    self.info = one
            length = _END_BYTES if found else TAIL_BYTES
            self.omitted = not found and size > length
            tail = _tail(file.fileno(), size, length)
        last: Record | None = None
        for match in _SHORT_RECORDS.finditer(tail):
            last = _decoded(match[0])
            if isinstance(last, RunInfo):
                self.info = last
            elif isinstance(last, Epoch):
                found[last.phase, last.epoch] = last
        self.epochs = list(found.values())
        ended = isinstance(last, End) and tail.endswith(match[0])
        self.state = last.status if isinstance(last, End) and ended else "running" if is_written(path) else "cut off"


def _by_events(descriptor: int, events: Path) -> Iterator[Epoch | RunInfo]:
    """Yield the epoch records whose ends the events name, as far as they are there, and the run record of added epochs."""
    end = 0
    with suppress(OSError), events.open("rb") as lines:
        for line in lines:
            if b'"event":"start"' in line and end:
                yield from _added(descriptor, end)
            if b'"records_bytes":' not in line:
                continue
            with suppress(ValueError, KeyError, TypeError, OSError, OverflowError, RecordsError):
                event = orjson.loads(line)
                end = event["records_bytes"]
                data = os.pread(descriptor, min(end, _EPOCH_BYTES), max(0, end - _EPOCH_BYTES))
                record = _decoded(data[data.rfind(b"\n", 0, -1) + 1 :])
                if isinstance(record, Epoch) and (record.phase, record.epoch) == (event["phase"], event["epoch"]):
                    yield record


def _added(descriptor: int, end: int) -> Iterator[RunInfo]:
    """Yield the run record that follows the last epoch of a completed run, after its end line, if it was given more epochs."""
    with suppress(ValueError, TypeError, OSError, OverflowError, RecordsError):
        for line in os.pread(descriptor, _INFO_BYTES, end).splitlines(keepends=True)[:2]:
            if _SHORT_RECORDS.fullmatch(line) and isinstance(record := _decoded(line), RunInfo):
                yield record


def _tail(descriptor: int, size: int, length: int) -> bytes:
    data = os.pread(descriptor, length, max(0, size - length))
    return data if size <= length else data[data.find(b"\n") + 1 :]


def _decoded(line: bytes) -> Record:
    record = decode(line)[1]
    check(record)
    return record


def _compressed_info(folder: Path) -> RunInfo:
    from capture_cli.runs import open_run

    with open_run(folder) as run:
        return run.info


def _summed(parts: Sequence[Sequence[Epoch]]) -> list[Epoch]:
    """The epochs of all ranks together."""
    if len(parts) == 1:
        return list(parts[0])
    together: dict[tuple[str, int], list[Epoch]] = {}
    for part in parts:
        for one in part:
            together.setdefault((one.phase, one.epoch), []).append(one)
    return [summed(ones) for ones in together.values()]


def _size(folder: Path) -> int:
    """Bytes of a file, or of the files below a folder; links in it are not followed."""
    if folder.is_file():
        return folder.stat().st_size
    total, pending = 0, [folder]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
