"""Logits that are probabilities already, because the network ends in softmax.

    check = SoftmaxCheck(advice)
    if phase not in check.known:
        check.look(phase, logits, task)     # at each batch until it is known; warns once
    check.finish()                          # where no further batch will come soon

Softmax of a softmax is nearly uniform, so neither probabilities nor losses in the records would mean anything. Real logits have
negative numbers or another sum than 1, so their first batch settles it. Log-probabilities are logits. A network may return
probabilities in evaluation alone, so each phase is looked at.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture_cli.writer.columns import CLASS_TASKS, width
from capture_cli.writer.measures import SEGMENTATION

if TYPE_CHECKING:
    import torch

_MIN_ROWS = 16
"""Rows that must all be probabilities."""
_WARNING = "the logits of {phase} are probabilities: {rows:,} rows without a negative number, each with the sum 1. {advice}"
RECORDER = (
    "The recorder applies softmax to logits, so the recorded probabilities are nearly uniform: pass the values before softmax, "
    "or logits=probs.log(). nn.CrossEntropyLoss applies softmax as well, and nn.NLLLoss expects log_softmax, so check the "
    "training too"
)
TRAINING = (
    "Softmax is applied to logits, so loss and recorded probabilities are those of a nearly uniform prediction: remove the "
    "softmax at the end of the network"
)


@dataclass(slots=True)
class _Seen:
    """Batches of a phase that were all probabilities, if the latest one is."""

    rows: int
    latest: torch.Tensor
    """Whether it is. Read with the next batch, so that nobody waits for a device."""


class SoftmaxCheck:
    """Looks at the first batches of each phase of a run."""

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self.known: set[str] = set()
        """Phases that need no further look."""
        self._seen: dict[str, _Seen] = {}
        self._warned = False

    def look(self, phase: str, logits: torch.Tensor, task: str) -> None:
        """Look at the logits of the next batch of a phase."""
        seen = self._seen.get(phase)
        classes = width(task, logits) if task in (*CLASS_TASKS, SEGMENTATION) else 1
        if classes < 2 or (seen and not seen.latest.item()):
            self.known.add(phase)
        elif seen and seen.rows >= _MIN_ROWS:
            self._warn(phase, seen.rows)
        else:
            rows = logits.numel() // classes + (seen.rows if seen else 0)
            self._seen[phase] = _Seen(rows, _are_probabilities(logits, task))

    def finish(self) -> None:
        """Judge the phases that are not known yet by the batches that came, if they are enough."""
        for phase, seen in self._seen.items():
            if phase not in self.known and seen.rows >= _MIN_ROWS and seen.latest.item():
                self._warn(phase, seen.rows)

    def _warn(self, phase: str, rows: int) -> None:
        self.known.add(phase)
        if not self._warned:
            self._warned = True
            warnings.warn(_WARNING.format(phase=phase, rows=rows, advice=self._advice), stacklevel=6)


def _are_probabilities(logits: torch.Tensor, task: str) -> torch.Tensor:
    """Return a bool without dimensions: no number is negative, and every row has the sum 1."""
    tolerance = 1e-3 if logits.element_size() > 2 else 1e-2  # numbers of half precision have two or three digits
    probs = logits.detach().float()
    sums = probs.sum(1 if task == SEGMENTATION else -1)
    return (probs.amin() >= 0) & ((sums - 1).abs().amax() <= tolerance)
