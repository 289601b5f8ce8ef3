"""What a record says of a batch's inputs, and where those are kept that are kept whole.

    keeping = Keeping(run_folder, kept_inputs("digest"))
    inputs = keeping.inputs(pending, array)                     # digests, and the bytes where they are asked for
    flight = keeping.flight("spike", pending_before)            # the batch before one whose loss went wrong, whole
    keeping.sync()

Inputs kept whole go into a file of the run folder, or into the line where there is no folder.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
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


class Keeping:
    """The inputs of one run."""

    def __init__(self, folder: Path | None, stored: int | None) -> None:
        """Keep the first `stored` inputs of each batch, None for all, which needs a run folder."""
        self._folder = folder
        self._stored = stored or 0
        self._pack = self._new(PACK) if stored is None else None
        self._flight = self._new(FLIGHT)

    @property
    def keeps_some(self) -> bool:
        """Whether inputs of every batch are kept, not only of those that went wrong."""
        return bool(self._stored or self._pack)

    def inputs(self, pending: Pending, array: npt.NDArray[Any] | None, *, whole: bool = False) -> Inputs:
        """What the record of a batch says of its inputs [B, ...], all of which are kept where `whole`.

        Without an array (nothing of it is to be kept) by the digests alone, which then were taken.
        """
        shape, dtype = tuple(pending.shape), str(pending.dtype).removeprefix("torch.")
        if pending.digests is not None and (array is None or not (whole or self.keeps_some)):
            return Inputs(shape=shape, dtype=dtype, digests=pending.digests, not_stored=len(pending.digests))
        assert array is not None  # noqa: S101
        names = digests(array)
        if pending.digests is not None and pending.digests != names:  # changed in place since: no longer what the model saw
            return Inputs(shape=shape, dtype=dtype, digests=pending.digests, not_stored=len(names))
        pending.digests = names
        pack = self._pack or (self._flight if whole else None)
        if pack:
            return Inputs(shape=shape, dtype=dtype, digests=names, stored=pack.store(array, names))
        values = [base64.b64encode(one.tobytes()).decode() for one in array[: None if whole else self._stored]]
        return Inputs(shape=shape, dtype=dtype, digests=names, values=values or None, not_stored=len(array) - len(values))

    def flight(self, reason: str, before: Pending | None) -> dict[str, Any] | None:
        """What the record of a batch whose loss went wrong for this reason says of the batch before; None without reason."""
        if not reason:
            return None
        if before is None:
            return {"reason": reason, "before": None}
        named = {name: before.header[name] for name in ("phase", "epoch", "batch", "ids")}
        return {
            "reason": reason,
            "before": named | {"inputs": inputs_to_json(self.inputs(before, before.input_array(), whole=True))},
        }

    def sync(self) -> None:
        """Return when what was kept would survive a power cut."""
        for pack in self._packs():
            pack.sync()

    def close(self) -> None:
        """Close the files, synced. May be called twice."""
        for pack in self._packs():
            pack.sync()
            pack.close()

    @property
    def place(self) -> dict[str, int]:
        """What a checkpoint keeps: the lengths of the files."""
        return {"pack": self._pack.length if self._pack else 0, "flight": self._flight.length if self._flight else 0}

    def go_on(self, place: Mapping[str, Any], stored: Mapping[str, Mapping[str, int]]) -> None:
        """Take up the files at `place`; `stored` says which inputs lie where in them."""
        if self._pack:
            self._pack = self._new(PACK, length=place["pack"], offsets=stored.get(PACK))
        self._flight = self._new(FLIGHT, length=place["flight"], offsets=stored.get(FLIGHT))

    def _new(self, name: str, *, length: int = 0, offsets: Mapping[str, int] | None = None) -> Pack | None:
        return Pack(self._folder / INPUTS / name, length=length, offsets=offsets) if self._folder else None

    def _packs(self) -> Iterator[Pack]:
        yield from (pack for pack in (self._pack, self._flight) if pack)
