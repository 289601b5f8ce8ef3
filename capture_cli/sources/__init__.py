"""Image sources: list images and read them by name. A folder is the first one (capture_cli.sources.folder).

    with FolderSource("photos") as source:
        files, skipped = source.list()          # names of images; everything else, with a reason
        data = source.read("cat/1.png")         # bytes, or Unusable

Code above this room takes a `Source` and knows nothing of folders. A name is a relative path with `/` between its parts: the
bytes on disk decoded as UTF-8 with surrogateescape, whatever the locale. Two names that differ only in case or in Unicode
normal form are different files.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

MAX_FILE_BYTES = 2**29  # the largest file that is read: 67 megapixels as an uncompressed TIFF with 8 bytes per pixel
IMAGE_EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File name extensions of images, in any case; what the file holds decides how it is read."""


class Skipped(NamedTuple):
    """An entry of a source that is not used. The name of a folder ends in `/`."""

    file: str
    reason: str
    """A short code, such as `symlink`."""
    detail: str = ""


class Listing(NamedTuple):
    """All entries of a source, in no particular order."""

    files: list[str]
    """Files with an image extension."""
    skipped: list[Skipped]


class Source(Protocol):
    """A collection of files that can be listed and read by name. Any number of threads may read."""

    @property
    def name(self) -> str:
        """The source as the user named it, for messages; not escaped."""

    @property
    def location(self) -> str:
        """Its absolute path or URI."""

    def list(self) -> Listing:
        """List images without opening any. Raises UsageError if there is no such source, DataError if it cannot be listed."""

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Read one file. Raises Unusable if the file is to blame, CaptureError if this process is."""

    def close(self) -> None:
        """Release what is open. May be called twice; a later call opens the source again."""


class TypedSource(Source, Protocol):
    """A source as it was typed on the command line, which may have a second folder of images, for validation."""

    @property
    def typed(self) -> Sequence[str]:
        """The arguments that name it on the command line."""

    @property
    def within(self) -> str:
        """The beginning that all names have, but those for validation: empty, or a folder and `/`."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, without opening it. Raises as `read` does."""

    @property
    def val(self) -> str | None:
        """The beginning of the names of images for validation, if a folder of them was named."""


def is_image(name: str) -> bool:
    """Tell by its extension whether a file is an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS)
