"""Ids for the loops of other libraries: the indices that a sampler draws, beside the batches or in them.

    loader = follow(loader)                             # a copy that yields the same batches
    for batch in loader:
        drawn = loader.take()                           # ids and files of the oldest batch not asked about, None if lost

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

from capture_cli.recorder.identified import ID, Identified
from capture_cli.recorder.loading import INNER, DrawnIds, IdentifiedBatch, place_of, sample_names
from capture_cli.recorder.padding import TakenSamples


class Followed:
    """The front part of the class of a DataLoader that is followed."""

    drawn: DrawnIds
    waiting: deque[IdentifiedBatch] | tuple[()] = ()
    """Batches of the latest pass that nobody has asked about."""

    def __iter__(self) -> Iterator[Any]:
        self.waiting = deque()
        return _remember(self.drawn.batches(super().__iter__, TakenSamples(None)), self.waiting)  # type: ignore[misc]

    def take(self) -> IdentifiedBatch | None:
        """Return the oldest batch that was not returned yet; None if there is none, and then until the next pass."""
        if self.waiting:
            return self.waiting.popleft()
        self.waiting = ()
        return None


def _remember(batches: Iterator[IdentifiedBatch], waiting: deque[IdentifiedBatch]) -> Iterator[Any]:
    for one in batches:
        waiting.append(one)
        yield one.batch


def follow(loader: Any) -> Any:
    """Return a copy of a DataLoader that is `Followed`; anything else as it is. Raises UsageError as `DrawnIds` does."""
    if not issubclass(type(loader), DataLoader) or isinstance(loader, Followed) or (names := sample_names(loader)) is None:
        return loader
    kind: Any = type(type(loader).__name__, (Followed, type(loader)), {})
    followed = kind.__new__(kind)
    vars(followed).update(vars(loader), _iterator=None)  # workers that persist belong to the original
    vars(followed)["drawn"] = DrawnIds(followed, names)
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
    changed = copy(loader)
    vars(changed).update(_iterator=None, dataset=_Drawn(loader.dataset, None), collate_fn=_Collate(loader.collate_fn))
    return changed


class _Fetched(NamedTuple):
    """What a data set returned for a batch, or for a sample, and the ids of these samples."""

    samples: Any
    ids: list[int]


class _Drawn(Identified):
    """A data set that says which samples it was asked for."""

    def __getitem__(self, index: Any) -> _Fetched:
        places = index if hasattr(index, "__iter__") else [index]
        return _Fetched(self.dataset[index], [place_of(self.dataset, one) for one in places])

    def __getitems__(self, indices: list[int]) -> Any:
        many = getattr(self.dataset, "__getitems__", None)
        samples = many(indices) if many else [self.dataset[index] for index in indices]
        return _Fetched(samples, [place_of(self.dataset, one) for one in indices])


class _Collate:
    """A collate function that gets what the data set returned, and adds the ids to what it makes of it."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, fetched: _Fetched) -> Any:
        batch = self._collate(fetched.samples)
        if isinstance(batch, MutableMapping) and ID not in batch:
            batch[ID] = torch.tensor(fetched.ids)
        return batch
