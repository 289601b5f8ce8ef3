"""Where the answers of batches wait that are written together.

    room = Room()
    rows = room.take(logits, labels)        # slice(0, 64); None: full
    rows = room.take(logits, labels)        # slice(64, 128)
    room.taken()                            # {"logits": [128, C], "labels": [128]}
    room.clear()

Its memory is got once. A small tensor that outlives its step lies between large ones that do not; the allocator then hands out
other memory for those of the next step, which no cache holds, and that takes several times as long as copying a few kB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

MOST_BATCHES = 32
MOST_NUMBERS = 2**20
"""How many batches, and how many logits, wait at most."""


class Room:
    """Logits [N, C] float32 and labels [N] of batches after each other."""

    def __init__(self) -> None:
        self._rows = 0
        self._logits: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._labels: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def take(self, logits: torch.Tensor, labels: torch.Tensor) -> slice | None:
        """Copy a batch that is on the host; the rows where it lies, or None where there is no room.

        Until it is cleared, all batches have as many classes.
        """
        if not self._rows:
            self._fit(*logits.shape)
        rows = slice(self._rows, self._rows + len(logits))
        if rows.stop > len(self._logits):
            return None
        self._logits[rows] = logits.detach().float().numpy()  # float: numpy does not know bfloat16
        self._labels[rows] = labels.numpy()
        self._rows = rows.stop
        return rows

    def _fit(self, b: int, classes: int) -> None:
        most = min(MOST_BATCHES * b, MOST_NUMBERS // classes)
        if self._logits.shape[1] != classes or len(self._logits) < most:
            self._logits, self._labels = np.empty((most, classes), np.float32), np.empty(most, np.int64)

    def taken(self) -> dict[str, torch.Tensor]:
        """All of them, as capture_cli.writer.columns takes the tensors of one batch."""
        import torch

        logits, labels = self._logits[: self._rows], self._labels[: self._rows]
        return {"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels)}

    def clear(self) -> None:
        """Have room for as many again."""
        self._rows = 0
