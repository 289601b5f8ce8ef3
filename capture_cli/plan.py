"""A training as planned, before torch is imported: the images, their labels, the input recipe.

plan = make_plan("images", TrainConfig())
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from capture_cli import models
from capture_cli.augmentation import canonical
from capture_cli.config import TrainConfig
from capture_cli.errors import DataError, UsageError
from capture_cli.labels import ReadingOptions, Scan, scan
from capture_cli.labels.splits import folds_of, single_split, stratified_split
from capture_cli.models.pretrained import Initial, find
from capture_cli.normalisation import from_mean_and_std
from capture_cli.pixels.choosing import Wishes, choose_geometry, describe
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.unlike import unlike
from capture_cli.preprocessing import Recipe
from capture_cli.records import MAX_COUNTED_CLASSES
from capture_cli.sources.folder import FolderSource

NOT_IMAGES = frozenset({"unsupported-extension", "hidden", "run-folder", "empty-folder", "excluded", "companion"}) | {
    *("test-split", "other-split", "outside-split", "unlabelled")
}
"""Reasons of files that nobody takes for images to train on; `--strict` ignores them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training before it begins."""

    folder: str
    """As the user gave it."""
    root: str
    """The folder that names of images are relative to: `folder`, or the one that holds it and that of --val."""
    config: TrainConfig
    scan: Scan
    geometry: Geometry
    inputs: str
    """The size of the inputs and how they are made, and why, for people; not escaped."""
    recipe: Recipe
    initial: Initial | None = None
    """Weights to begin with."""
    warnings: Sequence[str] = ()
    """Warnings from the headers of the images; not escaped."""
    kinds: Sequence[str] | None = None
    """Kinds of images that there are, as in capture_cli.pixels.choosing.GeometryChoice."""
    fold: Mapping[str, int] | None = None
    """Its number and how many there are, as in records, if this is one of several trainings."""


def make_plan(folder: str, config: TrainConfig, *, moved_to: str | None = None) -> Plan:
    """Scan and label the folder, which may have moved since the run began, and choose the size of the inputs.

    With `config.folds` all images are for training; `plan_folds` divides them. Raises UsageError and DataError.
    """
    models.check(config.model)
    initial = find(config.model, config.weights) if config.weights else None
    source = _source(folder, config.val, moved_to)
    split = single_split("train") if config.folds else stratified_split(config.val_split)
    found = scan(source, split=split, reading=ReadingOptions.of(config.to_dict()))
    if config.strict:
        refuse_skipped(found)
    if config.folds:
        _check_folds(found, config.folds)
    _check_validation(found, config)
    trained_with = _trained_with(initial) if initial else {}
    geometry, inputs, warning, kinds = choose_geometry(found.files, source.read, _wished(config, trained_with))
    geometry = replace(geometry, **{name: trained_with[name] for name in ("filter", "crop_share") if name in trained_with})
    if trained_with and not (config.size or config.resize):
        inputs = f"{describe(geometry)}; as the weights were trained"
    normalised = {name: trained_with[name] for name in ("centre", "scale") if name in trained_with}
    recipe = Recipe.of(geometry, augment=canonical(config.augment), **normalised)
    return Plan(
        folder=folder,
        root=FolderSource(folder, config.val).name,
        config=config,
        scan=found,
        geometry=geometry,
        inputs=inputs,
        recipe=recipe,
        initial=initial,
        warnings=[warning] if warning else [],
        kinds=kinds,
    )


def _trained_with(initial: Initial) -> dict[str, Any]:
    """Return the fields of a Recipe that the weights were trained with; none if that is not known."""
    if initial.header:
        recipe = Recipe.from_dict(dict(initial.header.recipe))
        names = ("height", "width", "channels", "resize", "crop_share", "filter", "centre", "scale")
        return {name: getattr(recipe, name) for name in names}
    if initial.inputs is None:
        return {}
    inputs = initial.inputs
    centre, scale = from_mean_and_std(inputs.mean, inputs.std)
    size = {name: getattr(inputs, name) for name in ("height", "width", "resize", "crop_share", "filter")}
    return {**size, "channels": len(inputs.mean), "centre": centre, "scale": scale}


def _wished(config: TrainConfig, trained_with: Mapping[str, Any]) -> Wishes:
    """Let the weights decide where the options do not. Raises UsageError for channels that they do not take."""
    wished = wishes(config)
    if not trained_with:
        return wished
    channels = trained_with["channels"]
    if config.channels not in (None, channels):
        raise UsageError(f"--channels {config.channels} does not fit --weights {config.weights}", f"they take {channels}")
    size = wished.size or (trained_with["height"], trained_with["width"])
    return replace(wished, size=size, channels=channels, resize=wished.resize or trained_with["resize"])


def _source(folder: str, val: str | None, moved_to: str | None) -> FolderSource:
    """Return the images of a folder, and of one for validation, which has moved with it."""
    if moved_to is None or val is None:
        return FolderSource(moved_to or folder, val)
    return FolderSource(moved_to, os.path.normpath(Path(moved_to) / os.path.relpath(val, folder)))


def wishes(config: TrainConfig) -> Wishes:
    """Collect what the options say about the size and the pixels of the inputs."""
    return Wishes(
        size=config.size,
        channels=config.channels,
        resize=config.resize,
        depth=None if config.depth == "auto" else config.depth,
        background=config.background_levels,
        max_pixels=config.max_pixels,
    )


def _check_validation(found: Scan, config: TrainConfig) -> None:
    """Raise UsageError for an option that needs validation images, or counts of each class, where there are none."""
    if config.patience and "val" not in found.splits and not config.folds:
        raise UsageError("--patience needs validation images, and none is held out", "raise --val-split, or drop --patience")
    if config.best == "balanced_accuracy" and len(found.classes) > MAX_COUNTED_CLASSES:
        raise UsageError(f"--best {config.best} takes at most {MAX_COUNTED_CLASSES:,} classes", "use --best val_accuracy")


def _check_folds(found: Scan, folds: int) -> None:
    """Raise UsageError where the images cannot be divided into so many folds."""
    if "val" in found.splits:
        by_table = found.table is not None and "val" in found.table.splits.values()
        teller = f"the table '{found.table.name}' says" if found.table and by_table else "folders or names say"
        pool = "take its column of splits out" if by_table else "add --split-folders pool"
        raise UsageError(
            f"--folds {folds} holds out every image once, and {teller} which are for validation",
            f"{pool} to fold all images, or drop --folds",
        )
    if folds > len(found.files):
        raise UsageError(f"--folds {folds} is more than there are images ({len(found.files):,})", "choose fewer folds")
    noun, units = ("images", found.files) if found.groups is None else ("groups", found.groups)
    of_class: dict[int, set[str]] = {}
    for label, unit in zip(found.labels, units, strict=True):
        of_class.setdefault(label, set()).add(unit)
    least = min(of_class, key=lambda label: len(of_class[label]))
    if len(of_class[least]) < folds:
        name, number = found.classes[least], len(of_class[least])
        raise UsageError(
            f"--folds {folds}: class '{name}' has {number} {noun if number > 1 else noun[:-1]}, fewer than there are folds",
            f"choose --folds {number} or fewer" if number > 1 else f"add {noun} of that class, or leave it out with --exclude",
        )


def plan_folds(plan: Plan) -> list[Plan]:
    """Divide a training with `config.folds` into as many, each of which holds out other images as its validation.

    Raises UsageError where one would have no image of a class to train on.
    """
    found, folds = plan.scan, plan.config.folds or 1
    numbers = folds_of(found.labels, found.files, found.groups, folds)
    plans = []
    for fold in range(1, folds + 1):
        splits = ["val" if number == fold else "train" for number in numbers]
        trained = {label for label, split in zip(found.labels, splits, strict=True) if split == "train"}
        if lost := set(range(len(found.classes))) - trained:  # small groups of several classes
            name = found.classes[min(lost)]
            raise UsageError(f"--folds {folds}: one fold would hold out all images of class '{name}'", "choose another --group")
        plans.append(replace(plan, scan=replace(found, splits=splits), fold={"number": fold, "of": folds}))
    return plans


def plan_evaluation(
    folder: str,
    *,
    classes: Sequence[str],
    recipe: Recipe,
    config: TrainConfig,
    part: str = "auto",
    kinds: Sequence[str] | None = None,
) -> Plan:
    """Plan one pass of a trained model over a folder, with the model's classes and recipe and without a split.

    `kinds` are those of its training images.
    """
    source, split = FolderSource(folder), single_split("test")
    found = scan(source, split=split, reading=ReadingOptions.of(config.to_dict()), classes=classes, part=part)
    if config.strict:
        refuse_skipped(found)
    geometry = recipe.geometry_within(config.max_pixels)
    return Plan(
        folder=folder,
        root=folder,
        config=config,
        scan=found,
        geometry=geometry,
        inputs=describe(geometry),
        recipe=recipe,
        warnings=unlike(found.files, source.read, geometry, kinds),
    )


def refuse_skipped(found: Scan) -> None:
    """Raise DataError if an image was skipped."""
    for file, reason, detail in found.skipped:
        if reason not in NOT_IMAGES:
            because = f"{reason} ({detail})" if detail else reason
            raise DataError(f"'{file}' cannot be used: {because}", "repair or remove it, or run without --strict")
