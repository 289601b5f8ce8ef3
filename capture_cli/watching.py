"""Which sample is which, whatever shuffles; and loops that are recorded without a line changed in them.

    data = identified(dataset)                          # data[i] is (*dataset[i], i)
    data = identified(dataset, ids=files)               # ... or (*dataset[i], files[i])

The id travels inside the sample, so no sampler, worker or collate function can lose or swap it. Where the loop is to stay as it
is, the recorder takes the ids out of the batches again and looks over the shoulder of the loss function:

    loader = recorder.loader(DataLoader(identified(dataset), ...), phase="train")
    recorder.watch(criterion, model=model)
    for inputs, labels in loader:                       # the loop as it was
        loss = criterion(model(inputs), labels)

What cannot be known this way: the learning rate (it is null), and whether an update follows. Each pass over a watched loader is
an epoch of its phase. With `model`, `inputs` are the first tensor that the model is called with; without it, the first tensor
of the loader's batch, which is what the network saw only if the loop hands it on as it is. The loss function must be called
once a batch, with the logits and the labels of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from torch.utils.hooks import RemovableHandle

from capture_cli.errors import UsageError

ID = "id"
"""The key of the id in samples that are mappings."""


def identified(dataset: Dataset[Any], ids: Sequence[int] | Sequence[str] | None = None) -> Identified:
    """A map-style dataset whose samples end in their id: their index, or `ids[index]`.

    A tuple or list gets one more element, a mapping the key `id`, anything else becomes a pair. Raises UsageError for a dataset
    without length and index, or where there is not one id for each sample, each its own.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UsageError(
            f"a {type(dataset).__name__} has no index to tell samples by",
            "give a map-style dataset",
        )
    if ids is not None and len(ids) != len(dataset):
        raise UsageError(f"ids: {len(ids)} of them for {len(dataset)} samples", "give one for each")
    if ids is not None and len(set(ids)) < len(ids):
        raise UsageError("ids: some samples have the same", "give each sample an id of its own")
    return Identified(dataset, ids)


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
        return [self._with_id(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def _with_id(self, sample: Any, index: int) -> Any:
        name = int(index) if self.ids is None else self.ids[index]
        if isinstance(sample, Mapping):
            if ID in sample:
                raise UsageError(f"sample {index} has a field {ID!r} already", "rename it")
            return {**sample, ID: name}
        return (*sample, name) if isinstance(sample, tuple | list) else (sample, name)


@dataclass
class _Batch:
    """What a watched loader has handed out, and no loss has been seen of yet."""

    phase: str
    epoch: int
    ids: Any
    inputs: torch.Tensor | None


class Watch:
    """The eyes of one recorder on loaders, models and loss functions."""

    def __init__(self, record: Callable[..., None], end_phase: Callable[[str], object]) -> None:
        self._record = record
        self._end_phase = end_phase
        self._batch: _Batch | None = None
        self._hooks: list[RemovableHandle] = []

    def loader(self, loader: Iterable[Any], phase: str) -> WatchedLoader:
        """See Recorder.loader."""
        return WatchedLoader(loader, partial(self._see, phase), partial(self._end_phase, phase))

    def criterion(self, criterion: nn.Module, model: nn.Module | None) -> None:
        """See Recorder.watch."""
        self._hooks.append(criterion.register_forward_hook(self._after_criterion, with_kwargs=True))
        if model is not None:
            self._hooks.append(model.register_forward_pre_hook(self._before_model, with_kwargs=True))

    def close(self) -> None:
        """Look no more."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, phase: str, epoch: int, batch: Any) -> Any:
        rest, ids = _split(batch)
        self._batch = _Batch(phase, epoch, ids, _first_tensor(rest))
        return rest

    def _before_model(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = _first_tensor((*args, *kwargs.values()))
        if self._batch is not None and inputs is not None:
            self._batch.inputs = inputs

    def _after_criterion(self, criterion: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        batch, self._batch = self._batch, None
        given = [*args, *kwargs.values()]
        if len(given) < 2 or not all(isinstance(one, torch.Tensor) for one in given[:2]):
            raise UsageError(f"{type(criterion).__name__} was not called with logits and labels", "use recorder.record")
        if batch is None:
            raise UsageError(
                "the loss function was called without a batch of a watched loader, or twice for one", "see Recorder.loader"
            )
        if batch.inputs is None:
            raise UsageError("no tensor was seen that could be the inputs", "give watch the model")
        scalar = isinstance(loss, torch.Tensor) and loss.ndim == 0
        self._record(
            epoch=batch.epoch,
            phase=batch.phase,
            inputs=batch.inputs,
            logits=given[0],
            labels=given[1],
            ids=batch.ids,
            loss=loss if scalar else None,
        )


class WatchedLoader:
    """The batches of a loader without their ids; each pass is an epoch."""

    def __init__(self, loader: Iterable[Any], see: Callable[[int, Any], Any], over: Callable[[], object]) -> None:
        self.loader = loader
        self._see = see
        self._over = over
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        for batch in self.loader:
            yield self._see(epoch, batch)
        self._over()


def _split(batch: Any) -> tuple[Any, Any]:
    """A batch without its ids, in the type that it had without them, and the ids."""
    if isinstance(batch, Mapping) and ID in batch:
        return {key: value for key, value in batch.items() if key != ID}, batch[ID]
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        ids = batch[-1]
        if (isinstance(ids, torch.Tensor) and ids.ndim == 1 and not ids.is_floating_point()) or _are_texts(ids):
            rest = batch[:-1]
            return (rest[0] if len(rest) == 1 else rest), ids
    raise UsageError("the batches of this loader have no ids", "make it of identified(dataset)")


def _are_texts(ids: Any) -> bool:
    return isinstance(ids, tuple | list) and all(isinstance(one, str) for one in ids)


def _first_tensor(batch: Any) -> torch.Tensor | None:
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else (batch,)
    return next((value for value in values if isinstance(value, torch.Tensor)), None)
