"""From samples to batches: which images, in which order, as tensors for the model.

    data = Data(scan, store, recipe, writer, seed=0, batch_size=64, device=device)
    for batch in data.batches("train", epoch=1):
        logits = model(batch.inputs)

A file is read and decoded once, at its first visit, in blocks that run a little ahead of the batches. The writer records it
(samples or skip) before the first batch that needs it. Which images meet in a batch depends only on the seed, the epoch and the
relative paths.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from capture_cli.errors import DataError
from capture_cli.keyed_random import repeated
from capture_cli.labels import Scan
from capture_cli.mixing import Mix, Mixing
from capture_cli.pixels.store import Admission, Store
from capture_cli.preprocessing import Recipe, epoch_order, make_batch, path_keys
from capture_cli.records import MAX_SAMPLES_PER_LINE, Samples, Skip
from capture_cli.training.sampling import balanced_order
from capture_cli.writer import BatchWriter

Ids = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Minibatch:
    """B samples, ready for the model."""

    ids: Ids
    files: Sequence[str]
    labels: torch.Tensor
    """[B] int64 class numbers, on the device."""
    inputs: torch.Tensor
    """[B, C, H, W] float32, contiguous, on the device."""
    progress: float
    """Fraction of the phase's images before this batch, 0 to 1."""
    repeats: Ints | None = None
    """[B] how often each sample came before in this epoch, if any did."""
    mix: Mix | None = None
    other_labels: torch.Tensor | None = None
    """[B] labels of the partners that the inputs are mixed with."""


class Data:
    """The images of one folder, in batches."""

    def __init__(
        self,
        scan: Scan,
        store: Store,
        recipe: Recipe,
        writer: BatchWriter,
        *,
        seed: int,
        batch_size: int,
        device: torch.device,
        strict: bool = False,
        sampler: str = "shuffle",
        mixing: Mixing | None = None,
    ) -> None:
        self.scan = scan
        self._store = store
        self._recipe = recipe
        self._writer = writer
        self._seed = seed
        self._batch_size = batch_size
        self._device = device
        self._strict = strict
        self._sampler = sampler
        self._mixing = mixing
        self._labels = np.asarray(scan.labels, np.int64)
        self._files = np.array(scan.files, object)
        self._keys = path_keys(scan.files)
        self._visited = np.zeros(len(scan.files), bool)
        self._expected: Mapping[str, str | None] = {}

    def ids(self, split: str) -> Ids:
        """Return the samples of a split in the order of the scan, usable or not."""
        return np.flatnonzero(np.asarray(self.scan.splits) == split)

    def batches(self, phase: str, epoch: int, *, start: int = 0) -> Iterator[Minibatch]:
        """Yield one epoch (from 1) of a phase: `train` is shuffled and augmented, other phases follow the order of the scan.

        The first `start` batches are omitted: an earlier process had them. Raises DataError if no image of the phase can be
        used or, if `strict`, at the first that cannot.
        """
        train = phase == "train"
        order, repeats = self._order(phase, epoch)
        ready = np.empty(0, np.int64)
        """Places in `order` whose samples wait for a batch."""
        read = yielded = number = 0
        for size in self._block_sizes(len(order)):
            places = np.arange(read, read + size)
            ready = np.concatenate([ready, places[self._read_usable(order[places], phase)]])
            read += size
            while size := _next_size(len(ready), self._batch_size, last=read == len(order), join_single=train):
                chosen, ready = ready[:size], ready[size:]
                if number >= start:
                    again = repeats[chosen] if repeats is not None else None
                    batch = self._minibatch(order[chosen], again, epoch, train, yielded / len(order))
                    yield self._mixed(batch, epoch, number) if train and self._mixing else batch
                number, yielded = number + 1, yielded + size
        if not yielded:
            raise DataError(f"none of the {len(order)} {phase} images can be used", "see `capture labels` and the skip records")

    def _order(self, phase: str, epoch: int) -> tuple[Ids, Ints | None]:
        """Return the samples of a phase in order, and how often each came before if any comes again."""
        order = self.ids(phase)
        if phase == "train" and self._sampler == "balanced":  # keeps the places of unusable images in every epoch
            chosen, repeats = balanced_order(self._keys[order], self._labels[order], seed=self._seed, epoch=epoch)
            return order[chosen], repeats
        if epoch > 1:  # the first epoch, also of a resumed run, keeps the places of images that turn out unusable
            order = order[self._store.usable[order] | ~self._visited[order]]
        if phase == "train":
            order = order[epoch_order(self._keys[order], seed=self._seed, epoch=epoch)]
        return order, None

    def expect(self, files: Mapping[str, str | None], later_files: Mapping[str, str | None]) -> None:
        """Read the `files` of an earlier process again: file -> digest of its bytes, None if it could not be used.

        They are not recorded again. `later_files`, which it read after its checkpoint, are read and recorded when a batch needs
        them. Raises DataError, now or then, naming a file that has changed.
        """
        self._expected = {**files, **later_files}
        ids = np.asarray([i for i, file in enumerate(self.scan.files) if file in files], np.int64)
        for start in range(0, len(ids), MAX_SAMPLES_PER_LINE):
            self._read(ids[start : start + MAX_SAMPLES_PER_LINE])

    def _read(self, ids: Ids) -> Admission:
        files = self.scan.files
        self._visited[ids] = True
        admission = self._store.admit(ids, lambda i: self.scan.source.read(files[i]))
        digests = dict(zip(admission.ids, admission.digests, strict=True))
        for i in ids.tolist() if self._expected else ():
            if files[i] in self._expected and digests.get(i) != self._expected[files[i]]:
                raise DataError(f"'{files[i]}' has changed since the run began", "put it back, or start a new run")
        return admission

    def _minibatch(self, ids: Ids, repeats: Ints | None, epoch: int, augment: bool, progress: float) -> Minibatch:
        pixels, rows = self._store.rows(ids)
        keys = self._keys[ids]
        if repeats is not None and repeats.any():
            keys = repeated(keys, repeats)
        else:
            repeats = None
        inputs = make_batch(
            torch.from_numpy(pixels),
            rows,
            keys=keys,
            recipe=self._recipe,
            seed=self._seed,
            epoch=epoch,
            augment=augment,
            device=self._device,
        )
        files = self._files.take(ids).tolist()
        labels = torch.from_numpy(self._labels[ids]).to(self._device, non_blocking=True)
        return Minibatch(ids, files, labels, inputs, progress, repeats)

    def _mixed(self, batch: Minibatch, epoch: int, number: int) -> Minibatch:
        """Mix the inputs of a training batch with those of their partners, if it is drawn so."""
        size, _, height, width = batch.inputs.shape
        mix = self._mixing.draw(epoch=epoch, batch=number, size=size, height=height, width=width) if self._mixing else None
        if mix is None:
            return batch
        partners = torch.tensor(mix.partners, device=self._device)
        inputs = mix.apply(batch.inputs, batch.inputs[partners])
        return replace(batch, inputs=inputs, mix=mix, other_labels=batch.labels[partners])

    def _block_sizes(self, total: int) -> Iterator[int]:
        """Yield the sizes of the blocks of an epoch to decode: small ones first, so that the first batch comes soon."""
        size = min(self._batch_size + 2, MAX_SAMPLES_PER_LINE)
        while total > 0:
            yield min(size, total)
            total, size = total - size, min(2 * size, MAX_SAMPLES_PER_LINE)

    def _read_usable(self, ids: Ids, split: str) -> npt.NDArray[np.bool_]:
        """Read and record those of `ids` that come for the first time; return which are usable."""
        new = ids[~self._visited[ids]]
        if self._sampler == "balanced":
            new = new[np.sort(np.unique(new, return_index=True)[1])]
        if len(new):
            files = self.scan.files
            admission = self._read(new)
            for i, unusable in admission.skipped:
                self._writer.write(Skip(file=files[i], reason=unusable.reason, detail=unusable.detail))
                if self._strict:
                    raise DataError(f"'{files[i]}' cannot be used: {unusable}", "repair or remove it, or drop --strict")
            good = admission.ids
            if len(good):
                self._writer.write(
                    Samples(
                        ids=good,
                        files=[files[i] for i in good],
                        labels=self._labels[good].tolist(),
                        splits=[split] * len(good),
                        sizes=admission.sizes,
                        digests=admission.digests,
                    )
                )
        usable: npt.NDArray[np.bool_] = self._store.usable[ids]
        return usable


def _next_size(ready: int, batch_size: int, *, last: bool, join_single: bool) -> int:
    """Return the size of the next batch from the images that are ready; 0 to wait for more.

    A last training batch of one image joins the one before it: batch normalisation cannot train on a single value.
    """
    if last:
        return ready if ready <= batch_size + join_single else batch_size
    return batch_size if ready > batch_size + join_single else 0
