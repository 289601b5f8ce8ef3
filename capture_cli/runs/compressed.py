"""Decompress gzip and Zstandard while reading, recognised by their first bytes; anything else is passed through.

    chunk, read = decompressing(lambda: os.read(fd, 1 << 20))
    while chunk:
        chunk = read()

Memory is bounded whatever the data: a chunk has at most CHUNK_BYTES, Zstandard looks back at most 128 MB. Truncated data ends
early, without an error.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from capture_cli.errors import RecordsError

CHUNK_BYTES = 1 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class _Decoder(Protocol):
    """A decoder of one gzip member or Zstandard frame."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Gzip:
    """zlib's decoder in the form that the standard library's newer ones have."""

    needs_input = True

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        found = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self.needs_input = not self._decoder.unconsumed_tail and len(found) < max_length
        return found

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


def is_compressed(beginning: bytes) -> bool:
    """Return whether data that begin like this are decompressed."""
    return beginning.startswith((GZIP, ZSTD))


def decompressing(read: Callable[[], bytes]) -> tuple[bytes, Callable[[], bytes]]:
    """The first chunk, and a function that returns the next one: what `read` returns, decompressed; b"" at the end.

    The function is `read` itself if the data are not compressed. Raises RecordsError where they cannot be decompressed.
    """
    data = read()
    while 0 < len(data) < len(ZSTD) and (GZIP.startswith(data[:2]) or ZSTD.startswith(data)) and (more := read()):
        data += more
    if not is_compressed(data):
        return data, read
    found = _decompressed(data, read)
    return next(found, b""), lambda: next(found, b"")


def _decompressed(data: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    make, failure = _gzip() if data.startswith(GZIP) else _zstd()
    while data:  # a file may have several members or frames
        decoder = make()
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = read()
                if not data:
                    return
            try:
                found = decoder.decompress(data, CHUNK_BYTES)
            except failure as error:
                raise RecordsError(f"cannot be decompressed: {error}") from error
            data = b""
            if found:
                yield found
        data = decoder.unused_data or read()


def _gzip() -> tuple[Callable[[], _Decoder], type[Exception]]:
    return _Gzip, zlib.error


def _zstd() -> tuple[Callable[[], _Decoder], type[Exception]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdDecompressor, zstd.ZstdError
