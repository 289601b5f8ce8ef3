"""Ids that travel inside the samples, so that no sampler, worker or collate function can lose or swap them.

data = identified(dataset)                          # data[i] is (*dataset[i], i)
data = identified(dataset, ids=files)               # ... or (*dataset[i], files[i])
rest, ids = split_ids(batch)                        # of a batch that a DataLoader made of them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from capture_cli.errors import UsageError
from capture_cli.recorder.validation import check_ids

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
    if not hasattr(ids, "__len__"):
        ids = list[Any](ids)  # an iterator can be read once
    if len(ids) != n:
        raise UsageError(f"ids: {len(ids)} ids for {n} samples", "pass one per sample")
    names = check_ids(ids, n) if n else []
    if len(set(names)) < n:
        again = Counter(names).most_common(1)[0][0]
        raise UsageError(f"ids: several samples have the id {again!r}", "give each sample an id of its own")
    return Identified(dataset, names)


class Identified(Dataset[Any]):
    """A dataset whose samples end in their ids; see `identified`."""

    dataset: Dataset[Any]
    ids: Sequence[int] | Sequence[str] | None

    def __init__(self, dataset: Dataset[Any], ids: Sequence[int] | Sequence[str] | None) -> None:
        vars(self).update(dataset=dataset, ids=ids)

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

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dataset", "ids"):
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)

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


def require_identified(loader: Any) -> None:
    """Raise UsageError for a DataLoader whose samples have no ids; its labels could be mistaken for them."""
    if not isinstance(loader, DataLoader) or is_identified(loader.dataset):
        return
    if isinstance(loader.dataset, IterableDataset):
        raise UsageError(
            f"loader: its {type(loader.dataset).__name__} is iterable, so no sampler draws indices that could be ids",
            "yield an id with each sample, and return the ids of a batch from the step, or pass them to record",
        )
    raise UsageError(
        f"loader: the samples of its {type(loader.dataset).__name__} have no ids",
        "wrap the dataset in identified(dataset), outside all other wrappers",
    )


def is_identified(dataset: Any) -> bool:
    """Return True if samples have ids, looking through the wrappers of torch."""
    if isinstance(dataset, Identified):
        return True
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return all(part is not None and is_identified(part) for part in parts)


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


def holds(batch: Any, tensor: torch.Tensor) -> bool:
    """Return True if one of the tensors in a batch is this one, or equals it, perhaps on another device.

    Of several dimensions the first row is compared.
    """
    if isinstance(batch, torch.Tensor):
        if batch is tensor or (batch.shape, batch.dtype, batch.layout) != (tensor.shape, tensor.dtype, tensor.layout):
            return batch is tensor
        rows = slice(1 if tensor.ndim > 1 else None)
        return tensor.ndim > 0 and torch.equal(batch[rows].to(tensor.device), tensor[rows])
    inside = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return any(holds(one, tensor) for one in inside)


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return the first tensor in nested tuples, lists and mappings, depth first."""
    if isinstance(value, torch.Tensor):
        return value
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((found for one in inside if (found := first_tensor(one)) is not None), None)
