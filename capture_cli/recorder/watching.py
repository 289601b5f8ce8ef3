"""Which sample is which, whatever shuffles; and loops that are recorded without a line changed in them.

    data = identified(dataset)                          # data[i] is (*dataset[i], i)
    data = identified(dataset, ids=files)               # ... or (*dataset[i], files[i])

The id travels inside the sample, so no sampler, worker or collate function can lose or swap it. Where the loop is to stay as it
is, the recorder takes the ids out of the batches again and looks over the shoulder of the loss function:

    loader = recorder.loader(DataLoader(identified(dataset), ...), phase="train")
    recorder.watch(criterion, model=model)
    for inputs, labels in loader:                       # the loop as it was
        loss = criterion(model(inputs), labels)

A pass over a watched loader is an epoch of its phase, from the first loss that is seen in it; at its end its sums are written.

What cannot be known this way, and is taken to be so: the loss function is called once a batch, with the logits and labels of
the whole batch in the order in which the loader gave it, before the next batch is taken from any watched loader. `inputs` are
the first tensor that `model` is called with; without a model the first tensor of the loader's batch, which is what the network
saw only if the loop hands it on as it is. `loss` is what the loss function returned (the mean of it, where that is one for
each sample); whether it was scaled or added to afterwards is not seen, nor are the learning rate (it is null) and whether an
update followed. `losses` are plain cross-entropy, whatever weights or smoothing the loss function has.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.hooks import RemovableHandle

from capture_cli.errors import UsageError
from capture_cli.recorder.validation import check_ids, describe

ID = "id"
"""The key of the id in samples that are mappings."""


class Pair(NamedTuple):
    """A sample that is neither a tuple nor a mapping, and its id."""

    sample: Any
    id: Any


def identified(dataset: Dataset[Any], ids: Sequence[int] | Sequence[str] | None = None) -> Identified:
    """A map-style dataset whose samples end in their id: their index, or `ids[index]`.

    A tuple or list becomes a tuple with one more element, a mapping a dict with the key `id`, anything else a pair of itself
    and its id. A collate function of your own meets samples of that form. Other attributes are those of `dataset`.

    Raises UsageError for a dataset without length and index, or where there is not one id for each sample, each its own.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UsageError(
            f"dataset: a {type(dataset).__name__} has no length and index to tell samples by",
            "give a map-style dataset, or let the samples carry ids of their own and give those to record",
        )
    if ids is None:
        return Identified(dataset, None)
    n = len(dataset)
    if len(ids) != n:
        raise UsageError(f"ids: {len(ids)} of them for {n} samples", "give one for each")
    names = check_ids(ids, n) if n else []
    if len(set(names)) < n:
        seen: set[int | str] = set()
        again = next(one for one in names if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise UsageError(f"ids: several samples are called {again!r}", "give each sample an id of its own")
    return Identified(dataset, names)


class Identified(Dataset[Any]):
    """What `identified` returns."""

    def __init__(self, dataset: Dataset[Any], ids: Sequence[int] | Sequence[str] | None) -> None:
        self.dataset = dataset
        self.ids = ids

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self._with_id(self.dataset[index], index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several at once, as a DataLoader asks for them; in one go where the dataset can do that."""
        many = getattr(self.dataset, "__getitems__", None)
        samples = many(indices) if many else [self.dataset[index] for index in indices]
        if not isinstance(samples, list | tuple) or len(samples) != len(indices):
            raise UsageError(
                f"dataset: {type(self.dataset).__name__}.__getitems__ does not return a list of samples",
                "give each its id in your own dataset, or leave that method out",
            )
        return [self._with_id(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "ids") or name.startswith("__"):  # not there yet, as while a worker takes it out of a pickle
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _with_id(self, sample: Any, index: int) -> Any:
        place = int(index)
        place += len(self) if place < 0 else 0
        name = place if self.ids is None else self.ids[place]
        if isinstance(sample, Mapping):
            if ID in sample:
                raise UsageError(
                    f"sample {place} has a field {ID!r} already",
                    "rename it, or use it: give it to record, without identified",
                )
            return {**sample, ID: name}
        return (*sample, name) if isinstance(sample, tuple | list) else Pair(sample, name)


@dataclass(eq=False)
class _Pass:
    """One pass over a watched loader."""

    phase: str
    next_epoch: Callable[[], int]
    epoch: int = -1
    """Taken with the first loss."""
    seen: int = 0
    recorded: int = 0


@dataclass
class _Batch:
    """What a watched loader has handed out, and no loss has been seen of yet."""

    of: _Pass
    ids: Any
    inputs: torch.Tensor | None


class Recording(Protocol):
    """What a watch needs of its recorder."""

    @property
    def record(self) -> Callable[..., None]:
        """See Recorder."""

    def is_open(self, phase: str) -> bool:
        """See Recorder."""

    def end_phase(self, phase: str) -> object:
        """See Recorder."""


class Watch:
    """The eyes of one recorder on loaders, models and loss functions."""

    def __init__(self, recorder: Recording, *, task: str, ignore_index: int) -> None:
        self.closed = False
        self._recorder = recorder
        self._task = task
        self._ignore_index = ignore_index
        self._batch: _Batch | None = None
        self._epochs: dict[str, int] = {}
        self._hooks: dict[nn.Module, RemovableHandle] = {}

    def loader(self, loader: Iterable[Any], phase: str) -> WatchedLoader:
        """See Recorder.loader."""
        demand_identified(loader)
        return WatchedLoader(loader, self, phase)

    def criterion(self, criterion: nn.Module, model: nn.Module | None) -> None:
        """See Recorder.watch."""
        for name, module in (("criterion", criterion), ("model", model)):
            if not isinstance(module, nn.Module) and (name, module) != ("model", None):
                raise UsageError(
                    f"{name}: a {type(module).__name__} is no torch.nn.Module", "only modules can be watched; use record"
                )
        if isinstance(criterion, nn.BCELoss):
            raise UsageError("criterion: BCELoss takes probabilities, not logits", "use BCEWithLogitsLoss, or record")
        ignored = getattr(criterion, "ignore_index", self._ignore_index)
        if self._task == "sequence" and ignored != self._ignore_index:
            raise UsageError(
                f"criterion: it ignores labels that are {ignored}, the recorder those that are {self._ignore_index}",
                f"give the recorder ignore_index={ignored}",
            )
        if criterion not in self._hooks:
            self._hooks[criterion] = criterion.register_forward_hook(self._after_criterion, with_kwargs=True)
        if model is not None and model not in self._hooks:
            self._hooks[model] = model.register_forward_pre_hook(self._before_model, with_kwargs=True)

    def close(self) -> None:
        """Look no more."""
        self.closed = True
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def begin_pass(self, phase: str) -> _Pass:
        """One more pass over a loader of this phase."""
        return _Pass(phase, lambda: self._next_epoch(phase))

    def see(self, one: _Pass, batch: Any) -> Any:
        """Take note of a batch that is handed out; the batch without its ids."""
        rest, ids = without_ids(batch)
        one.seen += 1
        self._batch = _Batch(one, ids, None if isinstance(rest, Mapping) else first_tensor(rest))
        return rest

    def end_pass(self, one: _Pass) -> None:
        """The loader has no more batches. Raises UsageError where none of them was recorded, and warns where some were not."""
        if self.closed or not one.seen:
            return
        if not one.recorded:
            raise UsageError(
                f"no loss was seen for any of the {one.seen} batches of a loader of the phase {one.phase}",
                "call the watched loss function once a batch, or use record",
            )
        if one.recorded < one.seen:
            warnings.warn(
                f"{one.seen - one.recorded} of {one.seen} batches of {one.phase} epoch {one.epoch} were not recorded: "
                "the watched loss function was not called for them",
                stacklevel=3,
            )
        if self._recorder.is_open(one.phase):
            self._recorder.end_phase(one.phase)

    def _next_epoch(self, phase: str) -> int:
        epoch = self._epochs.get(phase, 0)
        self._epochs[phase] = epoch + 1
        return epoch

    def _before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = first_tensor(_in_order(model, args, kwargs))
        if self._batch is not None and inputs is not None:
            self._batch.inputs = inputs

    def _after_criterion(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        batch, self._batch = self._batch, None
        name = type(criterion).__name__
        given = _in_order(criterion, args, kwargs)[:2]
        if len(given) < 2 or not all(isinstance(one, torch.Tensor) for one in given):
            raise UsageError(f"criterion: {name} was not called with logits and labels", "use record")
        if batch is None:
            raise UsageError(
                f"criterion: {name} was called without a batch of a watched loader, or twice for one",
                "take batches from what Recorder.loader returns, and call it once for each; or use record",
            )
        if batch.inputs is None:
            raise UsageError("model: it was not called with a tensor, so there are no inputs", "give watch the model")
        if batch.of.epoch < 0:
            batch.of.epoch = batch.of.next_epoch()
        self._recorder.record(
            epoch=batch.of.epoch,
            phase=batch.of.phase,
            inputs=batch.inputs,
            logits=self._classes_last(criterion, *given),
            labels=given[1],
            ids=batch.ids,
            loss=loss.mean() if isinstance(loss, torch.Tensor) else None,
        )
        batch.of.recorded += 1

    def _classes_last(self, criterion: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of sequences, the logits as [B, T, C]: torch's own loss functions take [B, C, T]."""
        if self._task != "sequence":
            return logits
        if logits.ndim == 2:
            raise UsageError(
                f"criterion: logits {describe(logits)} are of positions alone, and of which sequence each is cannot be known",
                "call it with logits.transpose(1, 2) and labels [B, T], or use record",
            )
        first = isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) or labels.shape != logits.shape[:-1]
        return logits.transpose(1, 2) if first and logits.ndim == 3 else logits


class WatchedLoader:
    """The batches of a loader without their ids; every other attribute is the loader's."""

    def __init__(self, loader: Iterable[Any], watch: Watch, phase: str) -> None:
        self.loader = loader
        self.phase = phase
        self._watch = watch

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        one = self._watch.begin_pass(self.phase)
        for batch in self.loader:
            yield self._watch.see(one, batch)
        self._watch.end_pass(one)

    def __getattr__(self, name: str) -> Any:
        if name == "loader" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)


def demand_identified(loader: Any) -> None:
    """Raise UsageError for a DataLoader whose samples carry no ids, lest labels are taken for them."""
    if isinstance(loader, DataLoader) and not _is_identified(loader.dataset):
        raise UsageError(
            f"loader: the samples of its {type(loader.dataset).__name__} have no ids",
            "make it of identified(dataset), the outermost of what wraps it",
        )


def _is_identified(dataset: Any) -> bool:
    """Whether samples carry ids, as far as the wrappers of torch let it be seen."""
    if isinstance(dataset, Identified):
        return True
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return all(part is not None and _is_identified(part) for part in parts)


def without_ids(batch: Any) -> tuple[Any, Any]:
    """A batch without its ids, in the type that it had without them, and the ids."""
    if isinstance(batch, Mapping) and ID in batch:
        rest = copy(batch)
        return rest, rest.pop(ID)  # type: ignore[attr-defined] # mappings that a collate function makes can do that
    if isinstance(batch, Pair):
        return batch.sample, batch.id
    if isinstance(batch, tuple | list) and len(batch) >= 2 and _may_be_ids(batch[-1]):
        return batch[:-1], batch[-1]
    raise UsageError(
        f"loader: its batches, each a {type(batch).__name__}, have no ids",
        "make it of identified(dataset); a collate function of your own must hand on the last element, or the key 'id'",
    )


def _may_be_ids(ids: Any) -> bool:
    if isinstance(ids, torch.Tensor):
        return ids.ndim == 1 and not ids.is_floating_point()
    return isinstance(ids, tuple | list) and all(isinstance(one, str) for one in ids)


def _in_order(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What a module was called with, in the order of its parameters."""
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
    """Of a batch, depth first."""
    if isinstance(value, torch.Tensor):
        return value
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((found for one in inside if (found := first_tensor(one)) is not None), None)
