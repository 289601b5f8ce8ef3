"""From uint8 pixels to the tensors that go into the model, so that each can be made again, bit for bit, from the record of it.

    recipe = Recipe(height=32, width=32, channels=3, augment="flip+crop")
    keys = path_keys(files)
    order = epoch_order(keys, seed=0, epoch=3)
    ids = order[:64]
    inputs = make_batch(pixels, ids, keys=keys[ids], recipe=recipe, seed=0, epoch=3, augment=True, device=device)
    names = digests(inputs.cpu().numpy())                 # 16 hex digits a sample

    one = make_one(pixels[i], key=keys[i], recipe=recipe, seed=0, epoch=3, augment=True)      # the same, one sample, slowly

`make_batch` works on whole batches and is what training calls; `make_one` says the same as plainly as possible, in numpy alone,
and is what replay calls. A test holds them equal bit for bit.

An input is float32, (pixel - 127.5) * (1 / 127.5), so from -1 to 1. The difference is exact (both are multiples of a half) and
the product is rounded once, so the CPU, CUDA and numpy agree in every bit. It is a product since CUDA turns a division by a
number into one anyway, and no other operation follows that could be fused with it.

Augmentation is by `draws`, so it depends on (seed, epoch, relative path) alone. Phases other than `train` have none.

    flip   mirrored left to right, for one half of the draws
    crop   moved by -pad to +pad pixels down and across, each equally likely, where pad is an eighth of that side, rounded
           half up, at least 1; what comes in at the edge is the picture reflected there, its edge not doubled (a side of 1
           pixel, which has nothing to reflect, is repeated)

Torch is imported when the first batch is made, so that reading records does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from capture_cli.errors import RecordsError
from capture_cli.keyed_random import Keys, below, draw, epoch_order, path_keys
from capture_cli.pixels.decoding import BACKGROUND

if TYPE_CHECKING:
    import torch

__all__ = ["Recipe", "digests", "epoch_order", "make_batch", "make_one", "path_keys"]

AUGMENTATIONS = ("none", "flip", "crop", "flip+crop")
CENTRE = 127.5
SCALE = 1 / 127.5
_THIS_VERSION: Mapping[str, float] = {"centre": CENTRE, "scale": SCALE}

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that lies between the bytes of an image file and the tensor that goes into the model.

    Of most fields this version knows one value; they are there so that a record says what was done, and a later version can
    do otherwise and still make old inputs again.
    """

    height: int
    width: int
    channels: int
    """1 grey (ITU-R 601-2 luma), 3 RGB."""
    augment: str = "none"
    """Of the train phase: one of AUGMENTATIONS."""
    random: str = "xxh3-splitmix64"
    """How chance is made: capture_cli.keyed_random."""
    frame: str = "first"
    """Of animations and multi-picture files."""
    orientation: str = "exif"
    background: int = BACKGROUND
    """What transparency is laid on, in every channel: white."""
    depth: str = "high-byte"
    """What is kept of 16 bits."""
    resize: str = "stretch"
    """To exactly height x width, proportions not kept; nothing is done to a picture of that size."""
    filter: str = "pillow-bilinear-antialias"
    centre: float = CENTRE
    """input = (pixel - centre) * scale."""
    scale: float = SCALE
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raise RecordsError for a value that this version cannot carry out."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("height", "width"):
                _demand(field.name, value, type(value) is int and 1 <= value < 2**16)
            elif field.name == "channels":
                _demand(field.name, value, type(value) is int and value in (1, 3))
            elif field.name == "augment":
                _demand(field.name, value, value in AUGMENTATIONS)
            else:
                _demand(field.name, value, type(value) is type(field.default) and value == field.default)

    @property
    def flips(self) -> bool:
        """Training pictures are mirrored at random."""
        return "flip" in self.augment

    @property
    def pads(self) -> tuple[int, int]:
        """How far a training picture is moved at most, (down, across) in pixels; (0, 0) where it is not moved."""
        if "crop" not in self.augment:
            return 0, 0
        return max(1, (self.height + 4) // 8), max(1, (self.width + 4) // 8)

    def to_dict(self) -> dict[str, Any]:
        """As it is recorded."""
        return asdict(self)

    @classmethod
    def from_dict(cls, recorded: Mapping[str, Any]) -> Recipe:
        """From a record, which may come from anywhere. Raises RecordsError unless this version can carry it out exactly."""
        if not isinstance(recorded, Mapping):
            raise RecordsError("the input recipe is not an object", "use the version of capture that wrote it")
        known = {field.name for field in fields(cls)}
        for name in sorted(known ^ set(recorded)):
            what = "lacks" if name in known else "has the unknown field"
            raise RecordsError(f"the input recipe {what} {name!r}", "use the version of capture that wrote it")
        return cls(**recorded)


def _demand(name: str, value: object, satisfied: bool) -> None:
    if not satisfied:
        raise RecordsError(
            f"an input recipe with {name} {value!r} cannot be carried out", "use the version of capture that wrote it"
        )


def make_batch(
    pixels: torch.Tensor,
    ids: Ints,
    *,
    keys: Keys,
    recipe: Recipe,
    seed: int,
    epoch: int,
    augment: bool,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The inputs of B samples: float32 [B, C, H, W], contiguous, on `device`.

    `pixels` is the store, uint8 [N, C, H, W] on the CPU; `ids` int64 [B] are places in it and `keys` uint64 [B] the path keys
    of the same samples, in the same order. With `augment` false the recipe's augmentation is left out, as in evaluation.
    """
    import torch

    gathered = _gather(pixels.numpy(), ids, keys, recipe, seed, epoch) if augment else pixels.numpy().take(ids, axis=0)
    return torch.from_numpy(gathered).to(device, non_blocking=True).to(torch.float32).sub_(CENTRE).mul_(SCALE)


def _gather(pixels: Pixels, ids: Ints, keys: Keys, recipe: Recipe, seed: int, epoch: int) -> Pixels:
    """uint8 [B, C, H, W]: the samples, augmented.

    A picture is moved down by taking its rows in another order, which for the batch is one gather of whole rows; it is moved
    across and mirrored by copying the rows in at most two slices.
    """
    down, across, mirrored = _moves(keys, recipe, seed, epoch)
    if not recipe.pads[0]:
        batch = pixels.take(ids, axis=0)
        batch[mirrored] = batch[mirrored, ..., ::-1]
        return batch
    _, channels, height, width = pixels.shape
    places = _reflected(np.arange(height) + down[:, np.newaxis], height)  # [B, H] row of the picture for each row of the input
    planes = ids[:, np.newaxis] * channels + np.arange(channels)  # [B, C]
    rows = planes[:, :, np.newaxis] * height + places[:, np.newaxis, :]  # [B, C, H]
    sources = pixels.reshape(-1, width).take(rows.reshape(-1), axis=0).reshape(len(ids), channels * height, width)
    batch = np.empty_like(sources)
    for target, source, shift, mirror in zip(batch, sources, across.tolist(), mirrored.tolist(), strict=True):
        _shift(target[:, ::-1] if mirror else target, source, shift)
    return batch.reshape(len(ids), channels, height, width)


def _moves(keys: Keys, recipe: Recipe, seed: int, epoch: int) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """[B] each: where in the picture the input's first row and column lie, from -pad to +pad, and whether it is mirrored."""
    down_pad, across_pad = recipe.pads
    down = across = np.zeros(len(keys), np.int64)
    mirrored = np.zeros(len(keys), np.bool_)
    if down_pad:
        numbers = draw(keys, seed=seed, epoch=epoch, purpose="crop")
        down = below(numbers, 2 * down_pad + 1, half=1) - down_pad
        across = below(numbers, 2 * across_pad + 1, half=0) - across_pad
    if recipe.flips:
        mirrored = draw(keys, seed=seed, epoch=epoch, purpose="flip") >= np.uint64(2**63)
    return down, across, mirrored


def _reflected(places: Ints, side: int) -> Ints:
    """Places up to `side` - 1 outside a side, reflected into it: -1 is 1, `side` is `side` - 2."""
    last = side - 1
    inside: Ints = last - np.abs(last - np.abs(places))
    return np.maximum(inside, 0)  # a side of 1 pixel


def _shift(target: Pixels, source: Pixels, shift: int) -> None:
    """Write rows [R, W] so that target column x is source column x + shift, reflected at the edges."""
    width = source.shape[1]
    count = abs(shift)
    if not count or width == 1:
        target[...] = source
    elif shift < 0:
        target[:, count:] = source[:, :-count]
        target[:, :count] = source[:, count:0:-1]
    else:
        target[:, :-count] = source[:, count:]
        target[:, -count:] = source[:, -count - 1 : -1][:, ::-1]


def make_one(image: Pixels, *, key: int, recipe: Recipe, seed: int, epoch: int, augment: bool) -> Floats:
    """The input of one sample, float32 [C, H, W], from its pixels, uint8 [C, H, W], and its path key.

    Slow and obvious: what `make_batch` does, one step after the other.
    """
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


def to_pixels(image: npt.NDArray[Any], recipe: Mapping[str, Any] = _THIS_VERSION) -> Pixels:
    """Convert an input [C, H, W] to pixels for people to look at, uint8 [C, H, W].

    They are exactly the pixels that went in where `recipe` has the `centre` and `scale` that made the input. Without them (an
    input of somebody's own loop) the range of the values is guessed: 0 to 1, -1 to 1, or the least to the greatest finite one.
    NaN becomes 0, other values outside the range the nearest pixel; uint8 is returned as it is.
    """
    if image.dtype == np.uint8:
        return image
    values = image.astype(np.float32)
    if "centre" in recipe and "scale" in recipe:
        values = values / np.float32(recipe["scale"]) + np.float32(recipe["centre"])
    else:
        low, high = _range(values[np.isfinite(values)])
        values = (values - low) * (255 / ((high - low) or 1.0))
    return np.rint(np.nan_to_num(values, nan=0.0)).clip(0, 255).astype(np.uint8)


def _range(values: Floats) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (-1.0, 1.0) if low >= -1 and high <= 1 else (low, high)


def digests(inputs: npt.NDArray[Any]) -> list[str]:
    """XXH3-64, 16 hex digits, of each sample in an array [B, ...]: of its contiguous little-endian bytes.

    For a dtype that numpy lacks give the same bytes under another: `tensor.view(torch.int16).numpy()` for bfloat16.
    """
    if inputs.dtype.byteorder == ">":
        inputs = inputs.astype(inputs.dtype.newbyteorder("<"))
    if inputs.size == 0:
        return [xxhash.xxh3_64_hexdigest(b"")] * len(inputs)
    return list(map(xxhash.xxh3_64_hexdigest, np.ascontiguousarray(inputs)))
