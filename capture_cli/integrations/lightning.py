"""Record the batches of a Lightning Trainer: training, validation and test.

    with Recorder("run.jsonl", classes=[...]) as recorder:
        trainer = Trainer(..., callbacks=[LightningCapture(recorder)])
        trainer.fit(model, DataLoader(dataset, shuffle=True))

Each step returns a dict, since a callback sees nothing else of it:

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        logits = self(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

`logits` and `labels` are required, in validation and test as well. `inputs` and `ids` may be returned too; by default inputs
are the first tensor of the batch. `extra` may hold further columns, `numbers` named numbers. With the task `loss` the loss
is enough, as a dict or alone; `losses` may hold one per sample.

Ids are the indices that the sampler draws, or those of an `identified` dataset, which then end each batch. A step must return
them as `ids` where neither is known: for an IterableDataset, for several training loaders at once, for a step that takes the
batches itself (`dataloader_iter`).

The numbers are those of the forward pass, although callbacks run after the update. The epoch is the trainer's; a second
validation within an epoch gets the next number, and its records say which training step it follows (`step`). Batches of the
sanity check are not recorded. In distributed training each process needs a recorder of its own, all with the same run folder;
samples that a distributed sampler repeats are counted as padding.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.integrations import Passes
from capture_cli.recorder.drawn import Followed, follow
from capture_cli.recorder.identified import first_tensor, require_identified, split_ids
from capture_cli.recorder.loading import torch_loader

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callbacks() -> tuple[type[Any], ...]:
    """Return the Callback class of each Lightning package in use, else of the first installed one. Raises UsageError."""
    used = [package for package in PACKAGES if sys.modules.get(package) is not None]
    found = []
    for package in used or PACKAGES:
        with suppress(ImportError):
            found.append(importlib.import_module(package).Callback)
        if found and not used:
            break
    if not found:
        raise UsageError("Lightning is not installed", "pip install 'capture-cli[lightning]'")
    return tuple(found)


class LightningCapture(*_callbacks()):  # type: ignore[misc] # the base is that of the Lightning at hand
    """A callback of a Lightning Trainer."""

    def __init__(self, recorder: Recorder) -> None:
        """Record into `recorder`, which the caller opens and closes."""
        super().__init__()
        self._recorder = recorder
        self._passes = Passes(recorder)
        self._lr: float | None = None
        self._first = self
        """The callback of this class that comes first, and takes the ids for all."""
        self._drawn: Any = None
        """The draws of the sampler for the current batch; None if they are not known."""

    def setup(self, trainer: Any, _module: Any, stage: str) -> None:
        """Have the strategy, which prepares the loaders, return such that tell what their samplers draw."""
        self._first = next(one for one in trainer.callbacks if isinstance(one, LightningCapture))
        if self._first is self:
            self.teardown(trainer, _module, stage)  # which a fit that failed did not call
            process = trainer.strategy.process_dataloader
            if stage != "predict":
                trainer.strategy.process_dataloader = lambda loader: process(follow(loader))

    def teardown(self, trainer: Any, _module: Any, stage: str) -> None:  # noqa: ARG002 - Lightning passes it by name
        """Leave the strategy as it was."""
        vars(trainer.strategy).pop("process_dataloader", None)

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Take the ids of the batch, and read the learning rate of the update that follows."""
        self._take(trainer.train_dataloader)
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else None

    def on_validation_batch_start(self, trainer: Any, _module: Any, _batch: Any, _number: int, dataloader_idx: int = 0) -> None:
        """Take the ids of the batch."""
        self._take(_loader(trainer.val_dataloaders, dataloader_idx))

    def on_test_batch_start(self, trainer: Any, _module: Any, _batch: Any, _number: int, dataloader_idx: int = 0) -> None:
        """Take the ids of the batch."""
        self._take(_loader(trainer.test_dataloaders, dataloader_idx))

    def on_train_batch_end(self, trainer: Any, _module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Record a training batch. Raises UsageError, naming the key, if the step did not return one that is required."""
        if batch is None:  # a collate function dropped it, and Lightning trained on nothing
            self._take(trainer.train_dataloader)
            return
        self._recorder.attempt(self._record, trainer, "train", "training_step", outputs, batch, trainer.train_dataloader)

    def on_validation_batch_end(
        self, trainer: Any, _module: Any, outputs: Any, batch: Any, _number: int, dataloader_idx: int = 0
    ) -> None:
        """Record a validation batch in the phase `val`, or `val-1`, `val-2`, ... for further loaders."""
        if not trainer.sanity_checking:
            self._record_evaluation(trainer, "val", "validation_step", outputs, batch, trainer.val_dataloaders, dataloader_idx)

    def on_test_batch_end(
        self, trainer: Any, _module: Any, outputs: Any, batch: Any, _number: int, dataloader_idx: int = 0
    ) -> None:
        """Record a test batch in the phase `test`, or `test-1`, `test-2`, ... for further loaders."""
        self._record_evaluation(trainer, "test", "test_step", outputs, batch, trainer.test_dataloaders, dataloader_idx)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Write the sums of the epoch."""
        self._passes.end("train")

    def on_validation_end(self, trainer: Any, _module: Any) -> None:
        """Write the sums of the validation."""
        if not trainer.sanity_checking:
            self._passes.end_evaluations()

    def on_test_end(self, *_: Any) -> None:
        """Write the sums of the test."""
        self._passes.end_evaluations()

    def _record_evaluation(
        self, trainer: Any, phase: str, step: str, outputs: Any, batch: Any, loaders: Any, index: int
    ) -> None:
        name, loader = f"{phase}-{index}" if index else phase, _loader(loaders, index)
        self._recorder.attempt(self._record, trainer, name, step, outputs, batch, loader)

    def _take(self, loader: Any) -> None:
        if self._first is self:
            self._drawn = loader.take() if isinstance(loader, Followed) else None

    def _record(self, trainer: Any, phase: str, step: str, outputs: Any, batch: Any, loader: Any) -> None:
        returned = outputs if isinstance(outputs, Mapping) else {} if outputs is None else {"loss": outputs}
        required = ("logits", "labels") if self._recorder.task != "loss" else () if "losses" in returned else ("loss",)
        for key in required:
            if key not in returned:
                keys = ", ".join(map(repr, returned)) or "none"
                wanted = '{"loss": loss}' if key == "loss" else '{"loss": loss, "logits": logits, "labels": labels}'
                raise UsageError(f"{step} returned no {key!r} (its keys: {keys})", f"return {wanted}")
        inputs, ids, files = returned.get("inputs"), returned.get("ids"), None
        if ids is None and (drawn := self._first._drawn) is not None:
            ids, files = loader.drawn.names(drawn)
        if ids is None:
            require_identified(torch_loader(loader))
            batch, ids = split_ids(batch)
        if inputs is None and not isinstance(batch, Mapping):
            inputs = first_tensor(batch)
        if inputs is None:
            raise UsageError(
                f"{step} returned no 'inputs', and they cannot be told from a batch that is a {type(batch).__name__}",
                'return "inputs" as well',
            )
        self._recorder.record(
            epoch=self._passes.epoch(phase, trainer.current_epoch),
            phase=phase,
            inputs=inputs,
            logits=returned.get("logits") if required else None,
            labels=returned.get("labels") if required else None,
            ids=ids,
            files=files,
            losses=returned.get("losses"),
            loss=returned.get("loss"),
            numbers=returned.get("numbers"),
            lr=self._lr if phase == "train" else None,
            extra=returned.get("extra"),
            loader=loader,
        )


def _loader(loaders: Any, index: int) -> Any:
    """Return one of the loaders of an evaluation, which are a sequence, a mapping or one alone."""
    loaders = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    return loaders[index] if isinstance(loaders, list | tuple) else loaders
