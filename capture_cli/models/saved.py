"""`model.safetensors`: the trained weights and what is needed to use them, with or without this tool.

    data = to_bytes(model, ModelHeader(model="cnn", classes=[...], recipe=recipe.to_dict()))
    header, weights = read(path)

The header is JSON under the key `capture` of the file's metadata. No pickle, no code: reading a file runs nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from capture_cli.errors import UsageError, absent

if TYPE_CHECKING:
    import torch
    from torch import nn

KEY, CHECKPOINT_KEY = "capture", "capture-checkpoint"
T = TypeVar("T")


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
    table: str | None = None
    """The value of `--labels` that named the table, as it was typed."""
    table_digest: str | None = None
    """BLAKE2b (16 bytes, hex) of the table."""
    epoch: int | None = None
    """The epoch after which these weights were saved."""
    original_stem: bool = False
    """The model began with weights of its own (`--weights`), so its first layers were not fitted to the images."""
    code_digest: str | None = None
    """BLAKE2b (16 bytes, hex) of the file of FILE.py:FACTORY. None for other models, and in older files."""
    kinds: Sequence[str] | None = None
    """Kinds of images that it was trained on: capture_cli.pixels.choosing.KINDS. None if that is not known."""


def to_bytes(model: "nn.Module", header: ModelHeader) -> bytes:
    """Encode every parameter and buffer by its name (tensors that share memory once each), and the header."""
    from safetensors.torch import save

    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    return save(weights, {KEY: json.dumps(asdict(header))})


def digest(model: "nn.Module") -> str:
    """Return BLAKE2b (16 bytes, hex) over every parameter and buffer of a model, with its name, type and shape."""
    import torch

    found = blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def header_of(path: Path) -> ModelHeader | None:
    """Read the header alone; None if capture did not write the file. Raises UsageError if it cannot be read."""
    return _read(path, lambda metadata, _: _header(metadata[KEY]) if KEY in metadata else None)


def tensors_of(path: Path) -> "dict[str, torch.Tensor]":
    """Read the tensors of any safetensors file, on the CPU. Raises UsageError if it cannot be read."""
    return _read(path, lambda _, file: _tensors(file))


def read(path: Path) -> tuple[ModelHeader, "dict[str, torch.Tensor]"]:
    """Read the header and the weights, on the CPU. Raises UsageError for any file that `to_bytes` did not make."""
    return _read(path, lambda metadata, file: (_own_header(path, metadata), _tensors(file)))


def _own_header(path: Path, metadata: Mapping[str, str]) -> ModelHeader:
    if KEY not in metadata and CHECKPOINT_KEY in metadata:
        raise UsageError(f"'{path}' is a checkpoint, not a model", f"give the run folder '{path.parent}'")
    if KEY not in metadata:
        raise UsageError(f"'{path}' holds no model of capture", "give a run folder or its model.safetensors")
    return _header(metadata[KEY])


def _tensors(file: Any) -> "dict[str, torch.Tensor]":
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _read(path: Path, take: "Callable[[Mapping[str, str], Any], T]") -> "T":
    """Open a safetensors file; return what `take` makes of its metadata and the file."""
    from safetensors import SafetensorError, safe_open

    reason = "it is not a safetensors file, or damaged"
    try:
        with safe_open(path, "pt") as file:
            return take(file.metadata() or {}, file)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError):
            reason = absent(path, "file") if isinstance(error, FileNotFoundError) else error.strerror or "it cannot be read"
        hint = "give a run folder or its model.safetensors"
        raise UsageError(f"no model can be read from '{path}': {reason}", hint) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"'{path}' has a header that this version of capture does not know") from error


def _header(text: str) -> ModelHeader:
    """Parse a header. Raises ValueError, TypeError or RecursionError for what no run writes."""
    header = ModelHeader(**json.loads(text))
    classes = header.classes
    if header.epoch is not None and type(header.epoch) is not int:
        raise ValueError("an epoch that is no number")
    if type(header.original_stem) is not bool:
        raise ValueError("an original_stem that is not true or false")
    texts = (header.labels, header.table, header.table_digest, header.code_digest)
    if any(one is not None and type(one) is not str for one in texts):
        raise ValueError("a label rule or a digest that is no text")
    kinds = header.kinds
    if kinds is not None and not (isinstance(kinds, list) and all(isinstance(one, str) for one in kinds)):
        raise ValueError("kinds of images that are no list of texts")
    named = isinstance(classes, list) and bool(classes) and all(isinstance(one, str) for one in classes)
    if not (named and isinstance(header.model, str) and isinstance(header.recipe, dict)):
        raise ValueError("a header value of the wrong type")
    return header
