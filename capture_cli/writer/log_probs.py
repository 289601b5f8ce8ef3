"""Log-probabilities that the loss function has computed already.

    log_probs = of_loss(logits, loss)           # [B, C]; None if they must be computed

`nn.CrossEntropyLoss` begins with the log-softmax of the logits, and autograd keeps it for the backward pass. `log_softmax`
would return the same bits again, and for a batch that is not recorded that is most of the work. It is read at once, never
changed or kept. There is none after the backward pass, without gradients, or if the logits were changed in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_STEPS = 6
"""Operations from the loss back to the log-softmax: an added term, a factor, label smoothing, the mean."""
_LAST = 2**64 - 1
"""The dimension -1, as autograd keeps it."""


def of_loss(logits: torch.Tensor, loss: Any) -> torch.Tensor | None:
    """Return the log-softmax of `logits` over the last dimension that `loss` was computed from, float32 on the host."""
    node: Any = getattr(loss, "grad_fn", None)
    if node is None or not logits.is_cpu or logits.itemsize != 4 or logits._version:
        return None
    try:
        for _ in range(_STEPS):
            if node.name() == "LogSoftmaxBackward0":
                break
            node = node.next_functions[0][0]
        else:
            return None
        source, output = node.next_functions[0]
        own = source is logits.grad_fn and output == logits.output_nr if logits.grad_fn else source.variable is logits
        if not own or node._saved_dim not in (logits.ndim - 1, _LAST) or node._raw_saved_result.unpack_hook is not None:
            return None  # of other logits, or not in memory: a checkpoint would compute it again
        found: torch.Tensor = node._saved_result.detach()
    except (AttributeError, IndexError, RuntimeError):  # another graph, or one that the backward pass has freed
        return None
    return found if found.itemsize == 4 else None
