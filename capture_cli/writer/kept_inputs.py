"""Describe the inputs of a batch in its record, and save the inputs that are kept whole.

    kept = KeptInputs(run_folder, stored_inputs("digest"))
    inputs = kept.describe(pending, array)                  # digests, and the bytes if asked for
    flight = kept.flight("spike", previous)                 # saves the batch before a loss that went wrong
    kept.sync()

Whole inputs go into a file of the run folder, or into the record itself if there is no folder.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture_cli.preprocessing import digests
from capture_cli.records import Inputs, inputs_to_json
from capture_cli.runfolder import INPUTS
from capture_cli.writer.pack import Pack
from capture_cli.writer.pending import Pending

PACK, FLIGHT = "pack-00000.bin", "flight.bin"
"""Files below inputs/: of `inputs="all"`, and of batches whose loss went wrong."""


class KeptInputs:
    """The kept inputs of one run."""

    def __init__(self, folder: Path | None, stored: int | None) -> None:
        """Keep the first `stored` inputs of each batch; None for all, which needs a run folder."""
        self._folder = folder
        self._stored = stored or 0
        self._pack = self._open(PACK) if stored is None else None
        self._flight = self._open(FLIGHT)

    @property
    def keeps_some(self) -> bool:
        """True if inputs of every batch are kept, not only of those whose loss went wrong."""
        return bool(self._stored or self._pack)

    def describe(self, pending: Pending, array: npt.NDArray[Any] | None, *, whole: bool = False) -> Inputs:
        """Return the field `inputs` of a record, for inputs [B, ...]; `whole` keeps all of them.

        Without an array, whose digests were taken earlier, nothing is kept.
        """
        shape, dtype = tuple(pending.shape), str(pending.dtype).removeprefix("torch.")
        if pending.digests is not None and (array is None or not (whole or self.keeps_some)):
            return Inputs(shape=shape, dtype=dtype, digests=pending.digests, not_stored=len(pending.digests))
        assert array is not None  # noqa: S101
        names = digests(array)
        if pending.digests is not None and pending.digests != names:  # overwritten: no longer what the model saw
            return Inputs(shape=shape, dtype=dtype, digests=pending.digests, not_stored=len(names))
        pending.digests = names
        pack = self._pack or (self._flight if whole else None)
        if pack:
            return Inputs(shape=shape, dtype=dtype, digests=names, stored=pack.store(array, names))
        values = [base64.b64encode(one.tobytes()).decode() for one in array[: None if whole else self._stored]]
        return Inputs(shape=shape, dtype=dtype, digests=names, values=values or None, not_stored=len(array) - len(values))

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
        for pack in self._packs():
            pack.sync()

    def close(self) -> None:
        """Close the files. May be called twice."""
        for pack in self._packs():
            pack.close()

    @property
    def state(self) -> dict[str, int]:
        """Lengths of the files in bytes, for a checkpoint."""
        return {"pack": self._pack.length if self._pack else 0, "flight": self._flight.length if self._flight else 0}

    def resume(self, state: Mapping[str, Any], offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Continue the files at `state`; `offsets` maps the name of each file to digest -> offset of the inputs in it."""
        if self._pack:
            self._pack = self._open(PACK, length=state["pack"], offsets=offsets.get(PACK))
        self._flight = self._open(FLIGHT, length=state["flight"], offsets=offsets.get(FLIGHT))

    def _open(self, name: str, *, length: int = 0, offsets: Mapping[str, int] | None = None) -> Pack | None:
        return Pack(self._folder / INPUTS / name, length=length, offsets=offsets) if self._folder else None

    def _packs(self) -> list[Pack]:
        return [pack for pack in (self._pack, self._flight) if pack]
