"""Trained models, loaded from a run folder or a file: for `evaluate`, `predict`, `export` and `load_model`.

trained = read_trained(Path("runs/first"))          # best.safetensors if it is there, else model.safetensors
model = trained.build()                             # on the CPU
trained.fill(other)                                 # its weights, into a model that is built already
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli import models
from capture_cli.errors import UsageError
from capture_cli.models.saved import ModelHeader, read
from capture_cli.preprocessing import Recipe
from capture_cli.runfolder import BEST, MODEL
from capture_cli.runs.modelless import without_model
from capture_cli.runs.names import demand_one_training

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The contents of a model file."""

    path: Path
    header: ModelHeader
    recipe: Recipe
    weights: Mapping[str, "torch.Tensor"]
    """On the CPU."""
    digest: str
    """BLAKE2b (16 bytes, hex) of the file."""

    @property
    def origin(self) -> dict[str, str | int]:
        """The model file as it was named, and its epoch if that is known, for run records."""
        return {"file": str(self.path)} | ({} if self.header.epoch is None else {"epoch": self.header.epoch})

    @property
    def warning(self) -> str:
        """A warning if the file of code that the model is built by has changed since the training; else empty."""
        return models.code_changed(self.header.model, self.header.code_digest)

    def build(self) -> "nn.Module":
        """Build the model on the CPU, with these weights. Raises UsageError."""
        size = {"channels": self.recipe.channels, "height": self.recipe.height, "width": self.recipe.width}
        stem = self.header.original_stem
        model = models.build(self.header.model, original_stem=stem, classes=len(self.header.classes), **size)
        self.fill(model)
        return model

    def fill(self, model: "nn.Module") -> None:
        """Load the weights into a model of the same kind. Raises UsageError if they do not fit."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise UsageError(
                f"the weights in '{self.path}' do not fit its model '{self.header.model}'", "has the code of the model changed?"
            ) from error


def read_trained(run: Path, *, last: bool = False) -> Trained:
    """Read the model of the best epoch of a run folder, or with `last` that of the last epoch; or the model file `run`.

    A run without validation images has no best epoch; then it is the last. Raises UsageError, RecordsError for a recipe that
    this version cannot apply.
    """
    path = model_file(run, last=last)
    header, weights = read(path)
    digest = blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return Trained(path=path, header=header, recipe=Recipe.from_dict(dict(header.recipe)), weights=weights, digest=digest)


def model_file(run: Path, *, last: bool = False) -> Path:
    """Return the model file of a run folder, as `read_trained` chooses it, or `run` if that is a file.

    Raises UsageError, also for a run with folds, which has several.
    """
    if not run.is_dir():
        if last:
            raise UsageError("--last is only valid with a run folder", f"'{run}' is a file; drop --last")
        return run
    demand_one_training(run)
    file = run / BEST if not last and (run / BEST).is_file() else run / MODEL
    if not file.is_file():
        raise without_model(run, last=last)
    return file
