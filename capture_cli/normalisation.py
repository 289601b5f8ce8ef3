"""From pixels to the numbers that go into the model: input = (pixel - centre) * scale, for all channels or for each.

    centre, scale = from_mean_and_std([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    normalise(inputs, centre, scale)                # float32 [B, C, H, W], in place; torch or numpy

The difference and the product are rounded one by one, to float32, so CPU, CUDA and numpy agree in every bit. (CUDA turns a
division into a product; nothing follows that could be fused with it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

CENTRE = 127.5
SCALE = 1 / 127.5
"""By default an input is from -1 to 1, and the difference is exact."""

PerChannel = float | tuple[float, ...]
"""One number for all channels, or one for each."""


def from_mean_and_std(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return centre and scale for pixels of 0 to 255 from mean and standard deviation for values of 0 to 1."""
    return tuple(255 * one for one in mean), tuple(1 / (255 * one) for one in std)


def is_centre(value: object, channels: int) -> bool:
    """Return True for CENTRE, or a number for each channel."""
    return _is(CENTRE, value) or (_are_numbers(value, channels) and all(-1e6 <= one <= 1e6 for one in value))  # type: ignore[attr-defined]


def is_scale(value: object, channels: int) -> bool:
    """Return True for SCALE, or a number above 0 for each channel."""
    return _is(SCALE, value) or (_are_numbers(value, channels) and all(1e-6 <= one <= 1e6 for one in value))  # type: ignore[attr-defined]


def _is(expected: float, value: object) -> bool:
    return type(value) is float and value == expected


def _are_numbers(value: object, channels: int) -> bool:
    return isinstance(value, tuple) and len(value) == channels and all(type(one) is float and isfinite(one) for one in value)


def normalise(inputs: Any, centre: PerChannel, scale: PerChannel) -> Any:
    """Normalise float32 inputs [B, C, H, W] in place, a torch tensor or a NumPy array; return them."""
    if isinstance(inputs, np.ndarray):
        inputs -= per_channel(centre)
        inputs *= per_channel(scale)
        return inputs
    if isinstance(centre, float) and isinstance(scale, float):
        return inputs.sub_(centre).mul_(scale)
    return inputs.sub_(_like(inputs, centre)).mul_(_like(inputs, scale))


def _like(inputs: Any, value: PerChannel) -> Any:
    return inputs.new_tensor(per_channel(value))


def per_channel(value: PerChannel | Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the value as float32 that fits [C, H, W]: of shape [C, 1, 1], or of none."""
    array = np.asarray(value, np.float32)
    return array.reshape(-1, 1, 1) if array.ndim else array
