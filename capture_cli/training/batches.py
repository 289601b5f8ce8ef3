"""From samples to batches: which images, in which order, as tensors for the model.

    data = Data(scan, store, recipe, writer, seed=0, batch_size=64, device=device)
    for batch in data.batches("train", epoch=1):
        logits = model(batch.inputs)

A file is read and decoded once, at its first visit, in blocks that run a little ahead of the batches. The writer records it
(samples or skip) before the first batch that needs it. Which images meet in a batch depends only on the seed, the epoch and the
relative paths.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np
import numpy.typing as npt
import torch

from capture_cli.errors import DataError
from capture_cli.keyed_random import repeated
from capture_cli.labels import Scan
from capture_cli.mixing import Mix, Mixing
from capture_cli.pixels.admission import Admission
from capture_cli.pixels.findings import Observed, find
from capture_cli.pixels.leaks import FileDigests
from capture_cli.pixels.store import Store
from capture_cli.pixels.verdicts import Names, leaks, refuse_lost, warnings
from capture_cli.preprocessing import Recipe, epoch_order, make_batch, path_keys
from capture_cli.records import MAX_SAMPLES_PER_LINE, Samples, Skip
from capture_cli.training.sampling import balanced_order
from capture_cli.writer import BatchWriter

LOOKED_AT = MAX_SAMPLES_PER_LINE
"""Images up to this number are all decoded before the first step, so that whatever is wrong with them is said there."""

_NOTED_SECONDS = 2.0

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
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`warn` is told what the decoded pixels show, once all files were read."""
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
        self._warn = warn
        self._observed = Observed(len(scan.files))
        self._digests = FileDigests(len(scan.files))
        self._checked = False
        self._expected: Mapping[str, str | None] = {}

    def ids(self, split: str) -> Ids:
        """Return the samples of a split in the order of the scan, usable or not."""
        return np.flatnonzero(np.asarray(self.scan.splits) == split)

    def look_ahead(self, stopping: Callable[[], bool], note: Callable[[str], object] = lambda _: None) -> None:
        """Read files before the first step: all of at most LOOKED_AT, of more one usable image for each class and split.

        They keep their places in the first epoch. `note` is told if it takes long. Returns early once `stopping()`. Raises
        DataError if a class or a split has no usable image.
        """
        everything = len(self.scan.files) <= LOOKED_AT
        noted, started = False, monotonic()
        for split in sorted(set(self.scan.splits), key=("train", "val", "test").index):
            ids = self.ids(split)
            if everything:
                order = epoch_order(self._keys[ids], seed=self._seed, epoch=1) if split == "train" else slice(None)
                blocks = self._blocks(ids[order])
            else:
                blocks = self._first_of_classes(ids)
            for block in blocks:
                if stopping():
                    return
                self._read_usable(block, split)
                if not noted and monotonic() - started > _NOTED_SECONDS:
                    noted = True
                    note("Decoding images, to see what is wrong with them before the first step")
        if "test" not in self.scan.splits:
            refuse_lost(self._observed, self._names)
        self._check_pixels()

    def _first_of_classes(self, ids: Ids) -> Iterator[Ids]:
        """Yield the first image of each class, and where it could not be used the next ones, until one can."""
        classes = self._labels[ids]
        missing = set(classes.tolist()) - set(classes[self._store.usable[ids]].tolist())
        size = 1
        while missing:
            unread = ids[~self._visited[ids] & np.isin(classes, list(missing))]
            if not len(unread):
                return
            order = np.argsort(self._labels[unread], kind="stable")
            ranks = _ranks(self._labels[unread][order])
            yield from self._blocks(unread[order][ranks < size])
            missing -= set(classes[self._store.usable[ids]].tolist())
            size *= 2

    @property
    def _names(self) -> Names:
        scan = self.scan
        return Names(files=scan.files, labels=scan.labels, splits=scan.splits, classes=scan.classes)

    def _check_pixels(self) -> None:
        """Once all files were read, warn of what their pixels show. Raises DataError if all images are the same."""
        if self._checked or not (self._visited.all() or self._sampler == "balanced"):  # which may never choose some
            return
        self._checked = True
        found = find(self._observed, self.scan.labels, self.scan.splits, rows=self._store.rows)
        if found.all_alike and "test" not in self.scan.splits:
            raise DataError(
                f"all {found.usable:,} usable images have the same pixels: there is nothing to learn",
                "see --depth (more than 8 bits) and --background (transparency)",
            )
        for text in [*warnings(found, self._names), *self._test_leaks()]:
            self._warn(text)

    def count_in(self, digests: Collection[bytes], split: str) -> int:
        """Count the images of a split that were read whose file has one of these digests."""
        return self._digests.count_in(digests, self.ids(split))

    def _test_leaks(self) -> list[str]:
        """Say which files of the test split, which are not decoded, are copies of those that were read."""
        tests = [(one.file, one.detail) for one in self.scan.skipped if one.reason == "test-split"]
        names, source = self._names.with_tests(tests), self.scan.source
        return leaks(self._digests.copies(names, source.size, source.read), names) if tests else []

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
        if not train or not len(self.ids("val")):
            self._check_pixels()
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
        self._observed.add(admission)
        self._digests.add(admission)
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

    def _blocks(self, ids: Ids) -> Iterator[Ids]:
        start = 0
        for size in self._block_sizes(len(ids)):
            yield ids[start : start + size]
            start += size

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
                        pixels=[f"{one:016x}" for one in admission.pixels],
                        phash=[one.tobytes().hex() for one in admission.hashes],
                    )
                )
        usable: npt.NDArray[np.bool_] = self._store.usable[ids]
        return usable


def _ranks(labels: Ids) -> Ids:
    """Number the items of each label, from 0, in sorted labels."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    return np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))


def _next_size(ready: int, batch_size: int, *, last: bool, join_single: bool) -> int:
    """Return the size of the next batch from the images that are ready; 0 to wait for more.

    A last training batch of one image joins the one before it: batch normalisation cannot train on a single value.
    """
    if last:
        return ready if ready <= batch_size + join_single else batch_size
    return batch_size if ready > batch_size + join_single else 0
