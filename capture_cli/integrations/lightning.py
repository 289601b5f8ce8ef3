"""Lightning: a callback that records the batches of training, validation and test.

    with Recorder("run.jsonl", classes=[...]) as recorder:
        trainer = Trainer(..., callbacks=[LightningCapture(recorder)])
        trainer.fit(model, DataLoader(identified(dataset), shuffle=True))

Each step returns a dict with what only it knows:

    def training_step(self, batch, batch_idx):
        inputs, labels, ids = batch                     # a batch of an identified dataset ends in its ids
        logits = self(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "labels": labels}

`logits` and `labels` are needed, in validation and test as well, and `loss` in training. `inputs` and `ids` are taken from the
batch (its first tensor, and what `identified` put there) where the step does not return them; `extra` may hold further columns.

Callbacks hear of a batch after its update; what is recorded is of its forward pass. The epoch is the trainer's; a second
validation within an epoch has the next number. The batches of the sanity check are not recorded. In a distributed training each
process needs a recorder, and a file, of its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.integrations import Passes
from capture_cli.recorder.watching import demand_identified, first_tensor, without_ids

if TYPE_CHECKING:
    from capture_cli.recorder import Recorder

ROOTS = ("lightning.pytorch", "pytorch_lightning")
"""The two names under which Lightning is imported."""


def _callbacks() -> tuple[type[Any], ...]:
    """The class of callbacks of each root that is in use, else of the first that is installed. Raises UsageError for none."""
    used = [root for root in ROOTS if sys.modules.get(root) is not None]
    found = []
    for root in used or ROOTS:
        with suppress(ImportError):
            found.append(importlib.import_module(root).Callback)
        if found and not used:
            break
    if not found:
        raise UsageError("Lightning is not installed", "pip install 'capture-cli[lightning]'")
    return tuple(found)


class LightningCapture(*_callbacks()):  # type: ignore[misc] # the base is that of the Lightning at hand
    """Give it to a Trainer among its callbacks."""

    def __init__(self, recorder: Recorder) -> None:
        """`recorder` is opened and closed by the caller, whose `with` says how the training ended."""
        super().__init__()
        self._recorder = recorder
        self._passes = Passes(recorder)
        self._lr: float | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Take note of the learning rate of the update that follows."""
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else None

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Record a batch of training. Raises UsageError, naming the key, where the step did not return what is needed."""
        self._record(trainer, "train", "training_step", outputs, batch, trainer.train_dataloader)

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,
    ) -> None:
        """Record a batch of validation, of the phase `val`, `val-1`, ... by its loader."""
        if not trainer.sanity_checking:
            loader = _numbered(trainer.val_dataloaders, dataloader_idx)
            self._record(trainer, _phase("val", dataloader_idx), "validation_step", outputs, batch, loader)

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,
    ) -> None:
        """Record a batch of a test, of the phase `test`, `test-1`, ... by its loader."""
        loader = _numbered(trainer.test_dataloaders, dataloader_idx)
        self._record(trainer, _phase("test", dataloader_idx), "test_step", outputs, batch, loader)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Write the sums of the epoch."""
        self._passes.end("train")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Write the sums of the validation."""
        if not trainer.sanity_checking:
            self._passes.end_all(but="train")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Write the sums of the test."""
        self._passes.end_all(but="train")

    def _record(self, trainer: Any, phase: str, step: str, outputs: Any, batch: Any, loader: Any) -> None:
        returned = outputs if isinstance(outputs, Mapping) else {}
        for key in ("logits", "labels"):
            if key not in returned:
                keys = ", ".join(map(repr, returned)) or "none"
                raise UsageError(
                    f"{step} returned no {key!r} (its keys: {keys})",
                    'return {"loss": loss, "logits": logits, "labels": labels}',
                )
        inputs, ids = returned.get("inputs"), returned.get("ids")
        if ids is None:
            demand_identified(loader)
            batch, ids = without_ids(batch)
        if inputs is None and not isinstance(batch, Mapping):
            inputs = first_tensor(batch)
        if inputs is None:
            raise UsageError(
                f"{step} returned no 'inputs', and a batch that is a {type(batch).__name__} does not say which they are",
                'return "inputs" as well',
            )
        self._recorder.record(
            epoch=self._passes.epoch(phase, trainer.current_epoch),
            phase=phase,
            inputs=inputs,
            logits=returned["logits"],
            labels=returned["labels"],
            ids=ids,
            loss=returned.get("loss"),
            lr=self._lr if phase == "train" else None,
            extra=returned.get("extra"),
        )


def _phase(name: str, loader: int) -> str:
    return f"{name}-{loader}" if loader else name


def _numbered(loaders: Any, index: int) -> Any:
    return loaders[index] if isinstance(loaders, list | tuple) else loaders
