"""The size of the inputs, and how pictures are brought to it, chosen from the images themselves.

    choice = choose_geometry(files, source.read)                # what most images are
    choice = choose_geometry(files, source.read, Wishes(size=(64, 64), resize="pad"))
    print(choice.sentence)                                      # "224x224, RGB; photographs of 300x400 to ..."

What is asked for is kept. The rest is read from the headers of at most PEEKED_FILES files, chosen by the hash of their paths;
files that cannot be used do not count:

    size, resize    of pictures up to ICON_SIDE pixels (longer side, median): the size most have, else the median size, padded.
                    All larger ones of the same proportions: the longer side becomes 224. Others: 224x224 and a crop, or if a
                    crop would lose more than half of the usual picture, padded.
    channels        1 if every picture is grey, else 3
    depth           of pictures of more than 8 bits: the fewest of 8, 10, 12, 14 and 16 bits that hold all values of up to
                    MEASURED_FILES of them; minmax if there are negative values, floats or more than 16 bits
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from capture_cli.errors import Unusable
from capture_cli.keyed_random import draw, path_keys
from capture_cli.pixels.decoding import Measured, Peek, peek, values_of
from capture_cli.pixels.geometry import MAX_PIXELS, WHITE, Background, Geometry

PEEKED_FILES = 1000  # files looked at to choose a size; more are not needed to see what most have
MEASURED_FILES = 64  # deep pictures decoded to see how many bits they use
PHOTOGRAPH_SIDE = 224  # pixels; what pretrained classifiers expect, and what fits into memory
ICON_SIDE = 128  # longer side up to which pictures of differing sizes are icons, and keep about their size
FALLBACK = (32, 32)  # height and width where no file can be used
SAME_PROPORTIONS = 1.02  # ratio of two ratios of width to height that nobody tells apart

Read = Callable[[str], bytes]

KINDS: Mapping[str, Callable[[Peek], bool]] = {
    "deep": lambda one: one.deep,
    "alpha": lambda one: one.alpha,
    "colour": lambda one: not one.grey,
}
"""Kinds of pictures of which a recipe cannot keep everything: more than 8 bits, transparency, colour."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The wish of the user; None: the images decide."""

    size: tuple[int, int] | None = None
    """(height, width)"""
    channels: int | None = None
    resize: str | None = None
    depth: str | None = None
    background: Background = WHITE
    max_pixels: int = MAX_PIXELS


class GeometryChoice(NamedTuple):
    """A geometry, and why."""

    geometry: Geometry
    sentence: str
    """For people: the size, what happens to proportions and to deep values, and the reason."""
    warning: str
    """A warning if half of the files looked at, of many, cannot be used; else empty. Of few, decoding finds out soon."""
    kinds: Sequence[str] | None
    """Those of KINDS that there are among the files looked at; None if none was."""


def choose_geometry(files: Sequence[str], read: Read, wishes: Wishes = Wishes()) -> GeometryChoice:
    """Choose how to make inputs of these files; `read` returns the bytes of one, or raises Unusable."""
    if None not in (wishes.size, wishes.channels, wishes.resize, wishes.depth):
        peeked: dict[str, Peek | Unusable] = {}
    else:
        peeked = dict(peek_at(files, read, wishes.max_pixels))
    seen = [one for one in peeked.values() if isinstance(one, Peek)]
    deep = [file for file, one in peeked.items() if isinstance(one, Peek) and one.deep]
    channels = wishes.channels or (1 if seen and all(one.grey for one in seen) else 3)
    (height, width), resize, why = _size(seen, wishes)
    depth, depth_why = _depth(deep, read, wishes)
    geometry = Geometry(
        height=height,
        width=width,
        channels=channels,
        resize=resize,
        background=wishes.background,
        depth=depth,
        max_pixels=wishes.max_pixels,
    )
    sentence = "; ".join(filter(None, [describe(geometry), why, depth_why]))
    kinds = [kind for kind, is_one in KINDS.items() if any(map(is_one, seen))] if seen else None
    return GeometryChoice(geometry, sentence, _warning(peeked, len(files)), kinds)


def describe(geometry: Geometry) -> str:
    """Say in words what the inputs are: `224x224, RGB, centre crop`."""
    how = {"stretch": "", "pad": ", padded", "crop": f", centre crop ({geometry.crop_share:.4g} of the shorter side)"}
    return f"{geometry.height}x{geometry.width}, {'RGB' if geometry.channels == 3 else 'grey'}{how[geometry.resize]}"


def _warning(peeked: Mapping[str, Peek | Unusable], files: int) -> str:
    unusable = {file: one for file, one in peeked.items() if isinstance(one, Unusable)}
    if files <= PEEKED_FILES or 2 * len(unusable) < len(peeked):
        return ""
    reasons = Counter(one.reason for one in unusable.values()).most_common()
    said = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    return f"{len(unusable):,} of {len(peeked):,} images looked at cannot be used: {said}, such as '{min(unusable)}'"


def peek_at(files: Sequence[str], read: Read, max_pixels: int) -> Iterator[tuple[str, Peek | Unusable]]:
    """Look at the headers of at most PEEKED_FILES files, chosen by the hash of their paths."""
    chosen: Sequence[int] = range(len(files))
    if len(files) > PEEKED_FILES:
        chosen = np.argsort(draw(path_keys(files), seed=0, epoch=0, purpose="peek"), kind="stable")[:PEEKED_FILES].tolist()
    for i in chosen:
        try:
            yield files[i], peek(read(files[i]), max_pixels)
        except Unusable as unusable:  # recorded when it is admitted
            yield files[i], unusable


def _size(seen: Sequence[Peek], wishes: Wishes) -> tuple[tuple[int, int], str, str]:
    """Choose (height, width) and how to resize; say why."""
    if not seen:
        return wishes.size or FALLBACK, wishes.resize or "stretch", ""
    sizes = Counter((one.height, one.width) for one in seen)
    size, resize, why = _chosen_size(sizes)
    if wishes.size is not None:
        size, resize, why = wishes.size, _resize_to(wishes.size, sizes), f"images are {_range(sizes)}, --img-size was given"
    if wishes.resize is not None:
        return size, wishes.resize, f"images are {_range(sizes)}, --resize was given"
    return size, resize, why


def _chosen_size(sizes: Counter[tuple[int, int]]) -> tuple[tuple[int, int], str, str]:
    (height, width), count = sizes.most_common(1)[0]
    longest, seen = max(height, width), sizes.total()
    if 2 * count > seen and longest <= PHOTOGRAPH_SIDE:
        resize = _resize_to((height, width), sizes)
        if len(sizes) == 1:
            return (height, width), resize, "all images have this size"
        others = _range(Counter({size: n for size, n in sizes.items() if size != (height, width)}))
        return (height, width), resize, f"most images have this size; the others, {others}, are {_WORDS[resize]}"
    usual = median(sorted(max(size) for size in sizes.elements()))
    if usual <= ICON_SIDE:
        side = max(1, round(usual))
        return (side, side), "pad", f"small images of {_range(sizes)} are {_WORDS['pad']}"
    if _alike((height, width), sizes):
        scale = PHOTOGRAPH_SIDE / longest
        small = max(1, round(height * scale)), max(1, round(width * scale))
        return small, "stretch", f"images of {_range(sizes)} are scaled, proportions are kept"
    square = (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE)
    resize = _resize_to(square, sizes)
    return square, resize, f"images of {_range(sizes)} are {_WORDS[resize]}"


_WORDS = {
    "stretch": "scaled",
    "pad": "scaled to fit, with background around them",
    "crop": "scaled, and the centre is cut out",
}


def _resize_to(size: tuple[int, int], sizes: Counter[tuple[int, int]]) -> str:
    """Choose how pictures of these sizes become `size`: without distortion, and without losing half of the usual one."""
    if _alike(size, sizes):
        return "stretch"
    if sizes[size] * 2 > sizes.total():
        return "pad"
    longer = median(sorted(max(one) for one in sizes.elements()))
    kept = median(sorted(1 / _ratio(one, size) for one in sizes.elements()))
    return "crop" if kept >= 1 / 2 and longer > ICON_SIDE else "pad"


def _alike(size: tuple[int, int], sizes: Counter[tuple[int, int]]) -> bool:
    return all(_ratio(one, size) <= SAME_PROPORTIONS for one in sizes)


def _ratio(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Return how much the proportions of two sizes differ: 1 where they do not."""
    ratio = one[0] * other[1] / (one[1] * other[0])
    return max(ratio, 1 / ratio)


def _range(sizes: Counter[tuple[int, int]]) -> str:
    """Describe sizes, height x width: `300x400 to 372x351`, by the number of pixels."""
    least, most = (choose(sizes, key=lambda size: (size[0] * size[1], size)) for choose in (min, max))
    return "x".join(map(str, least)) if least == most else f"{'x'.join(map(str, least))} to {'x'.join(map(str, most))}"


def _depth(deep: Sequence[str], read: Read, wishes: Wishes) -> tuple[str, str]:
    """Choose the depth; say why if there are deep pictures."""
    if wishes.depth is not None:
        return wishes.depth, f"more than 8 bits become 8 by --depth {wishes.depth}" if deep else ""
    if not deep:
        return "high-byte", ""
    least, most, whole = measure(deep, read, wishes.max_pixels)
    values = f"values of {least:,.6g} to {most:,.6g}"
    if not whole or least < 0 or most >= 2**16:
        return "minmax", f"{values} are stretched to 8 bits, each image by itself (--depth minmax)"
    bits = bits_for(most)
    if bits == 16:
        return "high-byte", f"{values} keep their high 8 of 16 bits (--depth high-byte)"
    return str(bits), f"{values} in 16 bits are read as {bits} bits (--depth {bits})"


def measure(deep: Sequence[str], read: Read, max_pixels: int) -> Measured:
    """Decode up to MEASURED_FILES deep pictures for the range of their values, which begins at 0 or below."""
    least, most, whole = 0.0, 0.0, True
    for file in deep[:MEASURED_FILES]:
        try:
            one = values_of(read(file), max_pixels)
        except Unusable:
            continue
        if one is not None:
            least, most, whole = min(least, one.least), max(most, one.most), whole and one.whole
    return Measured(least, most, whole)


def bits_for(most: float) -> int:
    """Return the fewest of 8, 10, 12, 14 and 16 bits that hold a value below 2^16."""
    return next(bits for bits in (8, 10, 12, 14, 16) if most < 2**bits)
