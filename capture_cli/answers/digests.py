"""Digests of a run's image files, looked up by sample: what proves that a picture is of the file that was trained on."""

from capture_cli.records import Samples
from capture_cli.runs import Block

DIGEST_BYTES = 16
"""Length of the digest of an image file."""


class SampleDigests:
    """A fold that keeps them, 16 bytes a sample."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._digests = bytearray()

    def update(self, block: Block) -> None:
        """Take the next block."""
        if isinstance(block, Samples):
            first = len(self._digests) // DIGEST_BYTES
            self._places.update(zip(block.ids, range(first, first + len(block.ids)), strict=True))
            self._digests += bytes.fromhex("".join(block.digests))

    def of(self, sample: int | str) -> str | None:
        """The digest (32 hex digits) of a sample's file; None where no samples record names it."""
        place = None if isinstance(sample, str) else self._places.get(sample)
        return None if place is None else self._digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)].hex()
