"""Loaders whose batches are known by the ids of their samples.

    loader = WatchedLoader(DataLoader(dataset, shuffle=True), watch, phase="train")
    for batch in loader: ...                            # the batches of the loader, unchanged
    for batch, ids, files in loader.batches(): ...      # what `watch` sees of them

A DataLoader over a map-style dataset asks its sampler for indices, and those are the ids: samples, workers and collate
functions stay as they are. The sampler is replaced by one that remembers what it drew; batches come in the order of the draws.
Loaders that wrap a DataLoader (of timm or accelerate) are looked into. An index into a `Subset` counts in the dataset below it,
so that the parts of a split have different ids. For a dataset such as torchvision's ImageFolder, `files` are its paths below
its root.

Where there are no indices, the batches must carry the ids: those of an `identified` dataset, mappings with the key `id`, or
tuples of three or more whose last element is ids.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import index as to_int
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, Subset

from capture_cli.errors import UsageError
from capture_cli.recorder.identified import is_identified, require_identified, split_ids
from capture_cli.recorder.padding import Padding, TakenSamples, padding_of

if TYPE_CHECKING:
    from capture_cli.recorder.watching import Watch

INNER = ("base_dataloader", "loader", "dataloader", "_loader", "_dataloader")
"""Attributes under which other libraries keep the DataLoader that they wrap."""
Names = Callable[[Any], tuple[list[Any], list[str] | None]]
"""A function from the draws of a sampler to the ids and files of these samples."""
_USE_IDENTIFIED = "wrap the dataset in identified(dataset), or call record yourself"


class IdentifiedBatch(NamedTuple):
    """A batch of a loader, as the loop gets it, with the ids of its samples."""

    batch: Any
    ids: Any
    files: Sequence[str] | None
    padded: Sequence[int] = ()
    """Places of samples that the sampler repeats so that all processes get equally many."""


class WatchedLoader:
    """A loader whose batches are recorded; all other attributes are the loader's."""

    loader: Iterable[Any]
    ids: Sequence[int] | Sequence[str] | None

    def __init__(
        self, loader: Iterable[Any], watch: Watch, phase: str, ids: Sequence[int] | Sequence[str] | None = None
    ) -> None:
        """Find where the ids come from; `ids` names the samples of the dataset. Raises UsageError if there are none.

        A loader that was wrapped before, in an earlier notebook cell, say, is taken out of its wrapper, with its ids.
        """
        while isinstance(loader, WatchedLoader):
            ids = loader.ids if ids is None else ids
            loader = loader.loader
        self.loader, self.ids = loader, ids
        self.phase = phase
        self._watch = watch
        inner = torch_loader(loader)
        names = None if inner is None else sample_names(inner, ids)
        if ids is not None and names is None:
            raise UsageError("ids: the batches of this loader bring their own ids", "pass ids to identified(dataset, ids=...)")
        self._drawn = None if inner is None or names is None else DrawnIds(inner, names)
        if self._drawn:
            watch.at_close(self._drawn.stop)
        self._padding = padding_of_loader(loader)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return self._watch.batches(self)

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "ids") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)

    def batches(self) -> Iterator[IdentifiedBatch]:
        """Yield the batches with their ids. Raises UsageError for a batch without."""
        _refuse_unprepared(self.loader)
        taken = TakenSamples(self._padding)
        if self._drawn:
            if self._drawn.is_resumed:
                raise UsageError("loader: it resumes in the middle of a pass, and draws again what it skips", _USE_IDENTIFIED)
            for batch, drawn in self._drawn.batches(lambda: iter(self.loader)):
                if drawn is None:
                    raise UsageError("loader: its sampler was not asked for indices", "wrap it before it is iterated")
                ids, files = self._drawn.names(drawn)
                yield IdentifiedBatch(batch, ids, files, taken.places(len(ids)))
            return
        for batch in self.loader:
            if type(batch) in (tuple, list) and len(batch) < 3 and not self._carries_ids():
                raise UsageError(
                    f"loader: a batch of {len(batch)} elements may have labels at its end, and no ids", _USE_IDENTIFIED
                )
            rest, ids = split_ids(batch)
            yield IdentifiedBatch(rest, ids, None, taken.places(len(ids)))

    def _carries_ids(self) -> bool:
        inner = torch_loader(self.loader)
        return inner is not None and is_identified(inner.dataset)


class DrawnIds:
    """The ids of the batches of a DataLoader, by what its sampler draws until `stop`."""

    def __init__(self, loader: DataLoader[Any], names: Names) -> None:
        """Replace the sampler of `loader` by one that remembers. Raises UsageError if batches come in another order."""
        if loader.num_workers > 1 and not getattr(loader, "in_order", True):
            raise UsageError("loader: with in_order=False, batches do not come in the order of the sampler", _USE_IDENTIFIED)
        self._loader = loader
        self.names = names
        self._name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._before = getattr(loader, self._name)
        self._sampler = self._before if isinstance(self._before, _WatchedSampler) else _WatchedSampler(self._before)
        vars(loader)[self._name] = self._sampler  # the attribute itself refuses to be set

    def stop(self) -> None:
        """Give the loader its own sampler back."""
        vars(self._loader)[self._name] = self._before

    @property
    def is_resumed(self) -> bool:
        """True if the next pass begins in the middle, as one of torchdata's StatefulDataLoader may: it draws what it skips."""
        return getattr(self._loader, "next_iter_state", None) is not None

    def batches(self, begin: Callable[[], Iterator[Any]]) -> Iterator[tuple[Any, Any]]:
        """Begin a pass over the loader, or over what wraps it; return its batches with what was drawn for each.

        That is None for a batch that the sampler was not asked for.
        """
        before = self._sampler.latest
        batches = begin()
        return self._pair(batches, before, self._sampler.latest)

    def _pair(self, batches: Iterator[Any], before: _Draws | None, draws: _Draws | None) -> Iterator[tuple[Any, Any]]:
        for batch in batches:
            if draws is before:  # loaders that are generators begin with their first batch
                draws = self._sampler.latest
            yield batch, None if draws is before or draws is None or not draws.taken else draws.taken.popleft()


class _WatchedSampler:
    """A sampler, or batch sampler, that remembers what it drew; all other attributes are the sampler's."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.sampler = sampler
        self.latest: _Draws | None = None
        """The draws of the latest pass."""

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        self.latest = _Draws(iter(self.sampler))
        return self.latest

    def __getattr__(self, name: str) -> Any:
        if name == "sampler" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)


class _Draws:
    """One pass of a sampler: indices that were drawn, until their batch has come."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self.taken: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        one = next(self._source)
        self.taken.append(one)
        return one


def torch_loader(loader: Any) -> DataLoader[Any] | None:
    """Return the DataLoader that draws the indices: the loader itself, or one that it wraps."""
    for name in INNER:
        inner = vars(loader).get(name) if hasattr(loader, "__dict__") else None
        if inner is not None and (found := torch_loader(inner)) is not None:
            return found
    return loader if isinstance(loader, DataLoader) else None


def padding_of_loader(loader: Any) -> Padding | None:
    """Return the padding that the sampler of a loader adds; None if it adds none, or nothing is known about it."""
    inner = torch_loader(loader)
    if inner is None:
        return None
    sampler = inner.sampler if inner.batch_sampler is None else inner.batch_sampler
    return padding_of(sampler.sampler if isinstance(sampler, _WatchedSampler) else sampler)


def sample_names(loader: DataLoader[Any], ids: Sequence[int] | Sequence[str] | None = None) -> Names | None:
    """Return a function from what a sampler drew to the ids and files of these samples; None if the batches carry ids."""
    dataset = loader.dataset
    if is_identified(dataset) or isinstance(dataset, IterableDataset):
        return None
    if any(is_identified(part) for part in getattr(dataset, "datasets", [])):
        require_identified(loader)
    whole = dataset
    while isinstance(whole, Subset):
        whole = whole.dataset
    if ids is not None and len(ids) != len(whole):  # type: ignore[arg-type]
        raise UsageError(f"ids: {len(ids)} ids for {len(whole)} samples", "pass one per sample of the dataset")  # type: ignore[arg-type]
    paths = _paths(whole)

    def names(drawn: Any) -> tuple[list[Any], list[str] | None]:
        if whole is dataset and type(drawn) is list and set(map(type, drawn)) == {int} and min(drawn) >= 0:
            places = drawn  # as nearly all samplers draw
        else:
            places = [place_of(dataset, one) for one in (drawn if hasattr(drawn, "__iter__") else [drawn])]
        return places if ids is None else [ids[one] for one in places], paths and [paths[one] for one in places]

    return names


def place_of(dataset: Any, drawn: Any) -> int:
    """Return the index in the whole dataset of what a sampler drew."""
    try:
        place = to_int(drawn)
    except TypeError:
        raise UsageError(f"loader: its sampler drew {drawn!r}, which is not an index", _USE_IDENTIFIED) from None
    if place < 0:
        place += len(dataset)
    while isinstance(dataset, Subset):
        place, dataset = to_int(dataset.indices[place]), dataset.dataset
    return place


def _paths(dataset: Any) -> list[str] | None:
    """Return the paths of the samples below the root of a dataset that lists them, as torchvision's folders do."""
    samples, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
    if not isinstance(samples, list) or not isinstance(root, str | os.PathLike) or not samples:
        return None
    if not all(isinstance(one, tuple) and isinstance(one[0], str) for one in samples):
        return None
    return [PurePath(os.path.relpath(path, root)).as_posix() for path, *_ in samples]


def _refuse_unprepared(loader: Any) -> None:
    """Raise UsageError for a loader that gives every process all samples, because accelerate has not seen it."""
    state = getattr(sys.modules.get("accelerate.state"), "PartialState", None)
    processes = getattr(state, "_shared_state", {}).get("num_processes", 1) if state else 1
    if processes > 1 and not type(loader).__module__.startswith("accelerate") and not hasattr(loader, "base_dataloader"):
        raise UsageError(
            f"loader: each of the {processes} processes would get all samples",
            "prepare it first: recorder.loader(accelerator.prepare(loader))",
        )
    if "Dispatcher" in type(loader).__name__:
        raise UsageError(
            "loader: the main process reads for all others, so indices are known there only",
            "use DataLoaderConfiguration(dispatch_batches=False)",
        )
