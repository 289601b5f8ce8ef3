"""Images that are named one by one: files, folders, patterns such as `photos/*.jpg`, in this order.

    found = named_images(["cat.png", "photos"], order=natural_order)
    data = read_named(found.files[0])

A file that is named is read whatever its extension, also through a link. Of a folder the images below it are taken, as
capture_cli.sources.folder lists them. Each file is taken once.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from capture_cli.errors import Unusable
from capture_cli.sources import MAX_FILE_BYTES, Listing, Skipped
from capture_cli.sources.access import read_file, unusable
from capture_cli.sources.folder import FolderSource


def named_images(names: Iterable[str], *, order: Callable[[list[str]], list[str]]) -> Listing:
    """List the images that `names` stand for; `order` sorts those of a folder or a pattern.

    A name that is no file is among the files too: reading it says what is wrong. Raises DataError for a folder that cannot be
    listed.
    """
    found = dict[str, None]()
    skipped = list[Skipped]()
    for name in names:
        if not os.path.lexists(name) and glob.has_magic(name):
            matching = [one for one in glob.glob(name, recursive=True) if not Path(one).is_dir()]  # noqa: PTH207 - keeps "./"
            found.update(dict.fromkeys(order(matching) or [name]))
        elif Path(name).is_dir():
            with FolderSource(name) as folder:
                listing = folder.list()
            found.update(dict.fromkeys(os.path.join(name, one) for one in order(listing.files)))  # noqa: PTH118 - keeps "./"
            skipped += [Skipped(str(Path(name, one.file)), one.reason, one.detail) for one in listing.skipped]
        else:
            found[name] = None
    return Listing(list(found), skipped)


def read_named(name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read one file by its path, also through links. Raises Unusable as capture_cli.sources.access does."""
    try:
        path = os.path.realpath(name)
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120 - bytes that are not UTF-8
    except ValueError as error:
        raise Unusable("bad-path") from error
    except OSError as error:
        raise unusable(error) from error
    try:
        return read_file(folder, os.path.basename(path), max_bytes=max_bytes)  # noqa: PTH119
    finally:
        os.close(folder)


def common_folder(files: Sequence[str]) -> str:
    """Return the deepest folder that holds all of `files`: relative to the current one, unless a file is absolute."""
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(one)) for one in files])  # noqa: PTH100, PTH120
    return folder if any(map(os.path.isabs, files)) else os.path.relpath(folder)


def names_within(folder: str, files: Sequence[str]) -> list[str]:
    """Return the names of `files` relative to `folder`."""
    return [os.path.relpath(one, folder) for one in files]
