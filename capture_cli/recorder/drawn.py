"""Ids for the loops of other libraries: the indices that a sampler draws, beside the batches or in them.

    loader = follow(loader)                             # a copy that yields the same batches
    for batch in loader:
        ids, files = loader.drawn.names(loader.take())  # of the oldest batch that was not asked about

    loader = with_ids(loader)                           # batches that are mappings get the key `id`

`follow` relies on the order of the batches, as capture_cli.recorder.loading does, and leaves their form alone. With `with_ids`
the id is in the batch, so that it survives whatever fetches ahead, skips or shares batches out. Neither changes the loader of
the caller, nor its samples. Loaders whose batches carry ids, and those without indices, are returned as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from copy import copy
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from capture_cli.errors import UsageError
from capture_cli.recorder.identified import ID, Identified
from capture_cli.recorder.loading import INNER, DrawnIds, place_of, sample_names

_NOT_BEGUN = {"_iterator": None, "_initial_iter_for_state_dict": False}
"""Attributes of DataLoaders, the second of torchdata's, that keep an iterator and its workers: those of the original."""


class Followed:
    """The front part of the class of a DataLoader that is followed."""

    drawn: DrawnIds
    _waiting: deque[Any] | tuple[()] = ()
    """The draws for those batches of the latest pass that nobody has asked about."""

    def __iter__(self) -> Iterator[Any]:
        begin = super().__iter__  # type: ignore[misc]
        self._waiting = ()
        if self.drawn.is_resumed:
            return begin()  # type: ignore[no-any-return]
        self._waiting = deque()
        return _remember(self.drawn.batches(begin), self._waiting)

    def take(self) -> Any:
        """Return what was drawn for the oldest batch that was not asked about; None if there is none, until the next pass."""
        if self._waiting:
            return self._waiting.popleft()
        self._waiting = ()
        return None


def _remember(batches: Iterator[tuple[Any, Any]], waiting: deque[Any]) -> Iterator[Any]:
    for batch, drawn in batches:
        waiting.append(drawn)
        yield batch


def follow(loader: Any) -> Any:
    """Return a copy of a DataLoader that is `Followed`; anything else, and what has no ids to draw, as it is."""
    if not issubclass(type(loader), DataLoader) or isinstance(loader, Followed):
        return loader
    kind: Any = type(type(loader).__name__, (Followed, type(loader)), {})
    followed = kind.__new__(kind)
    vars(followed).update(vars(loader), **_NOT_BEGUN)
    try:
        names = sample_names(loader)
        if names is None:
            return loader
        vars(followed)["drawn"] = DrawnIds(followed, names)
    except UsageError:  # the steps may know the ids; if not, there is an error then
        return loader
    return followed


def with_ids(loader: Any) -> Any:
    """Return a loader whose batches, if they are mappings, have the ids of their samples under the key `id`.

    Of a loader that wraps a DataLoader, the DataLoader inside is replaced.
    """
    for name in INNER:
        if hasattr(loader, "__dict__") and (inner := vars(loader).get(name)) is not None:
            vars(loader)[name] = with_ids(inner)
            return loader
    if not isinstance(loader, DataLoader) or sample_names(loader) is None:
        return loader
    changed, dataset = copy(loader), loader.dataset
    vars(changed).update(_NOT_BEGUN, dataset=_Drawn(dataset, None), collate_fn=_Collate(loader.collate_fn, dataset))
    return changed


class _Fetched(NamedTuple):
    """The answer of a data set, and the question."""

    samples: Any
    drawn: Any


class _Drawn(Identified):
    """A data set that says which samples it was asked for."""

    def __getitem__(self, index: Any) -> _Fetched:
        return _Fetched(self.dataset[index], index if hasattr(index, "__iter__") else [index])

    def __getitems__(self, indices: list[int]) -> Any:
        many = getattr(self.dataset, "__getitems__", None)
        return _Fetched(many(indices) if many else [self.dataset[index] for index in indices], indices)


class _Collate:
    """A collate function that gets what the data set returned, and adds the ids to what it makes of it."""

    def __init__(self, collate: Callable[[Any], Any], dataset: Any) -> None:
        self._collate = collate
        self._dataset = dataset

    def __call__(self, fetched: _Fetched) -> Any:
        batch = self._collate(fetched.samples)
        if isinstance(batch, MutableMapping) and ID not in batch:
            batch[ID] = torch.tensor([place_of(self._dataset, one) for one in fetched.drawn])
        return batch
