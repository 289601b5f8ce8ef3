"""The folder of a run with folds: `config.toml`, and the run folders `fold-1`, `fold-2`, ... of its trainings.

with open_folds(out, name=name, model="cnn", force=False) as folder:
    folder.write_config(options)
    open_output(str(folder.fold(1)), ...)
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capture_cli.errors import UsageError
from capture_cli.files import write_atomically
from capture_cli.runfolder import chosen_folder, is_only_records, make_folder, not_written, opened, place_of, to_toml
from capture_cli.runfolder.names import CONFIG
from capture_cli.runfolder.removing import lock_folder, remove_run


@dataclass(frozen=True)
class FoldsFolder:
    """The folder of several trainings that are one run: its options, and a run folder for each training.

    `config.toml` tells it from a folder in which somebody collects runs.
    """

    folder: Path
    """As it was called."""
    descriptor: int

    @property
    def place(self) -> Path:
        """The folder where it is now."""
        return Path(place_of(self.folder, self.descriptor))

    def fold(self, number: int) -> Path:
        """Return the run folder of a training, counted from 1."""
        return self.place / f"fold-{number}"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Save the options, by which the run is resumed."""
        try:
            write_atomically(self.descriptor, CONFIG, to_toml(config))
        except OSError as error:
            raise not_written(f"'{self.folder / CONFIG}'", error, self.descriptor) from error


@contextlib.contextmanager
def open_folds(out: str | None, *, name: str | None, model: str, force: bool) -> Iterator[FoldsFolder]:
    """Make the folder of a run with folds, as `open_output` chooses it, and hold its lock.

    With `force` an earlier run there is removed. Raises as `open_output` and `remove_run`.
    """
    if out is not None and name is not None:
        raise UsageError("--out and --name both say where the run goes", "give one of them")
    if is_only_records(out):
        raise UsageError("--folds needs a run folder", "give -o a folder, or --name")
    folder = chosen_folder(out, name, model)
    if make_folder(folder, force=force):
        remove_run(folder)
        make_folder(folder, force=False)
    with reopen_folds(folder) as made:
        yield made


@contextlib.contextmanager
def reopen_folds(folder: Path) -> Iterator[FoldsFolder]:
    """Open the folder of a run with folds, and hold its lock. Raises UsageError if another process does."""
    with opened(folder) as descriptor:
        lock_folder(folder, descriptor)
        yield FoldsFolder(folder, descriptor)
    os.close(descriptor)
