"""`model.safetensors`: the trained weights and what is needed to use them, with or without this tool.

    data = to_bytes(model, ModelHeader(model="cnn", classes=[...], recipe=recipe.to_dict()))
    header, weights = read(path)

The header is JSON under the key `capture` of the file's metadata. No pickle, no code: reading a file runs nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError, absent

if TYPE_CHECKING:
    import torch
    from torch import nn

KEY, CHECKPOINT_KEY = "capture", "capture-checkpoint"


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """The model that the weights belong to."""

    model: str
    """The value of `--model`."""
    classes: Sequence[str]
    recipe: Mapping[str, Any]
    """Steps from pixels to inputs: capture_cli.preprocessing.Recipe."""
    labels: str | None = None
    """The rule that the labels were read by, as `--labels` takes it; `table` if a table gave them. None in older files."""
    epoch: int | None = None
    """The epoch after which these weights were saved."""


def to_bytes(model: "nn.Module", header: ModelHeader) -> bytes:
    """Encode every parameter and buffer by its name (tensors that share memory once each), and the header."""
    from safetensors.torch import save

    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    return save(weights, {KEY: json.dumps(asdict(header))})


def read(path: Path) -> tuple[ModelHeader, "dict[str, torch.Tensor]"]:
    """Read the header and the weights, on the CPU. Raises UsageError for any file that `to_bytes` did not make."""
    from safetensors import SafetensorError, safe_open

    reason = "it is not a safetensors file, or damaged"
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None and CHECKPOINT_KEY in (file.metadata() or {}):
                raise UsageError(f"'{path}' is a checkpoint, not a model", f"give the run folder '{path.parent}'")
            if text is None:
                raise UsageError(f"'{path}' holds no model of capture", "give a run folder or its model.safetensors")
            return _header(text), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError):
            reason = absent(path, "file") if isinstance(error, FileNotFoundError) else error.strerror or "it cannot be read"
        raise UsageError(f"no model can be read from '{path}': {reason}", "give the folder of a finished run") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"'{path}' has a header that this version of capture does not know") from error


def _header(text: str) -> ModelHeader:
    """Parse a header. Raises ValueError, TypeError or RecursionError for what no run writes."""
    header = ModelHeader(**json.loads(text))
    classes = header.classes
    if header.epoch is not None and type(header.epoch) is not int:
        raise ValueError("an epoch that is no number")
    if header.labels is not None and type(header.labels) is not str:
        raise ValueError("a label rule that is no text")
    named = isinstance(classes, list) and bool(classes) and all(isinstance(one, str) for one in classes)
    if not (named and isinstance(header.model, str) and isinstance(header.recipe, dict)):
        raise ValueError("a header value of the wrong type")
    return header
