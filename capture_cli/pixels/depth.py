"""Pictures of more than 8 bits per channel: their whole values, and how these become 8 bits.

    values = deep_values(image, reopen)             # integers or floats [H, W] or [H, W, C]; None if there are 8 bits or fewer
    pixels = to_bytes(values, "12")                 # uint8 of the same shape

    high-byte   the high 8 of 16 bits
    BITS        the high 8 of so many bits, 1 to 16: 0 to 2^BITS - 1 become 0 to 255
    minmax      from the least to the greatest value of each picture: 0 to 255

A value that needs more bits than that, and any number that is not whole, makes the picture unusable; it is never clipped in
silence. NaN and infinities are taken for the least and the greatest value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capture_cli.errors import Unusable

if TYPE_CHECKING:
    from PIL import Image

Values = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
_SWAPPED = {"B": "L", "L": "B", "N": "B"}
"""Byte orders of 16 bits, and the one under which Pillow, which keeps one byte of RGB, keeps the other one."""


def is_deep(mode: str, rawmode: str) -> bool:
    """Return True for pictures of more than 8 bits per channel, by Pillow's names of their modes."""
    return mode.startswith("I") or mode == "F" or ";16" in rawmode


def deep_values(image: Image.Image, rawmode: str, reopen: Callable[[str], Image.Image]) -> Values:
    """Read the whole values of a deep picture: [H, W], or [H, W, C] with 2 (grey, alpha), 3 or 4 channels.

    `reopen` opens the file again, to be decoded by another raw mode: Pillow has no RGB of 16 bits, it keeps one byte of two.
    """
    values: Values
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if rawmode.startswith("LA;16"):  # two bytes grey, two bytes alpha, taken for four channels
        pairs = np.asarray(reopen("RGBA")).astype(np.uint16)
        values = pairs[..., 0::2] << 8 | pairs[..., 1::2]
        return values
    order = rawmode[-1]
    high = np.asarray(image).astype(np.uint16)
    low = np.asarray(reopen(rawmode[:-1] + _SWAPPED.get(order, "B")))
    values = high << 8 | low
    return values


def to_bytes(values: Values, depth: str) -> Bytes:
    """Convert values to 8 bits as `depth` says. Raises Unusable for values that it cannot hold."""
    if values.size == 0:
        return values.astype(np.uint8)
    if depth == "minmax":
        return _stretched(values)
    if values.dtype.kind == "f":
        raise Unusable("wrong-depth", "floating-point pixels need --depth minmax")
    bits = 16 if depth == "high-byte" else int(depth)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >> bits:
        held = f"{low:,} to {high:,}" if low < 0 else f"up to {high:,}"
        raise Unusable("wrong-depth", f"values {held} do not fit into {bits} bits")
    if bits >= 8:
        return np.asarray(values >> (bits - 8), np.uint8)
    return np.asarray(values.astype(np.uint32) * 255 // (2**bits - 1), np.uint8)


def alpha_to_bytes(values: Values, depth: str) -> Bytes:
    """Convert opacity to 8 bits: by the bits of the colours where these are given, else the high byte."""
    bits = 16 if depth in ("high-byte", "minmax") else max(8, int(depth))
    return np.asarray(np.minimum(values >> (bits - 8), 255), np.uint8)


def _stretched(values: Values) -> Bytes:
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    else:
        low, high = int(values.min()), int(values.max())
    pixels = np.zeros(values.shape, np.uint8)
    for rows, target in zip(_parts(values), _parts(pixels), strict=True) if high > low else ():  # parts: eight bytes a value
        target[...] = np.rint((rows.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255)
    return pixels


def _parts(values: Values) -> list[Values]:
    return np.array_split(values, max(1, values.size // 2**20))
