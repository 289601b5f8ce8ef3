"""Give samples ids that survive shuffling, and record loops without changing them.

    data = identified(dataset)                          # data[i] is (*dataset[i], i)
    data = identified(dataset, ids=files)               # ... or (*dataset[i], files[i])

The id travels inside the sample, so no sampler, worker or collate function can lose or swap it. To leave the loop as it is, let
the recorder take the ids out of the batches and watch the loss function:

    loader = recorder.loader(DataLoader(identified(dataset), ...), phase="train")
    recorder.watch(criterion, model=model)
    for inputs, labels in loader:                       # the loop, unchanged
        loss = criterion(model(inputs), labels)

A pass over a watched loader is an epoch of its phase, counted from 1; its sums are written at its end. Watching assumes:

* The loss function is called once per batch, with the logits and labels of the whole batch in the loader's order, before the
  next batch is taken from any watched loader.
* The inputs are the first tensor that `model` is called with; without a model, the first tensor of the loader's batch, which
  the loop must pass on unchanged.
* `loss` is what the loss function returns (its mean, if it returns one per sample). Later scaling or added terms are not seen,
  nor is the learning rate, which is null, nor whether an update follows.
* `losses` are the plain cross-entropy, whatever weights or smoothing the loss function has.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from capture_cli.errors import UsageError
from capture_cli.recorder.validation import check_ids, describe

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from capture_cli.recorder import Recorder

ID = "id"
"""The key of the id in samples that are mappings."""


class Pair(NamedTuple):
    """A sample that is neither a tuple nor a mapping, and its id."""

    sample: Any
    id: Any


def identified(dataset: Dataset[Any], ids: Sequence[int] | Sequence[str] | None = None) -> Identified:
    """Wrap a map-style dataset so that each sample ends in its id: its index, or `ids[index]`.

    A tuple or list becomes a tuple with one more element, a mapping a dict with the key `id`, any other sample a pair of itself
    and its id. Your own collate function gets samples of that form. All other attributes are the dataset's.

    Raises UsageError if the dataset has no length or index, or `ids` are not one different id per sample.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UsageError(
            f"dataset: a {type(dataset).__name__} has no length and index to identify samples by",
            "use a map-style dataset, or yield ids with the samples and pass them to record",
        )
    if ids is None:
        return Identified(dataset, None)
    n = len(dataset)
    if len(ids) != n:
        raise UsageError(f"ids: {len(ids)} ids for {n} samples", "pass one per sample")
    names = check_ids(ids, n) if n else []
    if len(set(names)) < n:
        again = Counter(names).most_common(1)[0][0]
        raise UsageError(f"ids: several samples have the id {again!r}", "give each sample an id of its own")
    return Identified(dataset, names)


class Identified(Dataset[Any]):
    """A dataset whose samples end in their ids; see `identified`."""

    def __init__(self, dataset: Dataset[Any], ids: Sequence[int] | Sequence[str] | None) -> None:
        self.dataset = dataset
        self.ids = ids

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self._with_id(self.dataset[index], index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return several samples at once, as a DataLoader asks for them."""
        many = getattr(self.dataset, "__getitems__", None)
        samples = many(indices) if many else [self.dataset[index] for index in indices]
        if not isinstance(samples, list | tuple) or len(samples) != len(indices):
            raise UsageError(
                f"dataset: {type(self.dataset).__name__}.__getitems__ does not return a list of samples",
                "add the ids in your own dataset, or remove that method",
            )
        return [self._with_id(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "ids") or name.startswith("__"):  # not set yet while a worker unpickles it
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _with_id(self, sample: Any, index: int) -> Any:
        index = int(index)
        index += len(self) if index < 0 else 0
        name = index if self.ids is None else self.ids[index]
        if isinstance(sample, Mapping):
            if ID in sample:
                raise UsageError(
                    f"sample {index} has a field {ID!r} already", "rename it, or pass it to record and do not use identified"
                )
            return {**sample, ID: name}
        return (*sample, name) if isinstance(sample, tuple | list) else Pair(sample, name)


@dataclass
class _Pass:
    """One pass over a watched loader, and its latest batch."""

    phase: str
    epoch: int | None = None
    """Set with the first loss."""
    seen: int = 0
    recorded: int = 0
    ids: Any = None
    inputs: torch.Tensor | None = None


class Watch:
    """Watches loaders, models and loss functions for one recorder."""

    def __init__(self, recorder: Recorder, *, task: str, ignore_index: int) -> None:
        self.closed = False
        self._recorder = recorder
        self._task = task
        self._ignore_index = ignore_index
        self._pass: _Pass | None = None
        """The pass whose latest batch has no loss yet."""
        self._epochs: Counter[str] = Counter()
        self._hooks: dict[nn.Module, RemovableHandle] = {}

    def loader(self, loader: Iterable[Any], phase: str) -> WatchedLoader:
        """See Recorder.loader."""
        require_identified(loader)
        return WatchedLoader(loader, self, phase)

    def criterion(self, criterion: nn.Module, model: nn.Module | None) -> None:
        """See Recorder.watch."""
        for name, module in (("criterion", criterion), ("model", model)):
            if not isinstance(module, nn.Module) and (name, module) != ("model", None):
                raise UsageError(
                    f"{name}: a {type(module).__name__} is not a torch.nn.Module", "use a module, or call record yourself"
                )
        if isinstance(criterion, nn.BCELoss):
            raise UsageError("criterion: BCELoss takes probabilities, not logits", "use BCEWithLogitsLoss, or call record")
        ignored = getattr(criterion, "ignore_index", self._ignore_index)
        if self._task == "sequence" and ignored != self._ignore_index:
            raise UsageError(
                f"criterion: it ignores the label {ignored}, the recorder ignores {self._ignore_index}",
                f"use Recorder(ignore_index={ignored})",
            )
        if criterion not in self._hooks:
            self._hooks[criterion] = criterion.register_forward_hook(self._after_criterion, with_kwargs=True)
        if model is not None and model not in self._hooks:
            self._hooks[model] = model.register_forward_pre_hook(self._before_model, with_kwargs=True)

    def close(self) -> None:
        """Remove the hooks."""
        self.closed = True
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def batches(self, loader: Iterable[Any], phase: str) -> Iterator[Any]:
        """Yield the batches of one pass without their ids, each until its loss comes.

        At the end of the pass write its sums. Raises UsageError if none of its batches was recorded, warns if some were not.
        """
        one = _Pass(phase)
        for batch in loader:
            rest, one.ids = split_ids(batch)
            one.inputs = None if isinstance(rest, Mapping) else first_tensor(rest)
            one.seen += 1
            self._pass = one
            yield rest
        if self.closed or not one.seen:
            return
        if not one.recorded:
            raise UsageError(
                f"the loss of {one.seen} {phase} batches was never computed with the watched loss function",
                "call it once per batch, or call record yourself",
            )
        if one.recorded < one.seen:
            warnings.warn(
                f"{one.seen - one.recorded} of {one.seen} batches of {phase} epoch {one.epoch} were not recorded: "
                "the watched loss function was not called for them",
                stacklevel=2,
            )
        if self._recorder.is_open(phase):
            self._recorder.end_phase(phase)

    def _before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = first_tensor(_in_order(model, args, kwargs))
        if self._pass is not None and inputs is not None:
            self._pass.inputs = inputs

    def _after_criterion(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        one, self._pass = self._pass, None
        name = type(criterion).__name__
        given = _in_order(criterion, args, kwargs)[:2]
        if len(given) < 2 or not all(isinstance(one, torch.Tensor) for one in given):
            raise UsageError(f"criterion: {name} was not called with logits and labels", "call record yourself")
        if one is None:
            raise UsageError(
                f"criterion: {name} was called without a batch of a watched loader, or twice for one",
                "iterate over what Recorder.loader returns, and call it once per batch; or call record yourself",
            )
        if one.inputs is None:
            raise UsageError("model: it was not called with a tensor, so there are no inputs", "pass the model to watch")
        if one.epoch is None:
            self._epochs[one.phase] += 1
            one.epoch = self._epochs[one.phase]
        self._recorder.record(
            epoch=one.epoch,
            phase=one.phase,
            inputs=one.inputs,
            logits=self._classes_last(criterion, *given),
            labels=given[1],
            ids=one.ids,
            loss=loss.mean() if isinstance(loss, torch.Tensor) else None,
        )
        one.recorded += 1

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


class WatchedLoader:
    """A loader whose batches come without their ids; all other attributes are the loader's."""

    def __init__(self, loader: Iterable[Any], watch: Watch, phase: str) -> None:
        self.loader = loader
        self.phase = phase
        self._watch = watch

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return self._watch.batches(self.loader, self.phase)

    def __getattr__(self, name: str) -> Any:
        if name == "loader" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)


def require_identified(loader: Any) -> None:
    """Raise UsageError for a DataLoader whose samples have no ids; its labels could be mistaken for them."""
    if isinstance(loader, DataLoader) and not _is_identified(loader.dataset):
        raise UsageError(
            f"loader: the samples of its {type(loader.dataset).__name__} have no ids",
            "wrap the dataset in identified(dataset), outside all other wrappers",
        )


def _is_identified(dataset: Any) -> bool:
    """Return True if samples have ids, looking through the wrappers of torch."""
    if isinstance(dataset, Identified):
        return True
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return all(part is not None and _is_identified(part) for part in parts)


def split_ids(batch: Any) -> tuple[Any, Any]:
    """Split a batch into the batch without ids, of its original type, and the ids."""
    if isinstance(batch, Mapping) and ID in batch:
        rest = copy(batch)
        return rest, rest.pop(ID)  # type: ignore[attr-defined] # mappings that a collate function makes have pop
    if isinstance(batch, Pair):
        return batch.sample, batch.id
    if isinstance(batch, tuple | list) and len(batch) >= 2 and _may_be_ids(batch[-1]):
        return batch[:-1], batch[-1]
    raise UsageError(
        f"loader: its batches, each a {type(batch).__name__}, have no ids",
        "wrap the dataset in identified(dataset); a collate function must pass on the last element, or the key 'id'",
    )


def _may_be_ids(ids: Any) -> bool:
    if isinstance(ids, torch.Tensor):
        return ids.ndim == 1 and not ids.is_floating_point()
    return isinstance(ids, tuple | list) and all(isinstance(one, str) for one in ids)


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


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return the first tensor in nested tuples, lists and mappings, depth first."""
    if isinstance(value, torch.Tensor):
        return value
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((found for one in inside if (found := first_tensor(one)) is not None), None)
