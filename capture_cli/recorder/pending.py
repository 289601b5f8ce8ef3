"""A batch whose results may still be on their way from the device.

    pending = Pending(header, inputs, captured, classes, *to_host(results))
    ...                                         # the next step is under way
    arrays = pending.wait()                     # numpy, once they are there

On CUDA copies go to pinned memory behind the step's own work, and nobody waits for them before the next batch comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    import torch


@dataclass
class Pending:
    """One batch, after its forward pass."""

    header: dict[str, Any]
    inputs: torch.Tensor | None
    """[B, ...] detached, where the model took them; None once nobody has a use for them."""
    shape: tuple[int, ...]
    """Of one input."""
    dtype: str
    """Of the inputs: `float32`, `bfloat16`, ..."""
    captured: bool
    classes: int
    host: dict[str, torch.Tensor]
    arrived: torch.cuda.Event | None
    """None where the results are there already."""
    digests: list[str] | None = None
    """Of the inputs, once they were taken."""
    reason: str | None = None
    """What is wrong with its loss, empty where nothing is; None where that was not asked yet."""

    def is_of(self, phase: str, epoch: int) -> bool:
        """Whether the batch is one of this phase of this epoch."""
        return bool(self.header["epoch"] == epoch and self.header["phase"] == phase)

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        """The results as arrays."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return {name: _array(tensor) for name, tensor in self.host.items()}

    def copy_inputs(self) -> npt.NDArray[Any]:
        """The inputs, from where they were when the model took them."""
        assert self.inputs is not None  # noqa: S101 - whoever lets go of inputs has no use for them
        return _array(self.inputs.cpu().contiguous())


def to_host(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
    """The same tensors on the host, and the event after which they are there (None: now).

    A copy from CUDA without waiting goes to pinned memory, which torch sees to itself.
    """
    on_cuda = [tensor for tensor in tensors.values() if tensor.is_cuda]
    if not on_cuda:  # on the host they are left as they are
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, None
    import torch

    # contiguous on the device: on the host it would be a copy of what has not arrived yet
    host = {name: tensor.contiguous().to("cpu", non_blocking=tensor.is_cuda) for name, tensor in tensors.items()}
    arrived: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(on_cuda[0].device))
    return host, arrived


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """What numpy has no type for (bfloat16, the float8 types) comes as integers of the same bytes."""
    array: npt.NDArray[Any]
    try:
        array = tensor.numpy()
    except TypeError:
        import torch

        array = tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize]).numpy()
    return array
