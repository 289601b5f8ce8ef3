"""Host buffer for the logits and labels of batches that will be written together.

    rows = staging.add(logits, labels)        # slice(0, 64); None if there is no room
    rows = staging.add(logits, labels)        # slice(64, 128)
    staging.staged()                          # Forward(logits [128, C], labels [128])
    staging.clear()

The memory is allocated once. A small tensor that outlives its step lies between large ones that do not. The allocator then
hands out other memory in the next step, which no cache holds, and that costs several times as much as copying a few kB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from capture_cli.writer.columns import Forward

if TYPE_CHECKING:
    import torch

    from capture_cli.records import Floats, Ints

MAX_BATCHES = 32
MAX_LOGITS = 2**20


class Staging:
    """Logits [N, C] float32 and labels [N] int64 of consecutive batches."""

    def __init__(self) -> None:
        self._rows = 0
        self._logits: Floats = np.empty((0, 0), np.float32)
        self._labels: Ints = np.empty(0, np.int64)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> slice | None:
        """Copy a batch that is on the host; return its rows, or None if there is no room.

        All batches between two `clear` have the same number of classes.
        """
        b, classes = logits.shape
        if not self._rows:
            most = min(MAX_BATCHES * b, MAX_LOGITS // classes)
            if self._logits.shape[1] != classes or len(self._logits) < most:
                self._logits, self._labels = np.empty((most, classes), np.float32), np.empty(most, np.int64)
        rows = slice(self._rows, self._rows + b)
        if rows.stop > len(self._logits):
            return None
        self._logits[rows] = logits.detach().float().numpy()  # float: NumPy has no bfloat16
        self._labels[rows] = labels.numpy()
        self._rows = rows.stop
        return rows

    def staged(self) -> Forward:
        """Return all rows."""
        import torch

        return Forward(torch.from_numpy(self._logits[: self._rows]), torch.from_numpy(self._labels[: self._rows]))

    def clear(self) -> None:
        """Make room for new batches."""
        self._rows = 0
