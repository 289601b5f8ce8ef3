"""From uint8 pixels to the tensors that go into the model, so that each can be made again, bit for bit, from its record.

    recipe = Recipe(height=32, width=32, channels=3, augment="flip+crop")
    keys = path_keys(files)
    ids = epoch_order(keys, seed=0, epoch=3)[:64]
    inputs = make_batch(pixels, ids, keys=keys[ids], recipe=recipe, seed=0, epoch=3, augment=True, device=device)
    names = digests(inputs.cpu().numpy())                 # 16 hex digits per sample

Training calls `make_batch`, replay calls `make_inputs`, which returns the same bits without torch.

An input is float32, (pixel - 127.5) * (1 / 127.5), so from -1 to 1, or normalised as the weights of a pretrained model ask
(capture_cli.normalisation).

Augmentation draws from capture_cli.keyed_random, so it depends on (seed, epoch, relative path) alone. Only `train` has any.
Others than these are in capture_cli.augmentation.

    flip   mirrored left to right, for one half of the draws
    crop   moved by -pad to +pad pixels down and across, each equally likely, where pad is an eighth of that side, rounded half
           up, at least 1. What comes in at the edge is the picture reflected there, without doubling its edge (a side of 1
           pixel is repeated)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from capture_cli import augmentation
from capture_cli.errors import RecordsError
from capture_cli.keyed_random import Keys, below, draw, epoch_order, path_keys
from capture_cli.normalisation import CENTRE, SCALE, PerChannel, is_centre, is_scale, normalise, per_channel
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.geometry import (
    CROP_SHARE,
    FILTERS,
    MAX_PIXELS,
    ORIENTATIONS,
    RESIZES,
    WHITE,
    Background,
    Geometry,
    is_background,
    is_depth,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Recipe", "digests", "epoch_order", "make_batch", "make_inputs", "path_keys", "to_pixels"]

_THIS_VERSION: Mapping[str, PerChannel] = {"centre": CENTRE, "scale": SCALE}
_OTHER_VERSION = "use the version of capture that wrote it"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All steps between the bytes of an image file and the tensor that goes into the model.

    This version knows one value of most fields; a later one can change a step and still make old inputs again.
    """

    height: int
    width: int
    channels: int
    """1 grey (ITU-R 601-2 luma), 3 RGB."""
    augment: str = "none"
    """In the phase `train`: capture_cli.augmentation, in its canonical form."""
    random: str = "xxh3-splitmix64"
    """The generator: capture_cli.keyed_random."""
    frame: str = "first"
    """The picture that is taken of an animation or a multi-picture file."""
    orientation: str = ORIENTATIONS[-1]
    """The metadata that tell which way up a picture is: one of ORIENTATIONS."""
    background: Background = WHITE
    """Behind transparent pixels, and around padded pictures: a grey level, or (red, green, blue)."""
    depth: str = "high-byte"
    """How more than 8 bits become 8: `high-byte`, `minmax` or a number of bits (capture_cli.pixels.depth)."""
    resize: str = "stretch"
    """One of RESIZES, to exactly height x width (capture_cli.pixels.geometry.fit)."""
    crop_share: float = CROP_SHARE
    """For `crop`: the part of the shorter side that is kept. Recorded with `crop` alone."""
    filter: str = FILTERS[0]
    """The resampling filter: one of FILTERS."""
    centre: PerChannel = CENTRE
    """input = (pixel - centre) * scale."""
    scale: PerChannel = SCALE
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raise RecordsError for a value that this version cannot apply."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("centre", "scale"):
                valid = (is_centre if field.name == "centre" else is_scale)(value, self.channels)
            else:
                valid = _VALID.get(field.name, _is(field.default))(value)
            if not valid:
                raise RecordsError(f"this version cannot make inputs with {field.name} {value!r}", _OTHER_VERSION)

    @property
    def flips(self) -> bool:
        """Training pictures are mirrored at random."""
        return "flip" in augmentation.names(self.augment)

    @property
    def pads(self) -> tuple[int, int]:
        """The most that a training picture is moved (down, across), in pixels; (0, 0) if it is not moved."""
        if "crop" not in augmentation.names(self.augment):
            return 0, 0
        return max(1, (self.height + 4) // 8), max(1, (self.width + 4) // 8)

    @property
    def geometry(self) -> Geometry:
        """The part of the recipe that decodes files to pixels."""
        return self.geometry_within(MAX_PIXELS)

    def geometry_within(self, max_pixels: int) -> Geometry:
        """Return the geometry, which decodes no picture of more than `max_pixels`."""
        return Geometry(max_pixels=max_pixels, **{name: getattr(self, name) for name in _OF_GEOMETRY})

    @classmethod
    def of(cls, geometry: Geometry, **rest: Any) -> Recipe:
        """Make the recipe for pixels of this geometry; `rest` are the other fields."""
        return cls(**{name: getattr(geometry, name) for name in _OF_GEOMETRY}, **rest)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as it is recorded."""
        recorded = asdict(self)
        if self.resize != "crop":
            del recorded["crop_share"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in recorded.items()}

    @classmethod
    def from_dict(cls, recorded: Mapping[str, Any]) -> Recipe:
        """Read a record, which may come from anywhere. Raises RecordsError unless this version can apply it exactly."""
        if not isinstance(recorded, Mapping):
            raise RecordsError("the input recipe is not an object", _OTHER_VERSION)
        known = {field.name for field in fields(cls)}
        if recorded.get("resize") != "crop":
            known.remove("crop_share")
        for name in sorted(known ^ set(recorded)):
            problem = "lacks" if name in known else "has the unknown field"
            raise RecordsError(f"the input recipe {problem} {name!r}", _OTHER_VERSION)
        values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in recorded.items()}
        return cls(**values)


def _is(expected: object) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(expected) and value == expected


def _one_of(choices: Sequence[object]) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(one) and value == one for one in choices)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**16


_OF_GEOMETRY = ("height", "width", "channels", "orientation", "background", "depth", "resize", "crop_share", "filter")
_VALID: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("height", "width"), _is_side),
    "channels": _one_of((1, 3)),
    "augment": augmentation.is_canonical,
    "orientation": _one_of(ORIENTATIONS),
    "background": is_background,
    "depth": is_depth,
    "resize": _one_of(RESIZES),
    "crop_share": lambda value: type(value) is float and 0.01 <= value <= 1,
    "filter": _one_of(FILTERS),
}
"""Field -> whether this version can apply a value; any other field has one value."""


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
    """Make the inputs of B samples: float32 [B, C, H, W], contiguous, on `device`.

    `pixels` is the store, uint8 [N, C, H, W] on the CPU. `ids`, int64 [B], are places in it, and `keys`, uint64 [B], the path
    keys of these samples. Without `augment`, as in evaluation, the recipe's augmentation is not applied.
    """
    import torch

    gathered = _gather(pixels.numpy(), ids, keys, recipe, seed, epoch, augment)
    inputs: torch.Tensor = torch.from_numpy(gathered).to(device, non_blocking=True).to(torch.float32)
    normalise(inputs, recipe.centre, recipe.scale)
    return inputs


def make_inputs(pixels: Pixels, ids: Ints, *, keys: Keys, recipe: Recipe, seed: int, epoch: int, augment: bool) -> Floats:
    """Do as `make_batch` does, with the same bits, without torch unless torchvision augments."""
    inputs = _gather(pixels, ids, keys, recipe, seed, epoch, augment).astype(np.float32)
    normalise(inputs, recipe.centre, recipe.scale)
    return inputs


def _gather(pixels: Pixels, ids: Ints, keys: Keys, recipe: Recipe, seed: int, epoch: int, augment: bool) -> Pixels:
    """Collect the samples, augmented: uint8 [B, C, H, W]."""
    if not augment or recipe.augment == "none":
        return pixels.take(ids, axis=0)
    batch = _moved(pixels, ids, keys, recipe, seed, epoch)
    if steps := augmentation.torchvision_steps(recipe.augment):
        batch = augmentation.augmented(batch, steps, keys=keys, seed=seed, epoch=epoch)
    return batch


def _moved(pixels: Pixels, ids: Ints, keys: Keys, recipe: Recipe, seed: int, epoch: int) -> Pixels:
    """Collect the samples, moved and mirrored: uint8 [B, C, H, W].

    A picture is moved down by taking its rows in another order, for the whole batch in one gather of rows. It is moved across
    and mirrored by copying its rows in at most two slices.
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
    """Draw for B samples, [B] each: pixels moved down and across, from -pad to +pad, and whether the input is mirrored."""
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
    """Reflect places up to `side` - 1 outside a side into it: -1 is 1, `side` is `side` - 2."""
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


def to_pixels(image: npt.NDArray[Any], recipe: Mapping[str, Any] = _THIS_VERSION) -> Pixels:
    """Convert an input [C, H, W] to pixels that can be shown, uint8 [C, H, W]; uint8 is returned as it is, NaN becomes 0.

    With the `centre` and `scale` of a recipe, they are exactly the pixels that went in. Without (an input of a loop of one's
    own) the range of the values is guessed: 0 to 1, -1 to 1, or from the least to the greatest finite value.
    """
    if image.dtype == np.uint8:
        return image
    values = image.astype(np.float32)
    if "centre" in recipe and "scale" in recipe:
        values = values / per_channel(recipe["scale"]) + per_channel(recipe["centre"])
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
    """Hash each sample of an array [B, ...]: XXH3-64, 16 hex digits, of its contiguous little-endian bytes.

    For a dtype that numpy lacks pass the same bytes as another: `tensor.view(torch.int16).numpy()` for bfloat16.
    """
    if inputs.dtype.byteorder == ">":
        inputs = inputs.astype(inputs.dtype.newbyteorder("<"))
    if inputs.size == 0:
        return [xxhash.xxh3_64_hexdigest(b"")] * len(inputs)
    return list(map(xxhash.xxh3_64_hexdigest, np.ascontiguousarray(inputs)))
