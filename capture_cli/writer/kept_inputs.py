"""Describe the inputs of a batch in its record, and save the inputs that are kept whole.

They go into a file of the run folder, each different input once, or into the record itself if there is no folder.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from capture_cli.errors import CaptureError
from capture_cli.files import sync_folder, write_all
from capture_cli.preprocessing import digests
from capture_cli.records import Inputs
from capture_cli.records.values import inputs_to_json
from capture_cli.runfolder import INPUTS, Output, not_written
from capture_cli.writer.pending import Pending

if TYPE_CHECKING:
    import torch

PACK, FLIGHT, MASKS = "pack-00000.bin", "flight.bin", "masks.bin"
"""Files below inputs/: of `inputs="all"`, of batches whose loss went wrong, and of masks."""
_STATE = {"pack": PACK, "flight": FLIGHT}
"""Key in a checkpoint -> file."""


class KeptInputs:
    """The kept inputs of one run."""

    def __init__(self, output: Output, stored: int | None, *, masks: bool = False) -> None:
        """Keep the first `stored` inputs of each batch; None for all, which needs a run folder, as `masks` do."""
        self._stored = stored or 0
        names = [FLIGHT, *[PACK] * (stored is None), *[MASKS] * masks]
        self._packs = {name: Pack(output, name) for name in names} if output.folder else {}
        self.keeps_some = bool(self._stored) or PACK in self._packs
        """True if inputs of every batch are kept, not only of those whose loss went wrong."""

    def describe(self, pending: Pending, array: npt.NDArray[Any] | None, *, whole: bool = False) -> Inputs:
        """Return the field `inputs` of a record, for inputs [B, ...]; `whole` keeps all of them.

        Without an array, whose digests were taken earlier, nothing is kept.
        """
        shape, dtype = tuple(pending.shape), _name(pending.dtype)
        if pending.digests is not None and (array is None or not (whole or self.keeps_some)):
            return Inputs(shape=shape, dtype=dtype, digests=pending.digests, not_stored=len(pending.digests))
        assert array is not None  # noqa: S101
        names = digests(array)
        if pending.digests is not None and pending.digests != names:  # overwritten: no longer what the model saw
            return Inputs(shape=shape, dtype=dtype, digests=pending.digests, not_stored=len(names))
        pending.digests = names
        if not (whole or self.keeps_some):
            return Inputs(shape=shape, dtype=dtype, digests=names, not_stored=len(names))
        pack = self._packs.get(PACK) or (self._packs.get(FLIGHT) if whole else None)
        if pack:
            return Inputs(shape=shape, dtype=dtype, digests=names, stored=pack.store(array, names))
        values = [base64.b64encode(one.tobytes()).decode() for one in array[: None if whole else self._stored]]
        return Inputs(shape=shape, dtype=dtype, digests=names, values=values or None, not_stored=len(array) - len(values))

    def describe_masks(self, masks: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Return the field `masks` of a record, for masks [B, H, W] by name, each different one stored once."""
        described = {}
        for name, array in masks.items():
            names = digests(array)
            stored = self._packs[MASKS].store(array, names)
            described[name] = inputs_to_json(
                Inputs(shape=array.shape[1:], dtype=str(array.dtype), digests=names, stored=stored)
            )
        return described

    def flight(self, reason: str, previous: Pending | None) -> dict[str, Any] | None:
        """Return the field `flight` of a batch whose loss went wrong, with the batch before it saved whole.

        None without a reason.
        """
        if not reason:
            return None
        if previous is None:
            return {"reason": reason, "before": None}
        header, inputs = previous.header, self.describe(previous, previous.input_array(), whole=True)
        before = {"phase": header.phase, "epoch": header.epoch, "batch": header.batch, "ids": header.ids}
        return {"reason": reason, "before": before | {"inputs": inputs_to_json(inputs)}}

    def sync(self) -> None:
        """Return once everything kept would survive a power cut."""
        for pack in self._packs.values():
            pack.sync()

    def close(self) -> None:
        """Close the files. May be called twice."""
        for pack in self._packs.values():
            pack.close()

    @property
    def state(self) -> dict[str, int]:
        """Lengths of the files in bytes, for a checkpoint."""
        return {key: self._packs[name].length if name in self._packs else 0 for key, name in _STATE.items()}

    def resume(self, state: Mapping[str, Any], offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Continue the files at `state`; `offsets` maps the name of each file to digest -> offset of the inputs in it."""
        for key, name in _STATE.items():
            if name in self._packs:
                self._packs[name].resume(state[key], offsets.get(name, {}))

    def append(self) -> None:
        """Continue the files at their ends; inputs that are in them may be stored again."""
        for pack in self._packs.values():
            pack.append()


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Pack:
    """An append-only file of raw tensor bytes that holds each input once; created with the first one."""

    def __init__(self, output: Output, name: str) -> None:
        self.length = 0
        self._output, self._name = output, name
        self._offsets: dict[str, int] = {}
        self._fd = -1

    def resume(self, length: int, offsets: Mapping[str, int]) -> None:
        """Continue an earlier file at `length` bytes; `offsets` maps the digest of each input in it to its offset."""
        self.length, self._offsets = length, dict(offsets)
        if length:
            self._open()

    def append(self) -> None:
        """Continue an earlier file at its end, if there is one."""
        self.length = self._path.stat().st_size if self._path.exists() else 0

    def store(self, inputs: npt.NDArray[Any], digests: Sequence[str]) -> dict[str, Any]:
        """Append the inputs [B, ...] that are not in the file yet; return the offset of each of the B, in bytes."""
        new, offsets = bytearray(), {}
        for digest, one in zip(digests, inputs, strict=True):
            if digest not in self._offsets and digest not in offsets:
                offsets[digest] = self.length + len(new)
                new += one.tobytes()
        if new and self._fd < 0:
            self._open()
        try:
            write_all(self._fd, new, offset=self.length)  # a resumed run overwrites what was written after its checkpoint
        except OSError as error:
            raise self._failed(error) from error
        self.length += len(new)
        self._offsets |= offsets  # only now that the bytes are there: Ctrl-C may interrupt the write
        return {"pack": f"{INPUTS}/{self._name}", "offsets": [self._offsets[digest] for digest in digests]}

    def sync(self) -> None:
        """Return once everything stored would survive a power cut."""
        try:
            if self._fd >= 0:
                os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        folder = self._output.descriptor
        assert folder is not None  # noqa: S101 - there is a run folder
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(INPUTS, dir_fd=folder)
            inputs = os.open(INPUTS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._name, flags, 0o666, dir_fd=inputs)
                sync_folder(inputs)  # the names are as durable as the bytes
            finally:
                os.close(inputs)
            sync_folder(folder)
            size = os.fstat(self._fd).st_size
        except OSError as error:
            raise self._failed(error) from error
        if size < self.length:
            raise CaptureError(f"'{self._path}' is shorter than the records say", "restore the run folder")

    @property
    def _path(self) -> Path:
        return Path(self._output.where, INPUTS, self._name)

    def _failed(self, error: OSError) -> CaptureError:
        return not_written(f"inputs for '{self._path}'", error, self._output.descriptor)
