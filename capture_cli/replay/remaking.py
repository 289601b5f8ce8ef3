"""What a run record says of how its inputs were made, carried out again: in numpy, and from a fixed table of steps.

rules = rules_of(run)                               # raises RecordsError for what this version cannot carry out
inputs = rules.make(pixels, slots, files, phase="train", epoch=3)
rules.decoder                                       # how the decoder differs from the run's, "" where it does not
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capture_cli.errors import RecordsError
from capture_cli.keyed_random import path_keys
from capture_cli.pixels.decoding import Pixels, codec_versions
from capture_cli.pixels.geometry import Geometry
from capture_cli.preprocessing import Recipe, make_inputs
from capture_cli.records import RunInfo

_DECODERS = ("pillow", "libjpeg", "libwebp", "zlib")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the inputs of a run were made."""

    recipe: Recipe
    geometry: Geometry
    seed: int
    decoder: str
    """How the decoder's versions differ from today's, a clause; empty where they do not."""

    @property
    def shape(self) -> list[int]:
        """[C, H, W] of an input."""
        return [self.geometry.channels, self.geometry.height, self.geometry.width]

    def make(self, pixels: Pixels, slots: Ints, files: Sequence[str], *, phase: str, epoch: int) -> Floats:
        """The inputs of n `files`, whose pixels are uint8 [C, H, W] at `slots` of `pixels`: float32 [n, C, H, W].

        The same as capture_cli.preprocessing.make_batch, without torch.
        """
        if not len(slots):
            return np.empty((0, *pixels.shape[1:]), np.float32)
        keys, augment = path_keys(files), phase == "train"
        return make_inputs(pixels, slots, keys=keys, recipe=self.recipe, seed=self.seed, epoch=epoch, augment=augment)


def rules_of(run: RunInfo) -> Rules:
    """Of a run record, which may come from anywhere. Raises RecordsError for what this version cannot carry out."""
    recipe = Recipe.from_dict(run.recipe)
    seed = run.config.get("seed", 0)  # a run of `capture evaluate` draws nothing and has none
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise RecordsError(f"a run record with the seed {seed!r}")
    now = codec_versions()
    changed = [name for name in _DECODERS if run.versions.get(name) != now.get(name)]
    return Rules(
        recipe=recipe,
        geometry=Geometry(height=recipe.height, width=recipe.width, channels=recipe.channels),
        seed=seed,
        decoder=", ".join(f"{name} was {run.versions.get(name)}, is {now.get(name)}" for name in changed),
    )
