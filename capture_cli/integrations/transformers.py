"""Record the batches of a Transformers Trainer with a mixin, since its callbacks never see the inputs of the model.

    class CapturingTrainer(TransformersCapture, Trainer): ...

    with Recorder("run.jsonl", task="sequence") as recorder:
        trainer = CapturingTrainer(model=model, args=args, train_dataset=dataset, recorder=recorder)
        trainer.train()

The mixin reads every batch in `compute_loss`, which other bases may override. Phases are `train`, `val` (`val-NAME` for each of
several evaluation datasets) and `test` (`predict`, if there are labels). The epoch is the trainer's; a second evaluation within
an epoch gets the next number.

* Ids are the indices of the samples in their dataset, or those of an `identified` one. They come with the batch, under the key
  `id`, which the mixin takes out before the model sees it. A dataset's own column `id` is kept, and used instead; it must be
  of integers, since collators make tensors of them. An IterableDataset has no indices, so it must bring such a column.
* Labels are the batch's. For causal language models they are shifted as in the model's own loss: the logits at a position
  belong to the next token. Padding is -100, as in Transformers.
* `loss` is what `compute_loss` returned; with gradient accumulation, the batch's share of it.
* `inputs` are the model's main input (`input_ids`, `pixel_values`).

Tasks: `classification` for logits [B, C]; `multilabel` and `regression` for models with that `problem_type`; `sequence` for
token classification and language models. In distributed training each process needs a recorder of its own, all with the same
run folder; samples that a sampler repeats are counted as padding.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.integrations import Passes
from capture_cli.recorder.drawn import with_ids
from capture_cli.recorder.identified import ID

if TYPE_CHECKING:
    import torch

    from capture_cli.recorder import Recorder

try:
    from transformers import TrainerCallback
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ImportError as error:
    raise UsageError("Transformers is not installed", "pip install 'capture-cli[transformers]'") from error


_NO_IDS = (
    "an IterableDataset must yield them; else put TransformersCapture before the class that makes the loaders, "
    "or wrap the dataset in identified(dataset), and let the collator pass on the key"
)


class TransformersCapture:
    """A mixin for `Trainer` and its subclasses; put it first among the bases."""

    def __init__(self, *args: Any, recorder: Recorder, **kwargs: Any) -> None:
        """Take the arguments of the Trainer, and a `recorder`, which the caller opens and closes."""
        self._recorder = recorder
        self._passes = Passes(recorder)
        self._phase = "val"
        """Phase of batches outside training."""
        self._warned = False
        super().__init__(*args, **kwargs)
        self._epochs = _Epochs(self._passes)
        self.add_callback(self._epochs)  # type: ignore[attr-defined]

    def get_train_dataloader(self) -> Any:
        """Return the Trainer's loader, with ids in the batches."""
        return with_ids(super().get_train_dataloader())  # type: ignore[misc]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the Trainer's loader, with ids in the batches."""
        return with_ids(super().get_eval_dataloader(eval_dataset))  # type: ignore[misc]

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the Trainer's loader, with ids in the batches."""
        return with_ids(super().get_test_dataloader(test_dataset))  # type: ignore[misc]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Record the batch; return the loss. Raises UsageError, naming the key, for a batch without ids or labels."""
        name = getattr(self.model, "main_input_name", "input_ids")  # type: ignore[attr-defined]
        given = {ID: inputs.pop(ID, None), "labels": inputs.get("labels"), name: inputs.get(name)}
        hints = {ID: _NO_IDS, "labels": "the record of a batch needs them", name: "it is the model's main input"}
        self._recorder.attempt(_require, given, hints)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        if all(one is not None for one in given.values()):
            self._recorder.attempt(self._capture, model, given[ID], given[name], given["labels"], loss, outputs)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """Predict as the Trainer does. Without labels, and where a Seq2SeqTrainer generates, there is no loss to record."""
        generates = getattr(self.args, "predict_with_generate", False) and not prediction_loss_only  # type: ignore[attr-defined]
        labels: list[str] = self.label_names  # type: ignore[attr-defined]
        computes = all(inputs.get(name) is not None for name in labels) if labels else self.can_return_loss  # type: ignore[attr-defined]
        if generates or not computes:
            inputs.pop(ID, None)
            if generates and not self._warned:
                self._warned = True
                warnings.warn("evaluations with predict_with_generate are not recorded: they compute no loss", stacklevel=2)
        step: tuple[Any, Any, Any] = super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)  # type: ignore[misc]
        return step

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as the Trainer does, in the phase `val`, or `val-NAME` for the prefix `eval_NAME`."""
        with self._in_phase(metric_key_prefix):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc, no-any-return]

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test") -> Any:
        """Predict as the Trainer does, in the phase `test`."""
        with self._in_phase(metric_key_prefix):
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc]

    @contextmanager
    def _in_phase(self, prefix: str) -> Iterator[None]:
        """Set the phase for a metric prefix: `val` for `eval`, `val-german` for `eval_German`."""
        previous = self._phase
        self._phase = re.sub("[^a-z0-9-]+", "-", re.sub("^eval", "val", prefix.lower())).strip("-")[:32] or "val"
        try:
            yield
        finally:
            self._phase = previous

    def _set_signature_columns_if_needed(self) -> None:
        """Add the id to the columns that the Trainer keeps."""
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        columns: list[str] = self._signature_columns  # type: ignore[has-type]
        if ID not in columns:
            self._signature_columns = [*columns, ID]

    def _capture(self, model: Any, ids: Any, inputs: Any, labels: Any, loss: torch.Tensor, outputs: Any) -> None:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
        if _shifts_labels(self.model):  # type: ignore[attr-defined]
            logits, labels = logits[:, :-1], labels[:, 1:]
        elif labels.shape != logits.shape and labels.numel() == logits.numel():  # a regression: labels [B], logits [B, 1]
            labels = labels.reshape(logits.shape)
        training = bool(model.training)
        phase = "train" if training else self._phase
        self._recorder.record(
            epoch=self._passes.epoch(phase, self._epochs.now),
            phase=phase,
            inputs=inputs,
            logits=logits,
            labels=labels,
            ids=ids,
            loss=loss.mean(),
            loader=self.callback_handler.train_dataloader if training else self.callback_handler.eval_dataloader,  # type: ignore[attr-defined]
            lr=float(self.optimizer.param_groups[0]["lr"]) if training and self.optimizer else None,  # type: ignore[attr-defined]
        )


class _Epochs(TrainerCallback):  # type: ignore[misc] # of a package that has no types here
    """A callback that ends the phases of the recorder with those of the Trainer."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self.now = 0
        """The current epoch of training."""

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.now = int(state.epoch or 0)

    def on_epoch_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._passes.end("train")

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._passes.end_evaluations()

    on_predict = on_evaluate


def _require(given: dict[str, Any], hints: dict[str, str]) -> None:
    """Raise UsageError, naming the key, for a batch that lacks one."""
    for key, value in given.items():
        if value is None:
            raise UsageError(f"a batch of the Trainer has no {key!r}", hints[key])


def _shifts_labels(model: Any) -> bool:
    """Return True if the model's own loss compares logits with the label behind them, as causal language models do."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT wraps it
    if getattr(base.config, "is_encoder_decoder", False):
        return False
    causal = type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return causal or getattr(base, "loss_type", None) in ("ForCausalLM", "ForConditionalGeneration")
