"""A trained model, loaded from its file to evaluate another folder.

ready, weights_digest = prepare_evaluation(Path("runs/first"), Path("test_images"), config)
"""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli import models
from capture_cli.config import TrainConfig
from capture_cli.errors import UsageError
from capture_cli.models.saved import ModelHeader, read
from capture_cli.plan import plan_evaluation
from capture_cli.preprocessing import Recipe
from capture_cli.runfolder import MODEL
from capture_cli.training.job import Ready, prepare

if TYPE_CHECKING:
    import torch
    from torch import nn


def prepare_evaluation(
    model: Path, folder: Path, config: TrainConfig, *, labels: str | None = None, part: str = "auto"
) -> tuple[Ready, str]:
    """Load the model from `model`, a run folder or a model.safetensors, to evaluate the images of `folder`.

    Labels are read by the rule that the model was trained with, unless `labels` is another; `part` is the split to evaluate, as
    in capture_cli.labels.scan.

    Returns it with the digest of its file: BLAKE2b (16 bytes, hex). Raises UsageError, and DataError for the folder.
    """
    path = model / MODEL if model.is_dir() else model
    header, weights = read(path)
    config = replace(config, model=header.model, labels=labels or _rule(header, path))
    recipe = Recipe.from_dict(dict(header.recipe))
    plan = plan_evaluation(str(folder), classes=list(header.classes), recipe=recipe, config=config, part=part)
    ready = prepare(plan)
    _load(ready.model, weights, path, header)
    return ready, blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _rule(header: ModelHeader, path: Path) -> str:
    """Return the rule that the model was trained with. Raises UsageError if it has none."""
    if header.labels is None:
        raise UsageError(
            f"'{path}' was saved by an older version of capture, without the rule of its labels",
            "name the rule that it was trained with, such as --labels prefix; `capture inspect RUN` shows names and labels",
        )
    if header.labels == "table":
        raise UsageError(
            f"the labels of '{path}' came from a table", "name a table of these images, or a rule: --labels labels.csv"
        )
    return header.labels


def trained(run: Path) -> tuple["nn.Module", ModelHeader]:
    """Load the model of a run folder or a model.safetensors on the CPU. Raises UsageError."""
    path = run / MODEL if run.is_dir() else run
    header, weights = read(path)
    recipe = Recipe.from_dict(dict(header.recipe))
    model = models.build(
        header.model, classes=len(header.classes), channels=recipe.channels, height=recipe.height, width=recipe.width
    )
    _load(model, weights, path, header)
    return model, header


def _load(model: "nn.Module", weights: Mapping[str, "torch.Tensor"], path: Path, header: ModelHeader) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(
            f"the weights in '{path}' do not fit its model '{header.model}'", "has the code of the model changed?"
        ) from error
