"""A checkpoint: one file from which a run goes on as if it had never stopped.

    save(folder, model, optimizer, place)       # atomic; the one before it is kept
    found = load(folder)                        # the newest that is whole, or None
    found.restore(model, optimizer)

`checkpoint.safetensors` holds every parameter, buffer and optimizer tensor, and as JSON the place: how far the training and the
journal were, together, so that the two cannot disagree. No generator state is in it, since none is kept (see
capture_cli.runtime.seed_step), no options, since those are in the records, and no pickle: reading one runs nothing.

A digest over all of it tells a damaged file, in whose place the one before is used. It is no signature, so what fits its digest
is believed no further: each value must be one that a run can have, each tensor one of the model that goes on.
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
from capture_cli.runfolder import CHECKPOINT, PREVIOUS

KEY, DIGEST = "capture-checkpoint", "digest"
PHASES = ("train", "val")
_SHOWN = 40
"""Characters of a wrong value that a message quotes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a run is: the batches before this place are done and recorded."""

    epoch: int = 1
    phase: str = "train"
    batch: int = 0
    """The next batch of the phase."""
    journal: Mapping[str, Any] = field(default_factory=dict)
    """capture_cli.journal.Journal.place: lines, bytes and chain so far."""
    recorder: Mapping[str, Any] = field(default_factory=dict)
    """capture_cli.writer.BatchWriter.state: steps and the sums of the phase so far."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole."""

    place: Place
    damaged: str
    """What was wrong with the newest file, if this is the one before; else empty."""
    _tensors: Mapping[str, torch.Tensor]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the weights and the optimizer's state back. Raises CaptureError if they are of another model.

        The options of the optimizer are left as they are: those of a run do not change, and its learning rate is set at
        every step.
        """
        if wrong := _other_tensors(self._tensors, model, optimizer):
            raise CaptureError(
                f"the checkpoint is of another model: '{wrong[0]}' does not fit", "has the code of the model changed?"
            )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in self._tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensor
        if isinstance(optimizer, torch.optim.SGD):  # its step takes all momenta or none; zeros are what one begins with
            for at, parameter in enumerate(_parameters(optimizer)):
                state.setdefault(at, {"momentum_buffer": torch.zeros_like(parameter)})
        model.load_state_dict(weights(self._tensors))
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place) -> None:
    """Write the checkpoint of `place` so that at every moment a whole one is there. Raises CaptureError if it cannot be."""
    tensors = {f"model.{name}": _own(tensor) for name, tensor in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": _own(torch.as_tensor(value)) for key, value in values.items() if value is not None
        }
    data = to_bytes(json.dumps({"place": asdict(place)}), tensors)
    try:
        write_atomically(folder, CHECKPOINT, data, keep_as=PREVIOUS)
    except OSError as error:
        where = folder / CHECKPOINT
        raise CaptureError(
            f"the checkpoint '{where}' could not be written: {error.strerror}", "the records are kept and valid"
        ) from error


def load(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run folder, None where there is none. Raises CaptureError where none is whole."""
    damaged = ""
    for name in (CHECKPOINT, PREVIOUS):
        if not os.path.lexists(folder / name):
            continue
        try:
            place, tensors = read(folder / name)
        except CaptureError as error:
            damaged = damaged or f"{name}: {error.message}"
            continue
        return Checkpoint(place, damaged, tensors)
    if damaged:
        raise CaptureError(f"no checkpoint in '{folder}' is whole ({damaged})", "remove it to compute all of the run again")
    return None


def read(path: Path) -> tuple[Place, dict[str, torch.Tensor]]:
    """The place and the tensors in one file. Raises CaptureError, saying what is wrong with it, unless it is whole."""
    if not path.is_file() or path.is_symlink():  # a run folder may come from anywhere, and a FIFO in it would never end
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
    place: Any = body.get("place") if isinstance(body, dict) else None
    if wrong := _impossible(place, _PLACE) or _torn(place):
        raise CaptureError(f"it says of the run what cannot be: {wrong}")
    return Place(**place), tensors


def weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the model, as it names them."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}


def to_bytes(text: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A file with this JSON and these tensors, and the digest over them."""
    return to_safetensors(dict(tensors), {KEY: text, DIGEST: _digest(text, tensors)})


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU in memory of its own."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b (16 bytes, hex) over the place and every tensor with its name, type and shape."""
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


_PLACE: Mapping[str, Any] = {
    "epoch": lambda value: _is_count(value) and value > 0,
    "phase": PHASES.__contains__,
    "batch": _is_count,
    "journal": {
        **dict.fromkeys(("seq", "bytes"), _is_count),
        "chain": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value),
    },
    "recorder": {
        **dict.fromkeys(("step", "pack", "flight"), _is_count),
        "sums": {
            "phase": (*PHASES, "").__contains__,
            "epoch": lambda value: _is_count(value) or (type(value) is int and value == -1),
            **dict.fromkeys(("batches", "n", "captured"), _is_count),
            "correct": lambda value: _is_count(value) or (_is_real(value) and value >= 0),
            "loss": _is_real,
        },
        "losses": {
            **dict.fromkeys(("factor", "mean"), _is_real),
            "n": _is_count,
            "variance": lambda value: _is_real(value) and not value < 0,
        },
    },
}
"""What a place holds, and what each value must be."""


def _impossible(value: Any, wanted: Mapping[str, Any], within: str = "") -> str:
    """The first name whose value is not as `wanted`, and that value; empty where there is none."""
    if not isinstance(value, dict) or value.keys() != wanted.keys():
        return f"{within or 'place'} must hold {', '.join(wanted)}"
    for name, right in wanted.items():
        found, where = value[name], f"{within}.{name}" if within else name
        if isinstance(right, Mapping):
            wrong = _impossible(found, right, where)
        else:
            wrong = "" if right(found) else f"{where} is {_shown(found)}"
        if wrong:
            return wrong
    return ""


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:_SHOWN]


def _torn(place: Mapping[str, Any]) -> str:
    """How training and recorder disagree on where they are, empty where they do not."""
    sums = place["recorder"]["sums"]
    there, recorded = [[one[name] for name in ("phase", "epoch")] for one in (place, sums)]
    if (place["batch"], sums["batches"]) == (0, 0) or [*there, place["batch"]] == [*recorded, sums["batches"]]:
        return ""
    return f"batch {place['batch']} of {there} for training, batch {sums['batches']} of {recorded} for the records"


def _other_tensors(tensors: Mapping[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of tensors that model and optimizer do not have, or have in another type or shape, or that are missing."""
    wanted = {f"model.{name}": (tensor.dtype, tensor.shape) for name, tensor in model.state_dict().items()}
    keys = ("momentum_buffer",) if isinstance(optimizer, torch.optim.SGD) else ("step", "exp_avg", "exp_avg_sq")
    for number, parameter in enumerate(_parameters(optimizer)):
        state = {
            f"optimizer.{number}.{key}": (torch.float32, ()) if key == "step" else (parameter.dtype, parameter.shape)
            for key in keys
        }
        if not state.keys().isdisjoint(tensors):  # one that never had a gradient has none
            wanted |= state
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    return sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """As its state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
