"""A checkpoint: one file from which a run goes on as if it had never stopped.

    save(folder, model, optimizer, place)       # atomic; the one before it is kept
    found = load(folder)                        # the newest that is whole, or None
    found.restore(model, optimizer)

`checkpoint.safetensors` holds every parameter, buffer and optimizer tensor, and as JSON the place: how far the training and the
journal were, together, so that the two cannot disagree. No generator state is in it, since none is kept (see
capture_cli.runtime.seed_step), and no pickle: reading one runs nothing. A digest over all of it tells a damaged file, in
whose place the one before is used.
"""

import contextlib
import json
import os
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
from capture_cli.journal import sync_folder
from capture_cli.runfolder import CHECKPOINT, PREVIOUS

KEY, DIGEST = "capture-checkpoint", "digest"


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a run is: the batches before this place are done and recorded."""

    epoch: int = 0
    phase: str = "train"
    batch: int = 0
    """The next batch of the phase."""
    journal: Mapping[str, Any] = field(default_factory=dict)
    """capture_cli.journal.Journal.place: lines, bytes and chain so far."""
    recorder: Mapping[str, Any] = field(default_factory=dict)
    """capture_cli.recorder.Recorder.place: steps and the sums of the phase so far."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole."""

    place: Place
    damaged: str
    """What was wrong with the newest file, if this is the one before; else empty."""
    _tensors: Mapping[str, torch.Tensor]
    _groups: list[dict[str, Any]]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the weights and the optimizer's state back. Raises CaptureError if they are of another model."""
        weights = {name[len("model.") :]: t for name, t in self._tensors.items() if name.startswith("model.")}
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in self._tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = tensor
        try:
            model.load_state_dict(weights)
            optimizer.load_state_dict({"state": state, "param_groups": self._groups})
        except (RuntimeError, ValueError, KeyError) as error:
            raise CaptureError("the checkpoint is of another model", "has the code of the model changed?") from error


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place) -> None:
    """Write the checkpoint of `place` so that at every moment a whole one is there. Raises CaptureError if it cannot be."""
    saved = optimizer.state_dict()
    tensors = {f"model.{name}": _own(tensor) for name, tensor in model.state_dict().items()}
    for number, values in saved["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": _own(torch.as_tensor(value)) for key, value in values.items() if value is not None
        }
    text = json.dumps({"place": asdict(place), "groups": saved["param_groups"]})
    data = to_safetensors(tensors, {KEY: text, DIGEST: _digest(text, tensors)})
    path, aside = folder / CHECKPOINT, folder / f".{CHECKPOINT}.part"
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(folder / PREVIOUS)
        aside.replace(path)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)  # a full disk has a use for its room
        raise CaptureError(
            f"the checkpoint '{path}' could not be written: {error.strerror}", "the records are kept and valid"
        ) from error


def load(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run folder, None where there is none."""
    damaged = ""
    for name in (CHECKPOINT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            place, tensors, groups = _read(path)
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            damaged = damaged or f"{name}: {error}"
            continue
        return Checkpoint(place, damaged, tensors, groups)
    if damaged:
        raise CaptureError(f"no checkpoint in '{folder}' is whole ({damaged})", "remove it to compute all of the run again")
    return None


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU in memory of its own."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read(path: Path) -> tuple[Place, dict[str, torch.Tensor], list[dict[str, Any]]]:
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    text = header[KEY]
    if _digest(text, tensors) != header[DIGEST]:
        raise ValueError("its bytes are not those that were written")
    body = json.loads(text)
    return Place(**body["place"]), tensors, body["groups"]


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b (16 bytes, hex) over the place and every tensor with its name, type and shape."""
    digest = blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
