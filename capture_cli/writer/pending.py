"""A batch whose results may still be on their way from the device.

On CUDA the copies go to pinned memory behind the step's own work. Nobody waits for them before the next batch comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from capture_cli.writer.columns import Header, Results

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Pending:
    """One batch after its forward pass, before its record is written."""

    header: Header
    inputs: torch.Tensor | None
    """[B, ...] detached, on the model's device; None once nothing needs them."""
    shape: torch.Size
    """Shape of one input."""
    dtype: torch.dtype
    captured: bool = False
    """A record will be written, whatever its loss is."""
    classes: int = 0
    """Width of the logits."""
    results: Results | None = None
    """On the host once `arrived`; None if they are staged with those of other batches."""
    arrived: torch.cuda.Event | None = None
    """None if nothing has to arrive."""
    copied: torch.Tensor | None = None
    """The inputs on the host, if the batch is captured."""
    device_ids: torch.Tensor | None = None
    """[B] ids that came on a device, on the host once `arrived`."""
    rows: slice | None = None
    """Rows of the staging buffer that hold its results."""
    loss: float = math.nan
    """Loss of a staged batch, in nats."""
    digests: list[str] | None = None
    """[B] digests of the inputs, once taken."""
    size: int = 0
    """Samples in the batch."""
    reason: str | None = None
    """Verdict of the spike rule on its loss; None until the loss is known."""

    @classmethod
    def of_inputs(cls, header: Header, inputs: torch.Tensor) -> Self:
        """Hold a batch that is counted, for its inputs are saved if the loss of the next batch goes wrong."""
        return cls(header, inputs.detach() if inputs.requires_grad else inputs, inputs.shape[1:], inputs.dtype)

    @classmethod
    def start(
        cls,
        header: Header,
        inputs: torch.Tensor,
        results: Results | None,
        *,
        captured: bool = False,
        classes: int = 0,
        device_ids: torch.Tensor | None = None,
    ) -> Self:
        """Start copying the results, the ids and, if the batch is captured, the inputs to the host."""
        if inputs.requires_grad:
            inputs = inputs.detach()
        numbers = header.numbers or {}
        given = [inputs if captured else None, device_ids, *numbers.values(), *(results or ())]
        (copied, device_ids, *rest), arrived = to_host(given)
        if numbers:
            header.numbers = dict(zip(numbers, rest, strict=False))
        results = type(results)(*rest[len(numbers) :]) if results else None
        shape = inputs.shape
        return cls(
            header, inputs, shape[1:], inputs.dtype, captured, classes, results, arrived, copied, device_ids, size=shape[0]
        )

    def wait(self) -> None:
        """Return once everything is on the host."""
        if self.arrived is not None:
            self.arrived.synchronize()

    def input_array(self) -> npt.NDArray[Any] | None:
        """Return the inputs [B, ...] as the model took them, None once they are released.

        Types that NumPy lacks (bfloat16, the float8 types) come as integers of the same bytes.
        """
        tensor = self.inputs if self.copied is None else self.copied
        if tensor is None:
            return None
        if not tensor.is_cpu:
            tensor = tensor.cpu()
        try:
            array: npt.NDArray[Any] = tensor.numpy()
        except (TypeError, RuntimeError):
            import torch

            if tensor.is_conj() or tensor.is_neg():  # a view that NumPy does not know
                return tensor.resolve_conj().resolve_neg().numpy()
            array = tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize]).numpy()
        return array


def to_host(tensors: list[Any]) -> tuple[list[Any], torch.cuda.Event | None]:
    """Copy tensors (or None) to the host; return them with the event after which they are there (None: now).

    A copy from CUDA that does not wait goes to pinned memory, which torch allocates. Tensors on the host beside it are copied
    too: they may be overwritten before the others arrive.
    """
    device = None
    for number, tensor in enumerate(tensors):
        if tensor is None or tensor.is_cpu:
            continue
        if tensor.is_cuda:
            device = tensor.device
        else:
            tensors[number] = tensor.cpu()
    if device is None:
        return tensors, None
    import torch

    host = [  # contiguous on the device: on the host that would copy bytes that have not arrived yet
        tensor if tensor is None else tensor.clone() if tensor.is_cpu else tensor.contiguous().to("cpu", non_blocking=True)
        for tensor in tensors
    ]
    arrived: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(device))
    return host, arrived
