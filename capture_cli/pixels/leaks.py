"""Files of a test split that are copies, byte for byte, of files that a training has read: found without decoding them.

read = FileDigests(n)
read.add(store.admit(ids, ...))                 # block by block
for trained, test in read.copies(names, source.size, source.read): ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from capture_cli.errors import Unusable
from capture_cli.pixels.admission import Admission
from capture_cli.pixels.findings import SPLITS, Pair
from capture_cli.pixels.verdicts import Names

MAX_READ_BYTES = 2**28
"""Test files with the size of another are read up to this sum. More are not looked at: `capture labels --check` does that."""


class FileDigests:
    """Sizes and digests of N files, 24 bytes for each."""

    def __init__(self, n: int) -> None:
        self._sizes = np.zeros(n, np.int64)
        self._digests = np.zeros((n, 16), np.uint8)

    def add(self, admission: Admission) -> None:
        """Note the files of a block."""
        self._sizes[admission.ids] = admission.sizes
        self._digests[admission.ids] = np.frombuffer(bytes.fromhex("".join(admission.digests)), np.uint8).reshape(-1, 16)

    def count_in(self, digests: Collection[bytes], ids: NDArray[np.int64]) -> int:
        """Count those of the files `ids` whose digest is one of `digests`."""
        return sum(one.tobytes() in digests for one in self._digests[ids])

    def copies(self, names: Names, size: Callable[[str], int], read: Callable[[str], bytes]) -> list[Pair]:
        """Pair each file of the test split that is a copy with a training file, or if there is none with one for validation.

        `names` are those of the N files, and after them those of the test split.
        """
        n = len(self._sizes)
        sizes = set(self._sizes.tolist()) - {0}
        alike: dict[int, int] = {}
        for place in range(n, len(names.files)):
            try:
                if (length := size(names.files[place])) in sizes:
                    alike[place] = length
            except Unusable:
                continue
        if not alike or sum(alike.values()) > MAX_READ_BYTES:
            return []
        known: dict[bytes, int] = {}
        for i in np.flatnonzero(np.isin(self._sizes, list(set(alike.values())))).tolist():
            digest = self._digests[i].tobytes()
            if digest not in known or SPLITS.index(names.splits[i]) < SPLITS.index(names.splits[known[digest]]):
                known[digest] = i
        found = []
        for place in alike:
            try:
                digest = blake2b(read(names.files[place]), digest_size=16).digest()
            except Unusable:
                continue
            if digest in known:
                found.append((known[digest], place))
        return found
