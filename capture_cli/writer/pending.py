"""A batch whose results may still be on their way from the device.

    pending = Pending.of(header, inputs, results, captured=True, classes=10)
    ...                                         # the next step is under way
    tensors = pending.wait()                    # on the host, once they are there

On CUDA copies go to pinned memory behind the step's own work, and nobody waits for them before the next batch comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Pending:
    """One batch, after its forward pass."""

    header: dict[str, Any]
    inputs: torch.Tensor | None
    """[B, ...] detached, where the model took them; None once nobody has a use for them."""
    shape: torch.Size
    """Of one input."""
    dtype: torch.dtype
    captured: bool
    classes: int
    host: dict[str, torch.Tensor]
    """What capture_cli.writer.columns has taken."""
    arrived: torch.cuda.Event | None
    """None where the results are there already."""
    copied: torch.Tensor | None
    """The inputs on the host, where they are to be written."""
    late_ids: torch.Tensor | None
    """The ids, where they come from a device as well."""
    rows: slice | None = None
    """Where its answers wait among those of others; `host` is empty then."""
    loss: float = math.nan
    """The number that is differentiated, where its answers wait so."""
    digests: list[str] | None = None
    """Of the inputs, once they were taken."""
    reason: str | None = None
    """What is wrong with its loss, empty where nothing is; None where that was not asked yet."""

    @classmethod
    def of(
        cls,
        header: dict[str, Any],
        inputs: torch.Tensor,
        results: dict[str, torch.Tensor],
        *,
        captured: bool = False,
        classes: int = 0,
    ) -> Self:
        """Set out for the host with the inputs, if they are captured, with results, and with the ids among these."""
        if inputs.requires_grad:
            inputs = inputs.detach()
        if captured:
            results["inputs"] = inputs
        host, arrived = to_host(results)
        copied, late_ids = host.pop("inputs", None), host.pop("ids", None)
        return cls(header, inputs, inputs.shape[1:], inputs.dtype, captured, classes, host, arrived, copied, late_ids)

    def is_of(self, phase: str, epoch: int) -> bool:
        """Whether the batch is one of this phase of this epoch."""
        return bool(self.header["epoch"] == epoch and self.header["phase"] == phase)

    def wait(self) -> dict[str, torch.Tensor]:
        """The results, on the host."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host

    def input_array(self) -> npt.NDArray[Any] | None:
        """The inputs as they were when the model took them; None once they were let go.

        What numpy has no type for (bfloat16, the float8 types) comes as integers of the same bytes.
        """
        tensor = self.inputs if self.copied is None else self.copied
        if tensor is None:
            return None
        if not tensor.is_cpu:
            tensor = tensor.cpu()
        try:
            array: npt.NDArray[Any] = tensor.numpy()
        except TypeError:
            import torch

            array = tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize]).numpy()
        return array


def to_host(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
    """The same tensors on the host, and the event after which they are there (None: now).

    A copy from CUDA without waiting goes to pinned memory, which torch sees to itself. What is on the host beside it is copied
    too: by the time that the others are there it may have been overwritten.
    """
    on_cuda = None
    for name, tensor in tensors.items():
        if tensor.is_cuda:
            on_cuda = tensor.device
        elif not tensor.is_cpu:
            tensors[name] = tensor.cpu()
    if on_cuda is None:
        return tensors, None
    import torch

    host = {  # contiguous on the device: on the host it would be a copy of what has not arrived yet
        name: tensor.clone() if tensor.is_cpu else tensor.contiguous().to("cpu", non_blocking=True)
        for name, tensor in tensors.items()
    }
    arrived: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(on_cuda))
    return host, arrived
