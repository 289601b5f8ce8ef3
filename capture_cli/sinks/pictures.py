"""An input as a picture: PNG bytes from what went into the model.

Where the run record has a recipe the pixels are those of the image, exactly. Else it is guessed from the range: 0 to 1,
-1 to 1, or what lies between the input's own least and greatest value.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def png(image: npt.NDArray[Any], recipe: Mapping[str, Any]) -> bytes:
    """[C, H, W] with 1 or 3 channels as the bytes of a PNG file; `recipe` as in the run record, empty where there is none."""
    from PIL import Image

    pixels = _pixels(image, recipe)
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(out, "PNG")
    return out.getvalue()


def _pixels(image: npt.NDArray[Any], recipe: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    values = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if "scale" in recipe and "centre" in recipe:
        values = values / np.float32(recipe["scale"]) + np.float32(recipe["centre"])
    else:
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif low >= -1 and high <= 1:
            low, high = -1.0, 1.0
        values = (values - low) * (255 / ((high - low) or 1.0))
    return np.rint(values).clip(0, 255).astype(np.uint8)


def caption(rank: int, described: Mapping[str, Any]) -> str:
    """A file name that says what is to be seen: `00-bag_0012.png-bag-as-dress.png`."""
    words = [f"{rank:02d}", described["file"]]
    if "pred" in described:
        words.append(f"{described['label']}-as-{described['pred']}")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))[:120] + ".png"
