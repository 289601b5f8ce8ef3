"""Checkpoints: one file from which a run continues as if it had never stopped.

    save(folder, model, optimizer, progress)    # atomic; the checkpoint before it is kept
    found = load(folder)                        # the newest one that is intact, or None
    found.restore(model, optimizer)

`checkpoint.safetensors` holds every parameter, buffer and optimizer tensor, and as JSON the progress of training and journal
together, so that the two cannot disagree. It holds no random state, since a run has none (capture_cli.runtime.seed_step), no
options, since they are in the records, and no pickle: reading one runs nothing.

A digest over all of it detects damage; then the checkpoint before it is used. The digest is no signature, so a file that passes
is still checked: each value must be one that a run can have, each tensor one of the model that continues.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import nn

from capture_cli.errors import CaptureError
from capture_cli.files import write_atomically
from capture_cli.runfolder import CHECKPOINT, PREVIOUS, not_written

KEY, DIGEST = "capture-checkpoint", "digest"
PHASES = ("train", "val")
_CLASS_COLUMNS = 3
"""Labelled, predicted and correct."""
_QUOTED = 40
"""Characters of a wrong value that a message quotes."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The next batch of a run; all batches before it are done and recorded."""

    epoch: int = 1
    phase: str = "train"
    batch: int = 0
    """The next batch of the phase."""
    journal: Mapping[str, Any] = field(default_factory=dict)
    """capture_cli.journal.JournalPosition of the next record."""
    writer: Mapping[str, Any] = field(default_factory=dict)
    """capture_cli.writer.BatchWriter.state: steps, sums of the open phase, losses, stored inputs."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is intact."""

    progress: Progress
    damaged: str
    """The damage of the newest file, if this is the one before it; else empty."""
    _tensors: Mapping[str, torch.Tensor]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None) -> None:
        """Load the weights, their `average` and the optimizer state. Raises CaptureError if they belong to another model.

        The options of the optimizer stay as they are: a run does not change them, and each step sets the learning rate.
        """
        if wrong := _mismatched_tensors(self._tensors, model, optimizer, average):
            raise CaptureError(
                f"the checkpoint belongs to another model: '{wrong[0]}' does not fit", "has the code of the model changed?"
            )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in self._tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensor
        if isinstance(optimizer, torch.optim.SGD):  # its step needs all momenta or none, and they start as zeros
            for index, parameter in enumerate(_parameters(optimizer)):
                state.setdefault(index, {"momentum_buffer": torch.zeros_like(parameter)})
        model.load_state_dict(weights(self._tensors))
        if average is not None:
            average.load_state_dict(weights(self._tensors, "average"))
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    average: nn.Module | None = None,
    descriptor: int | None = None,
) -> None:
    """Write a checkpoint atomically: an intact one is there at every moment. Raises CaptureError if it cannot be written.

    `average` is the model with averaged weights, if there is one. With a `descriptor` of the folder, it is found wherever it
    was moved to.
    """
    tensors = {name: _copy(tensor) for name, tensor in _of_models(model, average).items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": _copy(torch.as_tensor(value)) for key, value in values.items() if value is not None
        }
    data = to_bytes(json.dumps({"progress": asdict(progress)}), tensors)
    try:
        write_atomically(folder if descriptor is None else descriptor, CHECKPOINT, data, keep_as=PREVIOUS)
    except OSError as error:
        raise not_written(f"the checkpoint '{folder / CHECKPOINT}'", error, descriptor) from error


def load(folder: Path) -> Checkpoint | None:
    """Load the newest intact checkpoint of a run folder; None if there is none. Raises CaptureError if all are damaged."""
    damaged = ""
    for name in (CHECKPOINT, PREVIOUS):
        if not os.path.lexists(folder / name):
            continue
        try:
            progress, tensors = read(folder / name)
        except CaptureError as error:
            damaged = damaged or f"{name}: {error.message}"
            continue
        return Checkpoint(progress, damaged, tensors)
    if damaged:
        raise CaptureError(f"no checkpoint in '{folder}' is intact ({damaged})", "remove it to compute the whole run again")
    return None


def read(path: Path) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Read the progress and the tensors of one file. Raises CaptureError, saying what is wrong, unless it is intact."""
    if not path.is_file() or path.is_symlink():  # run folders may come from anywhere, and reading a FIFO never ends
        raise CaptureError("it is not a regular file")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        text = header.get(KEY, "")
        if _digest(text, tensors) != header.get(DIGEST):
            raise CaptureError("its bytes are not those that were written")
        body = json.loads(text)
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise CaptureError(str(error)) from error
    progress: Any = body.get("progress") if isinstance(body, dict) else None
    if wrong := _invalid_value(progress, _VALID) or _contradiction(progress):
        raise CaptureError(f"its progress is not valid: {wrong}")
    return Progress(**progress), tensors


def weights(tensors: Mapping[str, torch.Tensor], of: str = "model") -> dict[str, torch.Tensor]:
    """Return the tensors of the `model` or of its `average`, under the model's own names."""
    return {name.removeprefix(f"{of}."): tensor for name, tensor in tensors.items() if name.startswith(f"{of}.")}


def _of_models(model: nn.Module, average: nn.Module | None) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        found |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    return found


def to_bytes(text: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Serialize JSON and tensors to a safetensors file with the digest over both."""
    return to_safetensors(dict(tensors), {KEY: text, DIGEST: _digest(text, tensors)})


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to CPU memory of its own."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return BLAKE2b (16 bytes, hex) over the JSON and every tensor with its name, type and shape."""
    digest = blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_real(value: Any) -> bool:
    return type(value) is float


def _are_class_counts(value: Any) -> bool:
    columns = value if isinstance(value, list) and all(isinstance(column, list) for column in value) else []
    lengths = {len(column) for column in columns}
    return len(columns) == _CLASS_COLUMNS and len(lengths) == 1 and all(_is_count(one) for column in columns for one in column)


_VALID: Mapping[str, Any] = {
    "epoch": lambda value: _is_count(value) and value > 0,
    "phase": PHASES.__contains__,
    "batch": _is_count,
    "journal": {
        **dict.fromkeys(("seq", "bytes"), _is_count),
        "chain": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value),
    },
    "writer": {
        **dict.fromkeys(("step", "pack", "flight"), _is_count),
        "sums": {
            "phase": (*PHASES, "").__contains__,
            "epoch": lambda value: _is_count(value) or (type(value) is int and value == -1),
            **dict.fromkeys(("batches", "n", "captured"), _is_count),
            "correct": lambda value: _is_count(value) or (_is_real(value) and value >= 0),
            "loss": _is_real,
            "classes": lambda value: value is None or _are_class_counts(value),
        },
        "losses": {
            **dict.fromkeys(("factor", "mean"), _is_real),
            "n": _is_count,
            "variance": lambda value: _is_real(value) and not value < 0,
        },
    },
}
"""The fields of a Progress, each with a test of its value."""


def _invalid_value(value: Any, valid: Mapping[str, Any], path: str = "") -> str:
    """Describe the first value that is not valid; empty if all are."""
    if not isinstance(value, dict) or value.keys() != valid.keys():
        return f"{path or 'progress'} must hold {', '.join(valid)}"
    for name, test in valid.items():
        found, where = value[name], f"{path}.{name}" if path else name
        if isinstance(test, Mapping):
            wrong = _invalid_value(found, test, where)
        else:
            wrong = "" if test(found) else f"{where} is {_quoted(found)}"
        if wrong:
            return wrong
    return ""


def _quoted(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:_QUOTED]


def _contradiction(progress: Mapping[str, Any]) -> str:
    """Describe how training and writer disagree about the next batch; empty if they agree."""
    sums = progress["writer"]["sums"]
    trained = [progress["phase"], progress["epoch"], progress["batch"]]
    recorded = [sums["phase"], sums["epoch"], sums["batches"]]
    if trained == recorded or (trained[2], recorded[2]) == (0, 0):
        return ""
    return f"the next batch is {trained} for training and {recorded} for the records"


def _mismatched_tensors(
    tensors: Mapping[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> list[str]:
    """List the tensors that are missing, unknown, or of another type or shape than those of model and optimizer."""
    expected: dict[str, Any] = {name: (tensor.dtype, tensor.shape) for name, tensor in _of_models(model, average).items()}
    keys = ("momentum_buffer",) if isinstance(optimizer, torch.optim.SGD) else ("step", "exp_avg", "exp_avg_sq")
    for number, parameter in enumerate(_parameters(optimizer)):
        state = {
            f"optimizer.{number}.{key}": (torch.float32, ()) if key == "step" else (parameter.dtype, parameter.shape)
            for key in keys
        }
        if not state.keys().isdisjoint(tensors):  # a parameter that never had a gradient has no state
            expected |= state
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    return sorted(name for name in {**expected, **found} if expected.get(name) != found.get(name))


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters in the order in which the optimizer state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
