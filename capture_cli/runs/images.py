"""The images of a run, found again and verified, also after the folder was moved.

    run.images.read("cat/1.png")            # the bytes that the run used
    run.images_in("/mnt/photos")            # where the images are now

Records come from anywhere, so a folder named in them is only a hint: nothing but regular files beneath it is opened
(capture_cli.sources.access), and only bytes with the recorded digest are handed out.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli.errors import CaptureError, RecordsError, Unusable, UsageError
from capture_cli.records import Samples
from capture_cli.records.values import loads
from capture_cli.runs.names import fold_folders
from capture_cli.sources import MAX_FILE_BYTES, Listing
from capture_cli.sources.access import opened, read_file

if TYPE_CHECKING:
    from capture_cli.runs.run import Run

EVENTS = "events.jsonl"
_EVENTS_BYTES = 64 << 20
_MAX_FOLDERS = 8


class RunImages:
    """A source (capture_cli.sources.Source) of the images that a run names. Any number of threads may read."""

    def __init__(self, run: Run, folder: str | Path | None = None) -> None:
        """Read from `folder`; without one from each of these that exists, in this order:

        1. The folder as it was recorded, seen from the current directory. It is what the user typed, and still leads to the
           images of a project that was moved or copied with them.
        2. The absolute folders in the run's events.jsonl, newest first: a run resumed elsewhere notes where that was.

        A file comes from the first that has it with the recorded digest, so a folder that only has the same name does no harm.
        Raises UsageError if none exists, RecordsError if the run record cannot be read.
        """
        self.folders: list[Path] = []
        """Folders that exist, in the order in which they are searched."""
        self._run = run
        self._digests: dict[str, str] | None = None
        self._descriptors: list[int] = []
        self._stack = ExitStack()
        if folder is not None:
            self._open(Path(folder))
            return
        for name in islice(dict.fromkeys(_recorded(run)), _MAX_FOLDERS):
            with suppress(CaptureError):
                self._open(Path(name))
        if not self.folders:
            raise UsageError(
                f"the folder '{run.info.folder}' of this run is not here", "--folder PATH says where its images are now"
            )

    @property
    def name(self) -> str:
        """The folder that is searched first."""
        return str(self.folders[0])

    @property
    def location(self) -> str:
        """The absolute path of the same."""
        return str(self.folders[0].absolute())

    def list(self) -> Listing:
        """List the run's samples by name, in the order of the records. One pass over the run; no file is looked for."""
        return Listing([file for samples in self._samples() for file in samples.files], [])

    def read(self, name: str, digest: str | None = None, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of an image as the run used it, verified.

        `digest` is the recorded BLAKE2b (16 bytes, hex) if the caller has it; else the first call looks all up in one pass over
        the run. Raises Unusable: `missing`, `changed` since the run, or as `read_file` does.
        """
        if digest is None:
            if self._digests is None:
                pairs = (zip(samples.files, samples.digests, strict=True) for samples in self._samples())
                self._digests = dict(chain.from_iterable(pairs))
            if name not in self._digests:
                raise Unusable("missing", "no sample of this run has that name")
            digest = self._digests[name]
        failure = Unusable("missing")
        for descriptor in self._descriptors:
            try:
                data = read_file(descriptor, name, max_bytes=max_bytes)
            except Unusable as error:
                if failure.reason == "missing":
                    failure = error
                continue
            now = blake2b(data, digest_size=16).hexdigest()
            if now == digest:
                return data
            failure = Unusable("changed", f"its BLAKE2b was {digest}, is {now}")
        raise failure

    def close(self) -> None:
        """Close the folders. May be called twice."""
        self._stack.close()
        self._descriptors.clear()

    def _open(self, folder: Path) -> None:
        self._descriptors.append(self._stack.enter_context(opened(folder)))
        self.folders.append(folder)

    def _samples(self) -> Iterator[Samples]:
        return (block for block in self._run.blocks() if isinstance(block, Samples))


def _recorded(run: Run) -> Iterator[str]:
    """Folders that the run names, the most likely first."""
    if run.info.folder:
        yield run.info.folder
    for folder in [] if run.folder is None else fold_folders(run.folder)[::-1] or [run.folder]:
        with suppress(Unusable):
            events = io.BytesIO(read_file(folder, EVENTS, max_bytes=_EVENTS_BYTES))
            yield from reversed(deque(_noted(events), maxlen=64))


def _noted(events: Iterable[bytes]) -> Iterator[str]:
    for line in events:
        with suppress(RecordsError):
            event = loads(line) if b'"folder_absolute"' in line else {}
            if event.get("event") == "start":
                folder = event.get("folder_absolute")
                if isinstance(folder, str) and folder.startswith("/"):
                    yield folder
