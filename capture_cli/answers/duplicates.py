"""Images that are in a run more than once: under two labels a contradiction, in two splits a leak.

    found = find_duplicates(run)
    found.leaks, found.contradictions           # groups across splits, and across labels
    found.groups[0].members[0].file

Three kinds, the strongest first: `bytes` (files with the same digest), `input` (the same tensor went into the model: pictures
that differ on disk and not to the network) and `near` (the recorded perceptual hashes differ in a few bits). Two small pictures
may have one hash and be different, and the pixels that would tell are not in the records: what is near is perhaps the same
picture, and neither a leak nor a contradiction. A fold over one pass; memory grows with the samples, not with the epochs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from capture_cli.records import RunInfo, Samples, Skip
from capture_cli.runs import Block, Line, Visits, folds_of

if TYPE_CHECKING:
    from capture_cli.runs import Run

KINDS = ("bytes", "input", "near")
NEAR_BITS = 1
"""Perceptual hashes of 128 bits that differ in at most so many bits are near-duplicates: without their pixels, more would be
too many. `capture labels --check` compares pixels, and finds more."""
MAX_NEAR = 10_000
"""Samples up to which every pair of perceptual hashes is compared; of more samples only equal hashes are found."""
Name = int | str | tuple[str, int | str]
"""The id of a sample, with its phase where only batches name the sample: datasets of two phases may both count from 0."""
_KEY_BYTES = {"digests": 16, "pixels": 8, "phash": 16}
"""Length of the keys in each column of a samples record by which copies are found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One sample of a group."""

    file: str
    id: int | str
    label: str | None
    split: str | None
    """The phase where only batches name the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateGroup:
    """Samples that show the same picture, or of the kind `near` perhaps do."""

    kind: str
    """One of KINDS."""
    members: tuple[Member, ...]
    """At least two, in the order of the records."""

    @property
    def is_certain(self) -> bool:
        """True if it is the same picture to the network; what is near may be another one."""
        return self.kind != "near"

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels."""
        return tuple(dict.fromkeys(one.label for one in self.members if one.label is not None))

    @property
    def splits(self) -> tuple[str, ...]:
        """The different splits."""
        return tuple(dict.fromkeys(one.split for one in self.members if one.split is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Every group of a run."""

    groups: tuple[DuplicateGroup, ...]
    """Contradictions first, then leaks, then others; those that are near last."""
    compared: tuple[str, ...]
    """The kinds that the records allow to find."""
    not_compared: int = 0
    """Images of a test split, which the run left alone."""

    @property
    def contradictions(self) -> tuple[DuplicateGroup, ...]:
        """Groups of the same picture with more than one label: at most one of them is right."""
        return tuple(one for one in self.groups if one.is_certain and len(one.labels) > 1)

    @property
    def leaks(self) -> tuple[DuplicateGroup, ...]:
        """Groups of the same picture in more than one split: what is measured on the one was seen in the other."""
        return tuple(one for one in self.groups if one.is_certain and len(one.splits) > 1)

    def to_json(self) -> dict[str, Any]:
        """The groups as plain values."""
        return {
            "compared": list(self.compared),
            "not_compared": self.not_compared,
            "groups": [{**asdict(one), "labels": list(one.labels), "splits": list(one.splits)} for one in self.groups],
        }


def find_duplicates(run: Run) -> Duplicates:
    """Find the duplicates of a run in one pass over its records."""
    fold = Duplicating(thorough=True)
    run.fold(fold)
    return fold.result()


class Duplicating:
    """The fold that finds them."""

    def __init__(self, *, thorough: bool) -> None:
        """Compare bytes and pixels; if `thorough` also inputs, of the first epoch of every phase, and perceptual hashes."""
        self._is_thorough = thorough
        self._classes: Sequence[str] = ()
        self._samples: list[Samples] = []
        """Without the columns that `_keys` has."""
        self._keys: dict[str, list[bytes]] = {name: [] for name in _KEY_BYTES if thorough or name != "phash"}
        self._first_epochs: dict[str, int] = {}
        self._inputs: dict[str, dict[Name, None]] = {}
        """Digest of an input -> the samples that had it."""
        self._named: dict[tuple[str, int | str], tuple[str, int | None]] = {}
        """Phase and id -> file and label of samples that no samples record names."""
        self._tests = set[str]()
        self._has_folds = False
        self._first_val: dict[int, int] = {}
        self._fold_of: dict[int | str, str] = {}
        """The fold that holds a sample out, in place of its split, in a run with folds."""

    def update(self, block: Block) -> None:
        """Take the next block. Raises RecordsError for inputs that do not fit their batch."""
        if isinstance(block, RunInfo):
            self._classes, self._has_folds = block.classes, bool(folds_of(block))
        elif isinstance(block, Samples):
            self._take_samples(block)
        elif isinstance(block, Skip) and block.reason == "test-split":
            self._tests.add(block.file)  # each training of a run with folds names it
        elif (
            isinstance(block, Visits)
            and self._is_thorough
            and block.info.task != "sequence"
            and self._first_epochs.setdefault(block.phase, block.epoch) == block.epoch
        ):
            self._take_inputs(block)
        if self._has_folds and isinstance(block, Visits) and block.phase == "val" and block.info.fold:
            self._take_fold(block, block.info.fold["number"])

    def _take_samples(self, block: Samples) -> None:
        for name, parts in self._keys.items():
            if (column := getattr(block, name)) is not None:
                parts.append(bytes.fromhex("".join(column)))
        self._samples.append(replace(block, digests=(), pixels=None, phash=None))

    def _take_fold(self, visits: Visits, number: int) -> None:
        """Keep which samples a training holds out, from the first epoch that it has visits of."""
        if self._first_val.setdefault(number, visits.epoch) == visits.epoch:
            self._fold_of.update(dict.fromkeys(visits["id"].tolist(), f"fold {number}"))

    def _take_inputs(self, visits: Visits) -> None:
        ids = visits["id"].tolist()
        digests = [one for line in visits.lines for one in _input_digests(line)]
        if len(digests) != len(ids):
            raise visits.error("in this batch record inputs.digests do not fit the other columns")
        names: list[Name] = ids if self._samples else [(visits.phase, one) for one in ids]
        for name, digest in zip(names, digests, strict=True):
            self._inputs.setdefault(digest, {})[name] = None
        if not self._samples:
            labels = visits["label"].tolist() if "label" in visits else [None] * len(ids)
            for one, file, label in zip(ids, visits["file"].tolist(), labels, strict=True):
                self._named.setdefault((visits.phase, one), (file, label))

    def result(self) -> Duplicates:
        """The groups of what was taken."""
        names: list[Name] = [*chain.from_iterable(block.ids for block in self._samples), *self._named]
        places = {name: place for place, name in enumerate(names)} if self._inputs else {}
        places |= {name: places[first] for name, first in self._first_names().items()}
        found: dict[tuple[int, ...], str] = {}
        found_by = (
            ("bytes", self._alike("digests")),
            ("input", self._alike("pixels")),
            ("input", self._by_input(places)),
            ("near", self._by_hash()),
        )
        for kind, alike in found_by:
            for group in alike:
                if not any(set(group) <= set(other) for other in found):
                    found[tuple(group)] = kind
        member = self._members(names)
        groups = [DuplicateGroup(kind=kind, members=tuple(map(member, group))) for group, kind in found.items()]
        groups.sort(
            key=lambda one: (
                not one.is_certain,
                len(one.labels) < 2,
                len(one.splits) < 2,
                KINDS.index(one.kind),
                one.members[0].file,
            )
        )
        has = {
            "bytes": bool(self._samples),
            "input": bool(self._inputs) or any(self._keys["pixels"]),
            "near": self._column("phash") is not None,
        }
        return Duplicates(
            groups=tuple(groups), compared=tuple(kind for kind in KINDS if has[kind]), not_compared=len(self._tests)
        )

    def _first_names(self) -> dict[tuple[str, int | str], tuple[str, int | str]]:
        """Name of each sample that only batches name -> its name in the first phase that has it.

        An id is one sample in two phases if the labels of all ids that both have agree. If they do not, as where the datasets
        of train and val both count from 0, the phases have samples of their own.
        """
        by_phase = defaultdict[str, dict[int | str, int | None]](dict)
        for (phase, one), (_, label) in self._named.items():
            by_phase[phase][one] = label
        datasets: list[dict[int | str, tuple[str, int | None]]] = []
        found = {}
        for phase, labels in by_phase.items():
            dataset = next((one for one in datasets if all(one[i][1] == labels[i] for i in one.keys() & labels.keys())), None)
            if dataset is None:
                datasets.append(dataset := {})
            for one, label in labels.items():
                found[phase, one] = (dataset.setdefault(one, (phase, label))[0], one)
        return found

    def _members(self, names: Sequence[Name]) -> Callable[[int], Member]:
        """Look up samples by their place."""
        starts = np.cumsum([0, *(len(block.ids) for block in self._samples)])

        def member(place: int) -> Member:
            name = names[place]
            if isinstance(name, tuple):
                file, number = self._named[name]
                return Member(file=file, id=name[1], label=None if number is None else self._classes[number], split=name[0])
            at = int(np.searchsorted(starts, place, "right")) - 1
            block, row = self._samples[at], place - int(starts[at])
            label = self._classes[int(block.labels[row])]
            split = self._fold_of.get(name) if self._has_folds else block.splits[row]
            return Member(file=block.files[row], id=name, label=label, split=split)

        return member

    def _column(self, name: str) -> npt.NDArray[np.uint64] | None:
        """[N, K] one of the columns of hex digits as numbers; None unless every sample has them."""
        width = _KEY_BYTES[name]
        keys = np.frombuffer(b"".join(self._keys.get(name, ())), np.uint64).reshape(-1, width // 8)
        return keys if len(keys) == sum(len(block.ids) for block in self._samples) > 0 else None

    def _alike(self, name: str) -> list[list[int]]:
        """Samples with equal bytes, or with equal pixels, as decoded: augmented inputs of copies differ."""
        keys = self._column(name)
        return [] if keys is None else _equal(keys)

    def _by_input(self, places: Mapping[Name, int]) -> list[list[int]]:
        several = (names for names in self._inputs.values() if len(names) > 1)
        groups = (sorted({places[name] for name in names if name in places}) for names in several)
        return [group for group in groups if len(group) > 1]

    def _by_hash(self) -> list[list[int]]:
        hashes = self._column("phash")
        if hashes is None:
            return []
        varied = np.flatnonzero(hashes.any(axis=1))  # pictures of one colour have no hash
        hashes = hashes[varied]
        if len(hashes) > MAX_NEAR:
            return [varied[group].tolist() for group in _equal(hashes)]
        near = defaultdict[int, list[int]](list)
        root = np.arange(len(hashes))
        for place in range(len(hashes)):
            for other in (place + 1 + np.flatnonzero(_bits(hashes[place + 1 :] ^ hashes[place]) <= NEAR_BITS)).tolist():
                root[root == root[other]] = root[place]
        for place, one in zip(varied.tolist(), root.tolist(), strict=True):
            near[one].append(place)
        return [group for group in near.values() if len(group) > 1]


def _equal(keys: npt.NDArray[np.uint64]) -> list[list[int]]:
    """Places of equal rows of `keys` [N, K], those that are not alone."""
    first = np.sort(keys[:, 0])
    repeated = first[1:][first[1:] == first[:-1]]
    places = np.flatnonzero(np.isin(keys[:, 0], repeated)) if len(repeated) else repeated  # mostly none
    groups: dict[bytes, list[int]] = {}
    for place in places.tolist():
        groups.setdefault(keys[place].tobytes(), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _bits(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """[N] the number of bits that are set in [N, K]."""
    counts: npt.NDArray[np.int64] = np.bitwise_count(values).sum(axis=1, dtype=np.int64)
    return counts


def _input_digests(line: Line) -> list[str]:
    """The digests of the inputs of a batch, found without parsing the line. Raises RecordsError."""
    start = line.block.find(b',"inputs":{', line.start, line.end)
    first = line.block.find(b'"digests":[', start, line.end)
    end = line.block.find(b"]", first, line.end)
    if min(start, first, end) < 0:
        raise line.error(f"this {line.kind} record has no digests of inputs")
    try:
        digests = orjson.loads(line.block[first + len(b'"digests":') : end + 1])
    except ValueError as error:
        raise line.error("in this batch record inputs.digests are not text") from error
    if not set(map(type, digests)) <= {str}:
        raise line.error("in this batch record inputs.digests are not text")
    return list(digests)
