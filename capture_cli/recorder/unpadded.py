"""Batches recorded without the samples that the sampler of their loader repeats, which are counted.

    unpadded.record_of(loader, batch)               # `batch` are the arguments of Recorder.record
    unpadded.record(batch, padded=[15], size=16)    # without the sample at place 15

A pass begins with the first batch of an epoch, or of another loader. See capture_cli.recorder.padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture_cli.recorder.identified import first_tensor
from capture_cli.recorder.loading import padding_of_loader
from capture_cli.recorder.padding import TakenSamples, select_rows
from capture_cli.recorder.processes import require_here
from capture_cli.recorder.shapes import in_batch_form
from capture_cli.recorder.validation import check_tensors
from capture_cli.writer.columns import Forward, width

if TYPE_CHECKING:
    from collections.abc import Collection

    from capture_cli.recorder import Recorder
    from capture_cli.writer import BatchWriter


class Unpadded:
    """Records such batches for one recorder."""

    def __init__(self, recorder: Recorder, *, ignore_index: int) -> None:
        self._recorder = recorder
        self._ignore_index = ignore_index
        self._passes: dict[str, tuple[int, Any, TakenSamples]] = {}
        """Phase -> epoch and loader of its latest pass, and what that has taken."""

    def record_of(self, loader: Any, batch: dict[str, Any]) -> None:
        """Record the next batch of a loader."""
        phase, epoch = batch["phase"], batch["epoch"]
        latest = self._passes.get(phase)
        if latest is None or latest[0] != epoch or latest[1] is not loader:
            latest = self._passes[phase] = epoch, loader, TakenSamples(padding_of_loader(loader))
        first = first_tensor(batch["inputs"])
        size = len(first) if first is not None and first.ndim else 1
        self.record(batch, padded=latest[2].places(size), size=size)

    def record(self, batch: dict[str, Any], *, padded: Collection[int], size: int) -> None:
        """Record a batch of `size` samples without those at the places `padded`. All of it may be padding."""
        recorder, missed = self._recorder, self._recorder.missed
        kept = [place for place in range(size) if place not in padded]
        if kept:
            recorder.record(**{name: select_rows(value, kept, size) for name, value in batch.items()} if padded else batch)
        if not padded or recorder.missed > missed:
            return
        forward = Forward(batch["logits"], batch["labels"], batch.get("losses"), batch.get("loss"))
        inputs, forward, _ = in_batch_form(recorder.task, batch["inputs"], forward, batch["ids"], self._ignore_index)
        check_tensors(recorder.task, inputs, forward)
        require_here(recorder)
        writer: BatchWriter = vars(recorder)["_writer"]
        writer.phases.check(batch["phase"], batch["epoch"])
        classes = width(recorder.task, forward.logits)
        writer.pad(batch["phase"], batch["epoch"], len(padded), classes=classes, whole=not kept)
