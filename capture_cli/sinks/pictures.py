"""Inputs as pictures: a spool that carries them to a sink process, and their PNG bytes."""

import io
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.preprocessing import to_pixels

WAIT_SECONDS = 10.0
"""For inputs that were announced: they are written right after the record that ends their evaluation."""


class Spool:
    """A folder of inputs, by evaluation and position: written by the training or by replay, read by the sink process.

    spool.announce("val", 3)                        # before the record that ends the evaluation is written
    spool.add("val", 3, batch=0, index=17, image=image)
    spool.complete("val", 3)
    spool.take("val", 3)                            # {(0, 17): image}, and the files are removed
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def announce(self, phase: str, epoch: int) -> None:
        """Say that inputs of an evaluation will come, so that a reader waits for them. Like all writing, raises OSError."""
        self._incomplete(phase, epoch).mkdir(exist_ok=True)

    def add(self, phase: str, epoch: int, *, batch: int, index: int, image: npt.NDArray[Any]) -> None:
        """Write one input."""
        np.save(self._incomplete(phase, epoch) / f"{batch}-{index}.npy", image, allow_pickle=False)

    def complete(self, phase: str, epoch: int) -> None:
        """Let the reader have the inputs of an evaluation."""
        self._incomplete(phase, epoch).rename(self.folder / f"{phase}-{epoch}")

    def take(self, phase: str, epoch: int) -> dict[tuple[int, int], npt.NDArray[Any]]:
        """Read and remove the inputs of an evaluation, by batch and position; wait for them if they were announced."""
        until = time.monotonic() + WAIT_SECONDS
        while self._incomplete(phase, epoch).exists() and time.monotonic() < until:
            time.sleep(0.02)
        folder, images = self.folder / f"{phase}-{epoch}", {}
        for path in folder.glob("*.npy"):
            batch, index = map(int, path.stem.split("-"))
            images[batch, index] = np.load(path, allow_pickle=False)
        shutil.rmtree(folder, ignore_errors=True)
        return images

    def _incomplete(self, phase: str, epoch: int) -> Path:
        return self.folder / f"{phase}-{epoch}.incomplete"


def is_picture(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Return True if an input of one sample can be shown."""
    return len(shape) == 3 and shape[0] in (1, 3) and (dtype.kind == "f" or dtype == np.uint8)


def png(image: npt.NDArray[Any], recipe: Mapping[str, Any]) -> bytes:
    """Encode an input [C, H, W] with 1 or 3 channels; `recipe` as in the run record, empty if there is none."""
    from PIL import Image

    pixels = to_pixels(image, recipe)
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(out, "PNG")
    return out.getvalue()


def picture_name(rank: int, sample: Mapping[str, Any]) -> str:
    """A harmless file name that says what the picture shows: `00-bag_0012.png-bag-as-dress.png`."""
    words = [f"{rank:02d}", sample["file"]]
    if "pred" in sample:
        label = sample.get("label")  # absent in the phase `predict`
        words.append(f"as-{sample['pred']}" if label is None else f"{label}-as-{sample['pred']}")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))[:120] + ".png"
