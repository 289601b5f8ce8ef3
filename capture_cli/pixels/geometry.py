"""The size of a run's inputs, and how pictures of other sizes, depths and transparency are brought to it.

    geometry = Geometry(height=224, width=224, channels=3, resize="crop")
    small = fit(picture, geometry)                  # a Pillow image, L or RGB -> exactly 224 x 224

`capture_cli.pixels.choosing` chooses one from the images of a folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

RESIZES = ("stretch", "pad", "crop")
FILTERS = ("pillow-bilinear-antialias", "pillow-bicubic-antialias")
ORIENTATIONS = ("exif", "exif-or-xmp")
"""`exif`: of runs by earlier versions, which did not look into XMP."""
CROP_SHARE = 0.875  # 224 of 256, as in torchvision's evaluation transforms
MAX_PIXELS = 2**26  # 67 megapixels: a phone's 8160 x 6120, and what memory bears
MOST_PIXELS = 178_956_970  # above which Pillow itself refuses
WHITE = 255

Background = int | tuple[int, int, int]
"""The colour behind transparent pixels and around padded pictures: a grey, 0 to 255, or (red, green, blue)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """All that decides which pixels a file becomes. Raises UsageError if no picture can have this shape."""

    height: int
    width: int
    channels: int
    """1 grey, 3 RGB."""
    resize: str = "stretch"
    """One of RESIZES: how a picture of other proportions fills height x width."""
    crop_share: float = CROP_SHARE
    """For `crop`: the part of the shorter side that is kept."""
    filter: str = FILTERS[0]
    background: Background = WHITE
    depth: str = "high-byte"
    """How more than 8 bits become 8: `high-byte`, `minmax` or a number of bits (capture_cli.pixels.depth)."""
    orientation: str = ORIENTATIONS[-1]
    max_pixels: int = MAX_PIXELS
    """Larger pictures are not decoded."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise UsageError(f"image size {self.height}x{self.width} is not valid", "sides are at least 1 pixel")
        if self.channels not in (1, 3):
            raise UsageError(f"{self.channels} channels are not valid", "choose 1 (grey) or 3 (RGB)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.channels, self.height, self.width


def is_depth(text: object) -> bool:
    """Return True for `high-byte`, `minmax` and the numbers of bits `1` to `16`."""
    return isinstance(text, str) and bool(re.fullmatch(r"high-byte|minmax|[1-9]|1[0-6]", text))


def is_background(value: object) -> bool:
    """Return True for a grey level, or three of them."""
    levels = value if isinstance(value, tuple) and len(value) == 3 else (value,)
    return all(type(one) is int and 0 <= one <= 255 for one in levels)


def parse_background(text: str) -> Background | None:
    """Parse `white`, `black` or `R,G,B`; None if it is none of them. Three equal numbers are a grey."""
    named = {"white": 255, "black": 0}.get(text)
    if named is not None:
        return named
    match = re.fullmatch(r"(\d{1,3}), ?(\d{1,3}), ?(\d{1,3})", text)
    levels = tuple(map(int, match.groups())) if match else ()
    if len(levels) != 3 or max(levels) > 255:
        return None
    red, green, blue = levels
    return red if red == green == blue else (red, green, blue)


def fit(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Bring a picture, mode L or RGB, to the width and height of `geometry`.

    `stretch` ignores proportions. `pad` scales until the picture fits, and puts it in the middle of the background. `crop`
    scales until the picture covers height / crop_share and width / crop_share, and cuts out the middle, with the roundings of
    torchvision's `Resize` and `CenterCrop`. A picture that has its size already is not resampled.
    """
    size = (geometry.width, geometry.height)
    if image.size == size and geometry.resize != "crop":
        return image
    from PIL import Image

    resampling = Image.Resampling.BICUBIC if "bicubic" in geometry.filter else Image.Resampling.BILINEAR
    if geometry.resize == "crop":
        return _crop(image, size, geometry.crop_share, resampling)
    if geometry.resize == "stretch":
        return image.resize(size, resampling)
    return _pad(image, size, geometry.background, resampling)


def _crop(image: Image.Image, size: tuple[int, int], share: float, resampling: Image.Resampling) -> Image.Image:
    wide, high = (round(side / share) for side in size)
    width, height = image.size
    scaled = (wide, int(wide * height / width)) if width * high <= height * wide else (int(high * width / height), high)
    left, top = (round((whole - side) / 2) for whole, side in zip(scaled, size, strict=True))
    box = (left, top, left + size[0], top + size[1])
    if scaled[0] * scaled[1] > 16 * wide * high:  # a very long strip: only what is kept is computed, or memory would run out
        across, down = width / scaled[0], height / scaled[1]
        return image.resize(size, resampling, box=(box[0] * across, box[1] * down, box[2] * across, box[3] * down))
    return (image if image.size == scaled else image.resize(scaled, resampling)).crop(box)


def _pad(image: Image.Image, size: tuple[int, int], background: Background, resampling: Image.Resampling) -> Image.Image:
    width, height = image.size
    if width * size[1] >= height * size[0]:
        scaled = size[0], max(1, round(height * size[0] / width))
    else:
        scaled = max(1, round(width * size[1] / height)), size[1]
    paper = blank(image.mode, size, background)
    smaller = image if image.size == scaled else image.resize(scaled, resampling)
    paper.paste(smaller, ((size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2))
    return paper


def blank(mode: str, size: tuple[int, int], background: Background) -> Image.Image:
    """Make an image, mode L or RGB, of the background alone; a colour becomes its luma in mode L."""
    from PIL import Image

    colour = background if isinstance(background, tuple) else (background,) * 3
    if mode == "RGB":
        return Image.new("RGB", size, colour)
    return Image.new("L", size, Image.new("RGB", (1, 1), colour).convert("L").tobytes()[0])
