"""Record loops without changing them: watch the loss function, and take the ids of the samples from the loader.

    loader = recorder.loader(DataLoader(dataset, shuffle=True), phase="train")
    recorder.watch(criterion, model=model)
    for inputs, labels in loader:                       # the loop, unchanged
        loss = criterion(model(inputs), labels)

A pass over a watched loader is an epoch of its phase, counted from 1; its sums are written at its end. Its first loss decides:

* A pass over a loader of `train` without gradients, or with the model in evaluation mode, is of the phase `train-eval`.
* If the watched model is not called, another one is being evaluated (an average of the weights, say): `val-other` for `val`.

Watching assumes:

* The first call of the loss function for a batch gets its logits and labels, whole and in the loader's order, before the next
  batch is taken from any watched loader. Further calls with the same labels, as for auxiliary outputs, are not recorded.
  For the task `loss` it may get anything, and returns the loss, or one per sample.
* The inputs are the first tensor that `model` is called with; without a model, the first tensor of the loader's batch, which
  the loop must pass on unchanged. Of several calls for a batch it is the first with a tensor of the batch, else the last.
* `loss` is what the loss function returns (its mean, if it returns one per sample). Later scaling or added terms are not seen,
  nor is the learning rate, which is null, nor whether an update follows.
* `losses` are the plain cross-entropy, whatever weights or smoothing the loss function has.

Loss functions with a name add numbers to the batch: what they return, one per sample where they are not reduced. A second call
for one batch is `name_2`. They may come before or after the first loss function, so a batch is then recorded when the next one
is taken, or the pass ends; until then the loop must not change its tensors in place.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from capture_cli.errors import UsageError
from capture_cli.recorder.identified import first_tensor, holds
from capture_cli.recorder.loading import IdentifiedBatch, WatchedLoader
from capture_cli.recorder.unpadded import Unpadded
from capture_cli.recorder.validation import describe
from capture_cli.writer.measures import LOSS, SEGMENTATION

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from capture_cli.recorder import Recorder


_EARLY = 8
"""Batches of a pass after which a loss should have been seen; loaders that fetch ahead are fewer batches ahead."""


_TWO_LOADERS = (
    "a watched loss belongs to the batch that was drawn last, so wrap only the loader whose labels go into the loss, "
    "or call record yourself with the ids"
)


@dataclass(eq=False)
class _Pass:
    """One pass over a watched loader, and its latest batch."""

    phase: str
    """Settled with the first loss, like the epoch."""
    epoch: int | None = None
    seen: int = 0
    recorded: int = 0
    latest: IdentifiedBatch | None = None
    inputs: torch.Tensor | None = None
    called_model: bool = False
    """True if the watched model has got this batch."""
    has_own_inputs: bool = False
    """True if `inputs` are known to be of this batch, although the model was called again."""
    is_going: bool = True
    """False once its loop has ended."""
    overtook: list[_Pass] = field(default_factory=list)
    """Passes whose batches still waited for their loss when the latest one came, the latest first, as with `zip` of loaders."""


class Watch:
    """Watches loaders, models and loss functions for one recorder."""

    def __init__(self, recorder: Recorder, *, task: str, ignore_index: int) -> None:
        self.closed = False
        self._recorder = recorder
        self._unpadded = Unpadded(recorder, ignore_index=ignore_index)
        self._task = task
        self._ignore_index = ignore_index
        self._pass: _Pass | None = None
        """The pass whose latest batch has no loss yet."""
        self._latest: _Pass | None = None
        """The pass of the latest batch."""
        self._labels: torch.Tensor | None = None
        """The labels of the batch recorded last."""
        self._names: dict[nn.Module, str] = {}
        """Loss functions that have a name."""
        self._numbers: dict[str, torch.Tensor] = {}
        """Losses that they returned for the latest batch."""
        self._held: tuple[_Pass, dict[str, Any]] | None = None
        """The latest batch with its loss, until those of the others are known."""
        self._epochs: Counter[str] = Counter()
        self._criteria: dict[nn.Module, RemovableHandle] = {}
        self._models: dict[nn.Module, RemovableHandle] = {}
        self._at_close: list[Callable[[], object]] = []
        self._told_of_two = False
        """True once it was said that a step draws from two loaders."""
        self._called = False

    def loader(self, loader: Iterable[Any], phase: str, ids: Sequence[int] | Sequence[str] | None) -> WatchedLoader:
        """See Recorder.loader."""
        return WatchedLoader(loader, self, phase, ids)

    def criterion(self, criterion: nn.Module, model: nn.Module | None, name: str | None = None) -> None:
        """See Recorder.watch."""
        for argument, module in (("criterion", criterion), ("model", model)):
            if not isinstance(module, nn.Module) and (argument, module) != ("model", None):
                raise UsageError(
                    f"{argument}: a {type(module).__name__} is not a torch.nn.Module", "use a module, or call record yourself"
                )
        if criterion in self._criteria and self._names.get(criterion) != name:
            raise UsageError("criterion: it is watched already, under another name", "make one loss function for each name")
        if name is not None:
            self._names[criterion] = name
        elif isinstance(criterion, nn.BCELoss) and self._task != LOSS:
            raise UsageError("criterion: BCELoss takes probabilities, not logits", "use BCEWithLogitsLoss, or call record")
        ignored = getattr(criterion, "ignore_index", self._ignore_index)
        if self._task in ("sequence", SEGMENTATION) and name is None and ignored != self._ignore_index:
            raise UsageError(
                f"criterion: it ignores the label {ignored}, the recorder ignores {self._ignore_index}",
                f"use Recorder(ignore_index={ignored})",
            )
        if criterion not in self._criteria:
            self._criteria[criterion] = criterion.register_forward_hook(self._after_criterion, with_kwargs=True)
        if model is not None and model not in self._models:
            self._models[model] = model.register_forward_pre_hook(self._before_model, with_kwargs=True)

    def at_close(self, call: Callable[[], object]) -> None:
        """Call this when the watch is closed."""
        self._at_close.append(call)

    def close(self) -> None:
        """Remove the hooks, and leave the loaders as they were."""
        self.closed = True
        for hooks in (self._criteria, self._models):
            while hooks:
                hooks.popitem()[1].remove()
        while self._at_close:
            self._at_close.pop()()

    @property
    def saw_nothing(self) -> bool:
        """True if a loss function is watched that was never called."""
        return bool(self._criteria) and not self._called

    def __deepcopy__(self, _: object) -> Watch:
        """Return the same watch: a copied model, such as an average of weights, has its hooks, and they tell the two apart."""
        return self

    def batches(self, loader: WatchedLoader) -> Iterator[Any]:
        """Yield the batches of one pass, each until its loss comes.

        At the end of the pass write its sums. Raises UsageError if none of its batches was recorded, warns if some were not.
        """
        one = _Pass(loader.phase)
        try:
            for batch in loader.batches():
                self._recorder.attempt(self.release)
                if one.seen == _EARLY and not one.recorded and not self._recorder.missed and not self._told_of_two:
                    warnings.warn(". ".join(self._no_loss(one)), stacklevel=3)
                self._draw(one, batch)
                yield batch.batch
        finally:
            one.is_going = False
        if self.closed or not one.seen:
            return
        self._recorder.attempt(self.release)
        if not one.recorded:
            if not self._recorder.missed and not self._told_of_two:
                self._recorder.attempt(self._raise_no_loss, one)
            return
        if one.recorded < one.seen and not self._recorder.missed:
            warnings.warn(
                f"{one.seen - one.recorded} of {one.seen} batches of {one.phase} epoch {one.epoch} were not recorded: "
                "the watched loss function was not called for them",
                stacklevel=2,
            )
        if self._recorder.is_open(one.phase):
            self._recorder.end_phase(one.phase)

    def _draw(self, one: _Pass, batch: IdentifiedBatch) -> None:
        """Let a batch be the latest one, whose loss comes next."""
        other, before = self._pass, one.overtook
        waits = other is not None and other is not one and other.is_going
        one.overtook = [other, *(more for more in other.overtook if more is not one)] if other and waits else []
        if one.overtook and before and one.overtook[0] is before[0] and not self._told_of_two:
            self._told_of_two = True  # but not at the first time, which may be a batch that the loop skips
            warnings.warn("two watched loaders are drawn from in one step: " + _TWO_LOADERS, stacklevel=4)
        one.latest = batch
        one.inputs = None if isinstance(batch.batch, Mapping) else first_tensor(batch.batch)
        one.called_model = one.has_own_inputs = False
        one.seen += 1
        self._latest = self._pass = one

    def _raise_no_loss(self, one: _Pass) -> None:
        raise UsageError(*self._no_loss(one))

    def _no_loss(self, one: _Pass) -> tuple[str, str]:
        """Say why no batch of a pass was recorded, and what to do."""
        if not self._criteria:
            text = f"no loss function is watched, so none of {one.seen} {one.phase} batches is recorded"
            return text, "call recorder.watch(criterion, model) before the loop, or call record yourself"
        names = " and ".join(sorted({type(criterion).__name__ for criterion in self._criteria}))
        text = f"the loss of {one.seen} {one.phase} batches was never computed with the watched loss function, {names}"
        return text, "call that module once per batch, not a function such as F.cross_entropy, or call record yourself"

    def _before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = first_tensor(_in_order(model, args, kwargs))
        one = self._pass
        if one is None or inputs is None or one.has_own_inputs:
            return
        if one.called_model and one.inputs is not None and one.latest and not torch.compiler.is_compiling():
            one.has_own_inputs = holds(one.latest.batch, one.inputs)
        if not one.has_own_inputs:
            one.inputs = inputs
        one.called_model |= model in self._models

    def _after_criterion(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        self._called = True
        if criterion in self._names:
            self._recorder.attempt(self._add, criterion, loss)
        else:
            self._recorder.attempt(self._record, criterion, args, kwargs, loss)

    def _add(self, criterion: nn.Module, loss: Any) -> None:
        """Take what a loss function with a name returned."""
        name, one = self._names[criterion], self._latest
        if not isinstance(loss, torch.Tensor) or one is None or one.latest is None:
            what = "was called without a batch of a watched loader" if isinstance(loss, torch.Tensor) else "returned no tensor"
            raise UsageError(f"criterion {name!r}: it {what}", "call record yourself, with numbers")
        loss = loss.detach()
        per_sample = loss.ndim > 0 and len(loss) == len(one.latest.ids)
        calls = sum(known == name or known.startswith(f"{name}_") for known in self._numbers)
        value = loss.float().flatten(1).mean(1) if per_sample and loss.ndim > 1 else loss if per_sample else loss.mean()
        self._numbers[f"{name}_{calls + 1}" if calls else name] = value

    def release(self) -> None:
        """Record the batch that is held, if one is."""
        held, self._held = self._held, None
        numbers, self._numbers = self._numbers, {}
        if held:
            self._pass_on(held[0], held[1] | {"numbers": numbers or None})

    def _pass_on(self, one: _Pass, batch: dict[str, Any]) -> None:
        """Record a batch without the samples that the sampler has repeated."""
        if padded := one.latest.padded if one.latest else ():
            self._unpadded.record(batch, padded=padded, size=len(batch["ids"]))
        else:
            self._recorder.record(**batch)
        one.recorded += 1

    def _record(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        name = type(criterion).__name__
        logits, labels = (None, None) if self._task == LOSS else self._given(criterion, args, kwargs)
        one, self._pass = self._pass, None
        if one is None and labels is self._labels and labels is not None:
            return  # an auxiliary output of the model
        self._labels = labels
        if one is None:
            raise UsageError(
                f"criterion: {name} was called without a batch of a watched loader, or twice for one",
                "iterate over what Recorder.loader returns, and call it once per batch; a second loss function needs a name: "
                'recorder.watch(criterion, name="aux")',
            )
        if labels is not None and one.overtook:
            self._demand_own(one, labels)
        if one.inputs is None or one.latest is None:
            raise UsageError("model: it was not called with a tensor, so there are no inputs", "pass the model to watch")
        if one.epoch is None:
            one.phase = self._phase_of(one, loss if logits is None else logits)
            one.epoch = max(self._epochs[one.phase], self._recorder.ended(one.phase)) + 1
            self._epochs[one.phase] = one.epoch
        if logits is not None and labels is not None:
            logits = self._classes_last(criterion, logits, labels)
        loss = loss.detach() if isinstance(loss, torch.Tensor) else None
        batch = {
            "epoch": one.epoch,
            "phase": one.phase,
            "inputs": one.inputs,
            "logits": logits if logits is None else logits.detach(),  # a batch may be held until the next one comes
            "labels": labels,
            "ids": one.latest.ids,
            "files": one.latest.files,
            "loss": loss.mean() if loss is not None and loss.ndim else loss,
        }
        if logits is None and loss is not None and loss.ndim == 1 and len(loss) == len(one.inputs):
            batch["losses"] = loss
        if self._names:
            self._held = (one, batch)
        else:
            self._pass_on(one, batch)

    def _demand_own(self, one: _Pass, labels: torch.Tensor) -> None:
        """Raise UsageError for labels of a batch that was drawn before that of `one`, whose ids they would get."""
        batches = [each.latest.batch for each in (one, *one.overtook) if each.latest]
        if next((batch for batch in batches if holds(batch, labels)), batches[0]) is not batches[0]:
            self._told_of_two = True
            raise UsageError("criterion: the labels are not of the batch that was drawn last", _TWO_LOADERS)

    def _given(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """Return the logits and labels of a call."""
        given = _in_order(criterion, args, kwargs)[:2]
        if len(given) < 2 or not all(isinstance(one, torch.Tensor) for one in given):
            self._pass = None
            raise UsageError(
                f"criterion: {type(criterion).__name__} was not called with logits and labels", "call record yourself"
            )
        return given

    def _phase_of(self, one: _Pass, logits: Any) -> str:
        """Return the phase of a pass, given its first logits: a loader may be used for more than its name says."""
        if self._models and not one.called_model:
            return f"{one.phase}-other"
        learns = getattr(logits, "requires_grad", False) and all(model.training for model in self._models)
        return "train-eval" if one.phase == "train" and not learns else one.phase

    def _classes_last(self, criterion: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits of sequences as [B, T, C]: torch's own loss functions take [B, C, T]."""
        if self._task != "sequence":
            return logits
        if logits.ndim == 2:
            raise UsageError(
                f"criterion: logits {describe(logits)} do not say which sequence each position belongs to",
                "call it with logits.transpose(1, 2) and labels [B, T], or call record yourself",
            )
        classes_second = isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) or labels.shape != logits.shape[:-1]
        return logits.transpose(1, 2) if classes_second and logits.ndim == 3 else logits


def _in_order(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments of a module's call in the order of its parameters."""
    if not kwargs:
        return list(args)
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return [*args, *kwargs.values()]
    flat: list[Any] = []
    for value in bound.values():
        flat += value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else [value]
    return flat
