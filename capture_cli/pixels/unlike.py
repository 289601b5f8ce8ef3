"""Images that a model's recipe changes as it changed no training image: too dark, filled with background, without colour.

    for text in unlike(files, read, recipe.geometry, kinds): ...     # one sentence each; `kinds` as in GeometryChoice

The recipe stays as it is, so a file has the same input whatever lies beside it. These sentences tell what that does to files
of another kind. As many headers are looked at as in capture_cli.pixels.choosing, and at most MEASURED_FILES files of a kind are
decoded. Sentences name files, which are hostile text: make them safe before printing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from capture_cli.errors import Unusable
from capture_cli.pixels.choosing import KINDS, MEASURED_FILES, Read, bits_for, measure, peek_at
from capture_cli.pixels.decoding import Peek, decode
from capture_cli.pixels.geometry import Geometry

_DARK_BITS = 4
"""Bits that images use less than the recipe reads when they come out almost black, whatever the model was trained on."""
_COLOURED = 32
"""Levels of 255 between the channels of a pixel that has a colour; JPEG gives grey pixels a slighter tint."""


def unlike(files: Sequence[str], read: Read, geometry: Geometry, kinds: Collection[str] | None) -> list[str]:
    """Describe what the recipe does to these files and did to no training image; None: the kinds of those are not known."""
    peeked = {file: one for file, one in peek_at(files, read, geometry.max_pixels) if isinstance(one, Peek)}
    of_kind = {kind: [file for file, one in peeked.items() if is_one(one)] for kind, is_one in KINDS.items()}
    said = [_dark(of_kind["deep"], len(peeked), read, geometry, kinds)]
    plain = replace(geometry, resize="stretch")  # padding would show the background too
    if kinds is not None and "alpha" not in kinds:
        on_black, on_white = (replace(plain, background=level) for level in (0, 255))
        which = "transparent in places, as no training image was"
        ground = {"255": "white", "0": "black"}.get(str(geometry.background), str(geometry.background))
        so = f"the model sees {ground} there; give them the background that the training images have"

        def is_transparent(data: bytes) -> bool:
            return not np.array_equal(decode(data, on_black), decode(data, on_white))

        said.append(_changed(of_kind["alpha"], len(peeked), read, is_transparent, which, so))
    if kinds is not None and "colour" not in kinds and geometry.channels == 1:
        which, so = "in colour, as no training image was", "the model sees them in grey"

        def is_coloured(data: bytes) -> bool:
            pixels = decode(data, replace(plain, channels=3))
            return bool((np.ptp(pixels, axis=0) > _COLOURED).any())

        said.append(_changed(of_kind["colour"], len(peeked), read, is_coloured, which, so))
    return [text for text in said if text]


def _dark(deep: Sequence[str], looked_at: int, read: Read, geometry: Geometry, kinds: Collection[str] | None) -> str:
    """Describe images whose values use fewer bits than the recipe reads."""
    if not deep or geometry.depth == "minmax":
        return ""
    bits = 16 if geometry.depth == "high-byte" else int(geometry.depth)
    least, most, whole = measure(deep, read, geometry.max_pixels)
    if not whole or least < 0 or not 0 < most < 2**16:  # each is skipped, with a reason, where it does not fit
        return ""
    used = bits_for(most)
    known = bits < 16 or (kinds is not None and "deep" in kinds)  # the depth was chosen for such images
    if bits - used < (_DARK_BITS if known else 1):
        return ""
    remedy = "give them the range of the training images"
    if not known:
        remedy = f"convert them to 8 bits, or train with --depth {used}, which changes no image of 8 bits"
    which = f"of more than 8 bits, with values of 0 to {most:,.6g} that are read as {bits} bits, so too dark"
    return f"{_count(len(deep), looked_at)} {which}, such as '{deep[0]}': {remedy}"


def _changed(files: Sequence[str], looked_at: int, read: Read, is_changed: Callable[[bytes], bool], which: str, so: str) -> str:
    """Describe the images of some kind that lose something."""
    found = []
    for file in files[:MEASURED_FILES]:
        try:
            if is_changed(read(file)):
                found.append(file)
        except Unusable:  # told where it is decoded
            continue
    if not found:
        return ""
    looked_at -= len(files[MEASURED_FILES:])
    return f"{_count(len(found), looked_at)} {which}, such as '{found[0]}': {so}"


def _count(found: int, looked_at: int) -> str:
    return f"{found:,} of {looked_at:,} images {'is' if found == 1 else 'are'}"
