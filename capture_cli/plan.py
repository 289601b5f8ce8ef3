"""What a training would do, known before torch is imported: the images, their labels, the input recipe.

plan = make_plan(Path("images"), TrainConfig())
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capture_cli import models
from capture_cli.config import TrainConfig
from capture_cli.errors import DataError
from capture_cli.labels import Scan, scan
from capture_cli.pixels import Geometry, geometry
from capture_cli.preprocessing import Recipe
from capture_cli.sources.access import read_file

EXPECTED = frozenset({"unsupported-extension", "hidden", "run-folder"})
"""Reasons of files that nobody took for images of the data set; `--strict` lets them be."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training before it begins."""

    folder: str
    """As the user gave it."""
    config: TrainConfig
    scan: Scan
    geometry: Geometry
    recipe: Recipe


def make_plan(folder: str, config: TrainConfig, *, moved_to: str | None = None) -> Plan:
    """Scan and label the folder, which may have moved since the run began, and choose the size of the inputs.

    Raises UsageError and DataError.
    """
    place = Path(moved_to or folder)
    models.check(config.model)
    found = scan(place, labels=config.labels, unmatched=config.unmatched, val_split=config.val_split)
    if config.strict:
        refuse_skips(found)
    size = geometry(found, lambda file: read_file(place, file), size=config.size, channels=config.channels)
    recipe = Recipe(height=size.height, width=size.width, channels=size.channels, augment=config.augment)
    return Plan(folder=folder, config=config, scan=found, geometry=size, recipe=recipe)


def plan_evaluation(folder: Path, *, classes: Sequence[str], recipe: Recipe, config: TrainConfig) -> Plan:
    """The same for a folder on which a trained model is evaluated: its classes and recipe are given, nothing is split."""
    found = scan(folder, labels=config.labels, unmatched=config.unmatched, classes=classes)
    if config.strict:
        refuse_skips(found)
    size = Geometry(height=recipe.height, width=recipe.width, channels=recipe.channels)
    return Plan(folder=str(folder), config=config, scan=found, geometry=size, recipe=recipe)


def refuse_skips(found: Scan) -> None:
    """Raise DataError if an image was left out."""
    for skip in found.skipped:
        if skip.reason not in EXPECTED:
            detail = f" ({skip.detail})" if skip.detail else ""
            raise DataError(
                f"'{skip.file}' cannot be used: {skip.reason}{detail}", "repair or remove it, or leave --strict out"
            )
