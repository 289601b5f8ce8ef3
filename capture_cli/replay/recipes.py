"""The recipe in a run record, carried out again in NumPy from a fixed table of steps.

recipe = RunRecipe.from_info(info)                  # raises RecordsError for a recipe that this version cannot carry out
inputs = recipe.make(pixels, files, phase="train", epoch=3)
recipe.decoder_changes                              # "pillow was 5.4.1, is 12.0.0", or "" if the decoder is the same
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from capture_cli import augmentation
from capture_cli.errors import RecordsError
from capture_cli.keyed_random import path_keys, repeated
from capture_cli.pixels.decoding import Pixels, codec_versions
from capture_cli.pixels.geometry import MAX_PIXELS, MOST_PIXELS, Geometry
from capture_cli.preprocessing import Recipe, make_inputs
from capture_cli.records import RunInfo

_DECODERS = ("pillow", "libjpeg", "libwebp", "zlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecipe:
    """The recipe by which a run made inputs from pixels."""

    recipe: Recipe
    geometry: Geometry
    seed: int
    decoder_changes: str = ""
    """Versions of the image decoder that differ from the run's, a clause."""

    @classmethod
    def from_info(cls, info: RunInfo) -> Self:
        """Read a run record, which may come from anywhere. Raises RecordsError if this version cannot carry it out."""
        recipe = Recipe.from_dict(info.recipe)
        seed = info.config.get("seed", 0)  # `capture evaluate` draws nothing and records no seed
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise RecordsError(f"a run record with the seed {seed!r}")
        now, relevant = codec_versions(), list(_DECODERS)
        if augmentation.torchvision_steps(recipe.augment):
            software = augmentation.versions()
            now, relevant = now | software, [*relevant, *software]
        changed = [name for name in relevant if info.versions.get(name) != now.get(name)]
        return cls(
            recipe=recipe,
            geometry=recipe.geometry_within(_max_pixels(info)),
            seed=seed,
            decoder_changes=", ".join(f"{name} was {info.versions.get(name)}, is {now.get(name)}" for name in changed),
        )

    def make(
        self,
        pixels: Pixels,
        files: Sequence[str],
        *,
        phase: str,
        epoch: int,
        repeats: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The inputs, float32 [n, C, H, W], of n `files` whose decoded pixels are uint8 [n, C, H, W].

        `repeats` [n] counts how often each came before in the epoch.
        """
        if not files:
            return np.empty((0, *self.geometry.shape), np.float32)
        return make_inputs(
            pixels,
            np.arange(len(files)),
            keys=path_keys(files) if repeats is None else repeated(path_keys(files), repeats),
            recipe=self.recipe,
            seed=self.seed,
            epoch=epoch,
            augment=phase == "train",
        )


def _max_pixels(info: RunInfo) -> int:
    """Read the limit of the run, with which it may have admitted larger pictures than by default. Raises RecordsError."""
    limit = info.config.get("max_pixels", MAX_PIXELS)
    if type(limit) is not int or not 1 <= limit <= MOST_PIXELS:
        raise RecordsError(f"a run record with max_pixels {limit!r}")
    return limit
