"""An input as a picture: PNG bytes from what went into the model."""

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.preprocessing import to_pixels


def png(image: npt.NDArray[Any], recipe: Mapping[str, Any]) -> bytes:
    """[C, H, W] with 1 or 3 channels as the bytes of a PNG file; `recipe` as in the run record, empty where there is none."""
    from PIL import Image

    pixels = to_pixels(image, recipe)
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(out, "PNG")
    return out.getvalue()


def caption(rank: int, described: Mapping[str, Any]) -> str:
    """A file name that says what is to be seen: `00-bag_0012.png-bag-as-dress.png`."""
    words = [f"{rank:02d}", described["file"]]
    if "pred" in described:
        words.append(f"{described['label']}-as-{described['pred']}")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))[:120] + ".png"
