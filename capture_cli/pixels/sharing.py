"""The pixels of several trainings on the same images, one after the other: each file is read and decoded once.

    shared = SharedPixels(store, n)
    first = shared.view()           # a Store for one training, as if nothing had been read before
    second = shared.view()          # reads only what the first has not

Whoever opened the store closes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from capture_cli.errors import Unusable
from capture_cli.pixels.admission import Admission, Ids, Read, Tally
from capture_cli.pixels.decoding import Pixels
from capture_cli.pixels.similarity import HASH_BYTES
from capture_cli.pixels.store import Store


class SharedPixels:
    """A store of N images, and what was found out about each when it was admitted."""

    def __init__(self, store: Store, n: int) -> None:
        self.store = store
        self._known = np.zeros(n, np.bool_)
        self._sizes = np.zeros(n, np.int64)
        self._digests = np.zeros(n, "S32")
        self._pixels = np.zeros(n, np.uint64)
        self._hashes = np.zeros((n, HASH_BYTES), np.uint8)
        self._constant = np.zeros(n, np.bool_)
        self._skipped: dict[int, Unusable] = {}

    def view(self) -> StoreView:
        """Return a store in which nothing has been admitted yet."""
        return StoreView(self, len(self._known))

    def admit(self, ids: Iterable[int], read: Read) -> Admission:
        """Admit those that are new, and tell about all `ids` in their order."""
        wanted = [int(i) for i in ids]
        if new := [i for i in wanted if not self._known[i]]:
            self._remember(self.store.admit(new, read))
        usable = [i for i in wanted if i not in self._skipped]
        return Admission(
            ids=usable,
            sizes=self._sizes[usable].tolist(),
            digests=[one.decode() for one in self._digests[usable].tolist()],
            pixels=self._pixels[usable].tolist(),
            hashes=self._hashes[usable],
            constant=self._constant[usable].tolist(),
            skipped=[(i, self._skipped[i]) for i in wanted if i in self._skipped],
        )

    def _remember(self, found: Admission) -> None:
        ids = found.ids
        self._sizes[ids], self._digests[ids] = found.sizes, [one.encode() for one in found.digests]
        self._pixels[ids] = np.array(found.pixels, np.uint64)
        self._hashes[ids], self._constant[ids] = found.hashes, found.constant
        self._skipped.update(found.skipped)
        self._known[[*ids, *(i for i, _ in found.skipped)]] = True


class StoreView:
    """The store as one training sees it; see capture_cli.pixels.store.Store."""

    def __init__(self, shared: SharedPixels, n: int) -> None:
        self._shared = shared
        self.usable: npt.NDArray[np.bool_] = np.zeros(n, np.bool_)

    @property
    def held(self) -> str:
        """`memory` or `disk`."""
        return self._shared.store.held

    @property
    def tally(self) -> Tally:
        """Counts of all trainings together."""
        return self._shared.store.tally

    def admit(self, ids: Iterable[int], read: Read) -> Admission:
        """Admit files; those that another training has read are not read again."""
        admission = self._shared.admit(ids, read)
        self.usable[admission.ids] = True
        return admission

    def rows(self, ids: Ids) -> tuple[Pixels, Ids]:
        """Return pixels and the places of the images `ids` in them."""
        return self._shared.store.rows(ids)

    def close(self) -> None:
        """Do nothing: the other trainings need the store."""
