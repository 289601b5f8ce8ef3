"""Pictures of a run's images as the model saw them, for any view that shows samples.

pictures, notes = pictures_of(run, [("cat/1.png", digest), ...], folder=None)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.errors import RecordsError, Unusable, UsageError
from capture_cli.pixels.geometry import Geometry
from capture_cli.preprocessing import Recipe
from capture_cli.runs import Run

Picture = npt.NDArray[np.uint8]
"""[C, H, W] in the size of the input."""

_MAX_SIDE = 4096
_REASONS = {"missing": "the file is not there", "changed": "the file has changed since the run"}


def pictures_of(
    run: Run, wanted: Sequence[tuple[str, str | None]], folder: str | Path | None = None
) -> tuple[list[Picture | None], list[str]]:
    """A picture, or None, for each (file, digest); and notes that say why some are missing.

    Images come from `folder`, by default from where the run says. Only a file with the recorded digest is decoded; without a
    digest there is no picture, and no note.
    """
    from capture_cli.pixels.decoding import decode  # loads the decoders: most commands show no picture

    nothing: list[Picture | None] = [None] * len(wanted)
    if not any(digest for _, digest in wanted):
        return nothing, []
    geometry = _geometry(run.info.recipe)
    if geometry is None:
        return nothing, ["no pictures: the recipe has no usable size"]
    try:
        images = run.images_in(folder)
    except UsageError as error:
        return nothing, [f"no pictures: {error.message}; {error.hint}"]
    pictures, missing = nothing, Counter[str]()
    for place, (file, digest) in enumerate(wanted):
        if digest is None:
            continue
        try:
            pictures[place] = decode(images.read(file, digest), geometry)
        except Unusable as error:
            missing[_REASONS.get(error.reason, error.reason)] += 1
    return pictures, [f"{count} without a picture: {reason}" for reason, count in missing.items()]


def _geometry(recipe: Mapping[str, Any]) -> Geometry | None:
    """Read how pictures were made from a recipe, or of one that this version cannot carry out at least their size."""
    height, width, channels = (recipe.get(name) for name in ("height", "width", "channels"))
    if not all(isinstance(side, int) and 0 < side <= _MAX_SIDE for side in (height, width)) or channels not in (1, 3):
        return None
    try:
        return Recipe.from_dict(recipe).geometry
    except RecordsError:
        return Geometry(height=height, width=width, channels=channels)  # type: ignore[arg-type] # checked above
