"""Inputs that a run kept whole, read back and compared with the digests recorded beside them.

    with StoredInputs(run.folder) as stored:
        for mismatch in stored.mismatches(batch.inputs, positions):
            ...
        stored.count                                    # how many were read

Records are not trusted: a pack is a regular file in `inputs/` of the run folder, reached through no link; an offset lies within
it; as many bytes are read as the shape of the inputs needs.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import xxhash

from capture_cli.errors import RecordsError, Unusable, UsageError
from capture_cli.records import AnyBatch, Inputs
from capture_cli.sources.access import open_file, opened

_DTYPE = re.compile(r"bool|(?:u?int|b?float|complex)(8|16|32|64|128)(?:_e[0-9]m[0-9][a-z]*)?")
"""Names of dtypes; the number is that of the bits."""
MAX_INPUT_BYTES = 2**28
_PACK = re.compile(r"inputs/[a-z0-9-]{1,64}\.bin")
_MAX_PACKS = 16


class Mismatch(NamedTuple):
    """One stored input that does not match its record."""

    sample: int
    """Its position in the batch."""
    place: str
    """The place of its bytes."""
    reason: str


class StoredInputs:
    """The inputs that a run has in its lines and its packs."""

    def __init__(self, run_folder: Path | None) -> None:
        """`run_folder` is None if there are only records: then packs cannot be read."""
        self.count = 0
        self._folder = run_folder
        self._packs: dict[str, int] = {}
        self._opened = ExitStack()

    def mismatches(self, inputs: Inputs, chosen: Container[int]) -> Iterator[Mismatch]:
        """Check the stored inputs of the chosen samples of a batch.

        Raises RecordsError for a record that cannot be true, UsageError for packs without a run folder.
        """
        size = _input_bytes(inputs)
        for sample, text in enumerate(_values(inputs)):
            if sample in chosen:
                yield from self._checked(sample, f"value {sample}", inputs.digests[sample], _decoded(text, size))
        for sample, offset in enumerate(_offsets(inputs)):
            if sample in chosen:
                pack = str((inputs.stored or {})["pack"])
                data = self._read(pack, offset, size)
                yield from self._checked(sample, f"{pack} at byte {offset}", inputs.digests[sample], data)

    def _checked(self, sample: int, place: str, digest: str, data: bytes | str) -> Iterator[Mismatch]:
        self.count += 1
        if isinstance(data, str):
            yield Mismatch(sample, place, data)
        elif (now := xxhash.xxh3_64_hexdigest(data)) != digest:
            yield Mismatch(sample, place, f"its digest is {now}, recorded is {digest}")

    def _read(self, pack: str, offset: int, size: int) -> bytes | str:
        """The bytes, or why they cannot be read."""
        try:
            descriptor = self._open(pack)
            length = os.fstat(descriptor).st_size
            if offset + size > length:
                return f"the file ends at byte {length}"
            data = os.pread(descriptor, size, offset)
        except Unusable as error:
            return f"the file cannot be read: {error}"
        except OSError as error:
            return f"the file cannot be read: {error.strerror}"
        return data if len(data) == size else "the file became shorter"

    def _open(self, pack: str) -> int:
        if pack not in self._packs:
            if self._folder is None:
                raise UsageError(f"stored inputs are in {pack} of the run folder", "give the run folder, not its records alone")
            if len(self._packs) >= _MAX_PACKS:
                raise Unusable("too-many-packs")
            with opened(self._folder) as folder:
                self._packs[pack] = open_file(folder, pack, max_bytes=2**63)
            self._opened.callback(os.close, self._packs[pack])
        return self._packs[pack]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()


def inputs_before(batch: AnyBatch) -> Inputs | None:
    """The inputs of the batch before one that the flight recorder kept, if it kept them. Raises RecordsError."""
    before = (batch.flight or {}).get("before")
    if not before:
        return None
    body = before.get("inputs") if isinstance(before, Mapping) else None
    try:
        inputs = Inputs(**body)  # type: ignore[arg-type]
    except TypeError as error:
        raise RecordsError("a batch record whose flight does not fit") from error
    is_shape = isinstance(inputs.shape, list) and all(type(n) is int for n in inputs.shape)
    if not is_shape or not isinstance(inputs.digests, list) or not isinstance(inputs.dtype, str):
        raise RecordsError("a batch record whose flight does not fit")
    return inputs


def _input_bytes(inputs: Inputs) -> int:
    """The length of one input. Raises RecordsError for a shape and dtype that no input can have."""
    dtype = _DTYPE.fullmatch(inputs.dtype)
    size = int(dtype[1] or 8) // 8 * math.prod(inputs.shape) if dtype else -1
    if min(inputs.shape, default=0) < 0 or not 0 <= size <= MAX_INPUT_BYTES:
        raise RecordsError(f"impossible inputs of shape {list(inputs.shape)} and dtype {inputs.dtype!r}")
    return size


def _values(inputs: Inputs) -> list[str]:
    values: Any = inputs.values if inputs.values is not None else []
    if not isinstance(values, list) or len(values) > len(inputs.digests) or not all(isinstance(one, str) for one in values):
        raise RecordsError("a batch record whose stored values do not fit")
    return values


def _offsets(inputs: Inputs) -> list[int]:
    stored: Any = inputs.stored
    if stored is None:
        return []
    offsets, pack = (stored.get("offsets"), stored.get("pack")) if isinstance(stored, Mapping) else (None, None)
    if not isinstance(offsets, list) or len(offsets) != len(inputs.digests):
        raise RecordsError("a batch record whose stored offsets do not fit")
    if not all(type(one) is int and 0 <= one < 2**62 for one in offsets):
        raise RecordsError("a batch record whose stored offsets are not byte positions")
    if not isinstance(pack, str) or not _PACK.fullmatch(pack):
        raise RecordsError("a batch record whose stored inputs are not in a pack of inputs/")
    return offsets


def _decoded(text: str, size: int) -> bytes | str:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "it is not base64"
    return data if len(data) == size else f"it has {len(data)} bytes instead of {size}"
