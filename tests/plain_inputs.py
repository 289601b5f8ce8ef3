"""The recipe read as plainly as possible, one sample and one step at a time: what the fast code is compared with."""

import numpy as np
import numpy.typing as npt

from capture_cli.keyed_random import draw
from capture_cli.preprocessing import CENTRE, SCALE, Recipe


def make_one(
    image: npt.NDArray[np.uint8], *, key: int, recipe: Recipe, seed: int, epoch: int, augment: bool
) -> npt.NDArray[np.float32]:
    """Make the input of one sample, float32 [C, H, W], from its pixels, uint8 [C, H, W], and its path key."""
    _, height, width = image.shape
    if augment and recipe.pads != (0, 0):
        down, across = recipe.pads
        number = int(draw(np.array([key], np.uint64), seed=seed, epoch=epoch, purpose="crop")[0])
        top = ((number >> 32) * (2 * down + 1)) >> 32
        left = ((number & 0xFFFFFFFF) * (2 * across + 1)) >> 32
        image = np.pad(image, ((0, 0), (down, down), (0, 0)), mode="reflect" if height > 1 else "edge")
        image = np.pad(image, ((0, 0), (0, 0), (across, across)), mode="reflect" if width > 1 else "edge")
        image = image[:, top : top + height, left : left + width]
    if augment and recipe.flips:
        number = int(draw(np.array([key], np.uint64), seed=seed, epoch=epoch, purpose="flip")[0])
        if number >> 63:
            image = image[:, :, ::-1]
    difference = image.astype(np.float32) - np.float32(CENTRE)
    return np.ascontiguousarray(difference * np.float32(SCALE))
