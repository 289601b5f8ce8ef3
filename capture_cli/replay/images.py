"""Decoded images of a run, a limited number held at a time.

    images = DecodedImages(run.images, geometry)
    pixels, found, unusable = images.get([ImageFile("cat_1.png", digest), ...])     # pixels: uint8 [len(found), C, H, W]

Only bytes with the recorded BLAKE2b reach a decoder (capture_cli.runs.images).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from capture_cli.errors import Unusable, UsageError
from capture_cli.pixels.admission import Loader
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.store import MemoryStore
from capture_cli.runs import RunImages

CACHE_BYTES = 2**29
"""Decoded pixels that are held, one byte per channel."""
MAX_SIDE = 4096
"""Longest side of an input in pixels, as for `--img-size`."""


class ImageFile(NamedTuple):
    """One image file as a samples record names it."""

    name: str
    """Relative to the folder."""
    digest: str
    """BLAKE2b (16 bytes, hex) of its bytes."""


class Got(NamedTuple):
    """The pixels of those of n files that can be used."""

    pixels: Pixels
    """uint8 [len(found), C, H, W]"""
    found: list[int]
    """Their positions in the list that was asked for, rising."""
    unusable: dict[int, Unusable]
    """The reasons for the others, by position."""


class DecodedImages:
    """Images decoded when first used; those not used for longest are dropped first."""

    def __init__(self, images: RunImages, geometry: Geometry, *, cache_bytes: int = CACHE_BYTES) -> None:
        """Raise UsageError for sides beyond MAX_SIDE."""
        if max(geometry.height, geometry.width) > MAX_SIDE:
            raise UsageError(
                f"inputs of {geometry.height}x{geometry.width} pixels are too large", f"the longest side is {MAX_SIDE} pixels"
            )
        self.geometry = geometry
        self.capacity = max(1, cache_bytes // math.prod(geometry.shape))
        """Images that are held between two calls."""
        self._images = images
        self._held: OrderedDict[ImageFile, Pixels] = OrderedDict()

    def __len__(self) -> int:
        """Images held now."""
        return len(self._held)

    def get(self, files: Sequence[ImageFile]) -> Got:
        """Decode files, which may be named more than once. Needs memory for all of them."""
        for file in files:
            if file in self._held:
                self._held.move_to_end(file)
        missing = [file for file in dict.fromkeys(files) if file not in self._held]
        store = MemoryStore(len(missing), Loader(self.geometry))
        admission = store.admit(range(len(missing)), lambda i: self._images.read(*missing[i]))
        self._held.update((missing[i], store.pixels[i].copy()) for i in admission.ids)
        failed = {missing[i]: unusable for i, unusable in admission.skipped}
        found = [i for i, file in enumerate(files) if file in self._held]
        pixels = np.empty((len(found), *self.geometry.shape), np.uint8)
        for target, i in zip(pixels, found, strict=True):
            target[...] = self._held[files[i]]
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return Got(pixels, found, {i: failed[file] for i, file in enumerate(files) if file in failed})
