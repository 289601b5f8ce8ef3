"""Transformers: a mixin that makes a Trainer record its batches, since its callbacks never see what a model is given.

    class CapturingTrainer(TransformersCapture, Trainer): ...

    with Recorder("run.jsonl", task="sequence") as recorder:
        trainer = CapturingTrainer(model=model, args=args, train_dataset=identified(dataset), recorder=recorder)
        trainer.train()

It looks at every batch in `compute_loss`, so that whatever `compute_loss` a class behind it has is respected, and sees
training and evaluation: phases `train`, `val` (of several evaluation datasets `val-NAME`) and `test` (`predict`, where there
are labels).
The epoch is the trainer's; a second evaluation within an epoch has the next number.

* Ids are what `identified` put into the samples: the key `id`, which is kept although the model's forward does not know it, and
  taken out before the model sees it. They are whole numbers, since collators make tensors; name files in the dataset by them.
* `labels` are the batch's. For causal language models they are shifted as the model's own loss shifts them: the logits at a
  position are held against the token behind it. Padding is -100, as in Transformers.
* `loss` is what `compute_loss` returned: where gradients are accumulated, the batch's share of it.
* `inputs` are the model's main input (`input_ids`, `pixel_values`).

Task `classification`: logits [B, C]; `multilabel`, `regression`: the models whose `problem_type` says so; `sequence`: token
classification and language models. In a distributed training each process needs a recorder, and a file, of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError
from capture_cli.integrations import Passes
from capture_cli.recorder.watching import ID

if TYPE_CHECKING:
    import torch

    from capture_cli.recorder import Recorder

try:
    from transformers import TrainerCallback
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ImportError as error:
    raise UsageError("Transformers is not installed", "pip install 'capture-cli[transformers]'") from error


class TransformersCapture:
    """Stands before `Trainer`, or a class made of it, among the bases of a class."""

    def __init__(self, *args: Any, recorder: Recorder, **kwargs: Any) -> None:
        """As the Trainer, and a `recorder`, which is opened and closed by the caller."""
        self._recorder = recorder
        self._passes = Passes(recorder)
        self._phase = "val"
        """Of batches that are not of training."""
        super().__init__(*args, **kwargs)
        self._epochs = _Epochs(self._passes)
        self.add_callback(self._epochs)  # type: ignore[attr-defined]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """The loss, after the batch was recorded. Raises UsageError, naming the key, for a batch without ids or labels."""
        ids = inputs.pop(ID, None)
        labels = inputs.get("labels")
        name = getattr(self.model, "main_input_name", "input_ids")  # type: ignore[attr-defined]
        seen = inputs.get(name)
        for key, value, way in (
            (ID, ids, "make the dataset of identified(dataset), and let the collator hand the key on"),
            ("labels", labels, "the record of a batch holds them"),
            (name, seen, "it is the model's main input"),
        ):
            if value is None:
                raise UsageError(f"a batch of the Trainer has no {key!r}", way)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        self._capture(model, ids, seen, labels, loss, outputs)
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As the Trainer's; the batches are of the phase `val`, or `val-NAME` where the prefix is `eval_NAME`."""
        before, self._phase = self._phase, _phase_of(metric_key_prefix)
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc, no-any-return]
        finally:
            self._phase = before

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test") -> Any:
        """As the Trainer's; the batches are of the phase `test`."""
        before, self._phase = self._phase, _phase_of(metric_key_prefix)
        try:
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc]
        finally:
            self._phase = before

    def _set_signature_columns_if_needed(self) -> None:
        """The Trainer's list of the columns that it keeps: the id is one of them."""
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        columns: list[str] = self._signature_columns  # type: ignore[has-type]
        if ID not in columns:
            self._signature_columns = [*columns, ID]

    def _capture(self, model: Any, ids: Any, inputs: Any, labels: Any, loss: torch.Tensor, outputs: Any) -> None:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
        if _shifts(self.model):  # type: ignore[attr-defined]
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
            lr=float(self.optimizer.param_groups[0]["lr"]) if training and self.optimizer else None,  # type: ignore[attr-defined]
        )


class _Epochs(TrainerCallback):  # type: ignore[misc] # of a package that has no types here
    """Ends the phases of the recorder with those of the Trainer."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self.now = 0
        """The epoch of training that is under way, or was last."""

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.now = int(state.epoch or 0)

    def on_epoch_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._passes.end("train")

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._passes.end_all(but="train")

    def on_predict(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._passes.end_all(but="train")


def _shifts(model: Any) -> bool:
    """Whether a model's own loss holds the logits at a position against the label behind it: causal language models do."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # what PEFT has wrapped
    if getattr(base.config, "is_encoder_decoder", False):
        return False
    causal = type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return causal or getattr(base, "loss_type", None) in ("ForCausalLM", "ForConditionalGeneration")


def _phase_of(prefix: str) -> str:
    """`eval` -> `val`, `eval_German` -> `val-german`."""
    phase = re.sub("[^a-z0-9-]+", "-", re.sub("^eval", "val", prefix.lower())).strip("-")
    return phase[:32] or "val"
