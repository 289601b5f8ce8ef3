"""Samples that a sampler repeats so that all processes of a training get equally many.

    padding = padding_of(loader.batch_sampler)          # None if it repeats none
    padding(batch, start, size)                         # places in this batch that are filled up

    taken = TakenSamples(padding)                       # one pass of this process
    taken.places(size)                                  # the same for its next batch

    33 samples for 2 processes in batches of 16:        process 0: 16, 1 + 15 padded        process 1: 16, 16 padded

A place is padding by its number in the whole pass: whatever lies behind the last sample is. Ids do not tell, since a sampler
that draws with replacement repeats what it means to, and another process may have the first visit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DistributedSampler

Padding = Callable[[int, int, int], list[int]]
"""(number of the batch, samples before it, its size), all in this process and pass -> places that are padding."""


class TakenSamples:
    """Counts what one pass has taken from its loader."""

    def __init__(self, padding: Padding | None) -> None:
        self._padding = padding
        self._batches = self._samples = 0

    def places(self, size: int) -> list[int]:
        """Return the places of padding in the next batch, which has `size` samples."""
        places = self._padding(self._batches, self._samples, size) if self._padding else []
        self._batches += 1
        self._samples += size
        return places


def padding_of(sampler: Any) -> Padding | None:
    """Return the padding of a batch sampler, or of a sampler; None if it adds none, or nothing is known about it."""
    if type(sampler).__name__ == "BatchSamplerShard":
        return _of_shard(sampler)
    inner = getattr(sampler, "sampler", sampler)
    if isinstance(inner, DistributedSampler) or type(inner).__name__ == "OrderedDistributedSampler":  # of timm
        return _of_distributed(inner)
    return None


def _of_distributed(sampler: Any) -> Padding | None:
    """Sample j of process `rank` is number j * processes + rank."""
    processes, rank, n = sampler.num_replicas, sampler.rank, len(sampler.dataset)
    if sampler.total_size <= n:
        return None

    def padding(_batch: int, start: int, size: int) -> list[int]:
        first = max(0, -((rank - n) // processes))  # the first sample of this process behind the end
        return list(range(max(first - start, 0), size))

    return padding


def _of_shard(shard: Any) -> Padding | None:
    """Accelerate deals whole batches out in turns, or a part of each, and fills up with the first samples."""
    size: int = shard.batch_size
    samples: Any = getattr(shard.batch_sampler, "sampler", None)
    if not shard.even_batches or shard.drop_last or not size or not hasattr(samples, "__len__"):
        return None
    n, processes, process = len(samples), shard.num_processes, shard.process_index

    def padding(batch: int, _start: int, b: int) -> list[int]:
        begin = batch * size + b * process if shard.split_batches else (batch * processes + process) * size
        return list(range(min(max(n - begin, 0), b), b))

    return padding


def select_rows(value: Any, kept: list[int], b: int) -> Any:
    """Return the rows `kept` of columns of `b` values: a tensor, an array, a list; or a mapping, list or tuple of columns.

    Anything else stays as it is.
    """
    if isinstance(value, Mapping):
        return {name: select_rows(one, kept, b) for name, one in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(one, torch.Tensor) and one.ndim for one in value):
        return [select_rows(one, kept, b) for one in value]
    if isinstance(value, str) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0 or len(value) != b:
        return value
    if isinstance(value, torch.Tensor):
        return value[torch.tensor(kept, device=value.device)]
    return [value[place] for place in kept] if isinstance(value, Sequence) else value[kept]
