"""Pictures of Pillow as the bytes of a file, so that they go through the decoder like any other.

data = encoded(Image.open("cat.jpg"))       # decodes to the same pixels as cat.jpg
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING

from capture_cli.errors import Unusable

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | os.PathLike[str] | Image.Image
    """A path, or an image of Pillow."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TIFF_MODES = ("I", "F")


def encoded(picture: Image.Image) -> bytes:
    """Write a picture without loss, with its EXIF orientation. Raises Unusable for anything else than an image of Pillow."""
    if not hasattr(picture, "getexif"):
        raise Unusable("not-an-image", f"{type(picture).__name__}; pass a path or an image of Pillow")
    if picture.mode not in (*_PNG_MODES, *_TIFF_MODES):
        picture = picture.convert("RGB")  # as the decoder does
    data = BytesIO()
    if picture.mode in _TIFF_MODES:
        picture.save(data, "TIFF")
    else:
        picture.save(data, "PNG", compress_level=1, exif=picture.getexif())
    return data.getvalue()
