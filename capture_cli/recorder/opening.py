"""The output of a recorder: new, overwritten or continued; in a distributed training one file of a run for each process.

    output, state = open_records("run", rank=1, force=False, append=True, needs_folder=False)

In a run folder the process of rank 0 writes `records.jsonl`, that of rank N `records-rankN.jsonl` beside it; every command
reads them as one run. The processes may come in any order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.files import sync_folder
from capture_cli.journal import Journal
from capture_cli.recorder.appending import RecordedState, read_state
from capture_cli.runfolder import RECORDS, Output, name_of_rank, open_output, reopen_output

if TYPE_CHECKING:
    from torch import nn


def open_records(out: str, *, rank: int, force: bool, append: bool, needs_folder: str) -> tuple[Output, RecordedState | None]:
    """Open the output of the process of `rank`, with the state of what is continued. Hints name arguments of the Recorder.

    `needs_folder` is the argument that needs a run folder, if any does.
    """
    if not out.strip():
        raise UsageError("out: the name is empty", "use FILE.jsonl for the records alone, or the name of a folder")
    if out.endswith(".json"):
        raise UsageError(f"out={out!r} is no name for records", f"use {out}l for the records alone, or the name of a folder")
    path = Path(out)
    if rank and out != "-" and path.suffix != ".jsonl":
        path = _of_rank(path, rank)
    records = path / RECORDS if path.is_dir() else path
    try:
        if append and records.is_file():
            state = read_state(records)
            if path.is_dir():
                return reopen_output(path, state.position, "set aside"), state
            return Output(Journal.resume(path, state.position, "set aside"), None, str(path)), state
        needs = "" if rank else needs_folder
        return open_output(str(path), name=None, model="", force=force, needs_folder=needs, processes=_world_size()), None
    except RecordsError:
        raise
    except CaptureError as error:
        hints = {
            "--force": "choose another path, or pass append=True to continue the run, force=True to overwrite it",
            "-o a folder": "pass a folder instead of FILE.jsonl",
            "": "choose another path",
        }
        raise type(error)(error.message, next(hints[option] for option in hints if option in error.hint)) from error


def current_rank() -> int:
    """Return the rank of this process in a distributed training, which may be about to begin; 0 if it is alone."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    rank = os.environ.get("RANK", "0")
    return int(rank) if _world_size() > 1 and rank.isdecimal() else 0


def inner_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of torch and others: distributed, compiled."""
    for name in ("_orig_mod", "module"):
        inner = getattr(model, name, None)
        if inner is not None and hasattr(inner, "parameters") and len(list(model.children())) <= 1:
            return inner_model(inner)
    return model


def _world_size() -> int:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdecimal() else 1


def _of_rank(folder: Path, rank: int) -> Path:
    """Return the file of one process in a run folder, which is made if this process is the first to come."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise CaptureError(f"'{folder}' cannot be made: {error.strerror}", "choose another path") from error
    return folder / name_of_rank(rank)
