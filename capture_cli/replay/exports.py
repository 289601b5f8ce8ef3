"""Reproduced inputs as files: pictures to look at, and the exact tensors.

    with Pictures(Path("seen"), force=False) as pictures, Tensors(Path("inputs.npy"), force=False) as tensors:
        for reproduced in replay:
            pictures.write(reproduced)      # e0001-train-b00003-s007-id42.png, one file per input
            tensors.write(reproduced)       # float32 [N, C, H, W], row by row
        tensors.complete()                  # else the file is removed

Picture names are made of numbers and the phase alone, never of names in the records, which are hostile. An existing file is
overwritten only with `force`, and nothing is written through a link.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from capture_cli.errors import CaptureError, UsageError
from capture_cli.preprocessing import to_pixels
from capture_cli.replay import Reproduced

MAX_BYTES = 2**32
"""Largest tensor file without a limit on the number of inputs."""
_HEADER_BYTES = 128
"""Length of a .npy header with few axes."""


class Pictures:
    """A folder of PNG files, one per input: the picture that the network saw."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        """Make the folder if it does not exist. Raises UsageError if that fails."""
        self.count = 0
        self._folder = folder
        self._force = force
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"'{folder}' cannot be made: {error.strerror}", "--png takes a folder") from error

    def write(self, reproduced: Reproduced) -> None:
        """Write its inputs. Raises UsageError for a file that exists, CaptureError for one that cannot be written."""
        from PIL import Image

        for index, one in zip(reproduced.equal.tolist(), reproduced.inputs, strict=True):
            pixels = to_pixels(one)
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            path = self._folder / picture_name(reproduced, index)
            file = _new(path, force=self._force)
            try:
                with file:
                    image.save(file, "PNG")
            except OSError as error:
                path.unlink(missing_ok=True)
                raise _not_written(path, error) from error
            self.count += 1


def picture_name(reproduced: Reproduced, index: int) -> str:
    """The file name for sample `index` of the batch."""
    batch = reproduced.batch
    rank = f"-r{batch.rank}" if batch.rank else ""
    return f"e{batch.epoch:04d}-{batch.phase}{rank}-b{batch.batch:05d}-s{index:03d}-id{batch.ids[index]}.png"


class Tensors:
    """A .npy file, float32 [N, C, H, W] in the order of the records, which stays only if it is completed."""

    def __init__(self, path: Path, *, force: bool, limited: bool = False) -> None:
        """Begin the file; more than MAX_BYTES is refused unless `limited`.

        Raises UsageError if it exists, CaptureError if it cannot be written.
        """
        self._path = path
        self._limited = limited
        self._shape: tuple[int, ...] | None = None
        self._count = self._bytes = 0
        self._complete = False
        self._file = _new(path, force=force)
        self._file.seek(_HEADER_BYTES)

    def write(self, reproduced: Reproduced) -> None:
        """Append its inputs. Raises UsageError if inputs have several shapes, or are too many."""
        inputs = reproduced.inputs
        self._shape = self._shape or inputs.shape[1:]
        if inputs.shape[1:] != self._shape:
            raise UsageError("the chosen inputs have several shapes, --npy takes one", "choose with --epoch or --phase")
        self._count += len(inputs)
        self._bytes += inputs.nbytes
        if self._bytes > MAX_BYTES and not self._limited:
            raise UsageError(f"the chosen inputs take more than {MAX_BYTES >> 30} GiB", "choose fewer, or set --limit")
        try:
            self._file.write(np.ascontiguousarray(inputs, "<f4").data)
        except OSError as error:
            raise _not_written(self._path, error) from error

    def complete(self) -> None:
        """Write the header, which has the number of inputs, and keep the file."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._count, *(self._shape or ()))}
        try:
            self._file.seek(0)
            np.lib.format.write_array_header_1_0(self._file, header)
            fits = self._file.tell() == _HEADER_BYTES
            self._file.flush()
        except OSError as error:
            raise _not_written(self._path, error) from error
        if not fits:
            raise CaptureError(f"the header of '{self._path}' has another size", "report this")
        self._complete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()
        except OSError as failure:
            self._complete = False
            if error is None:
                raise _not_written(self._path, failure) from failure
        finally:
            if not self._complete:
                self._path.unlink(missing_ok=True)


def _new(path: Path, *, force: bool) -> IO[bytes]:
    """A file that did not exist, or with `force` replaces one that did."""
    try:
        if force:
            path.unlink(missing_ok=True)
        return path.open("xb")
    except FileExistsError as error:
        raise UsageError(f"'{path}' exists", "choose another path, or overwrite it with --force") from error
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> CaptureError:
    return CaptureError(f"'{path}' could not be written: {error.strerror}", "choose another path")
