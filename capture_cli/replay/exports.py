"""Inputs as files: pictures to look at, and the exact tensors.

    with Pictures(Path("seen"), force=False) as pictures, Tensors(Path("inputs.npy"), force=False) as tensors:
        for made in replay:
            pictures.write(made)        # e0000-train-b00003-s007-id42.png, a file an input
            tensors.write(made)         # float32 [N, C, H, W], row by row
        tensors.complete()              # without this the file does not stay

A picture's name is made of numbers and the phase alone, never of names in the records, which are hostile. What exists is
overwritten only with `force`, and no link is written through.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from capture_cli.errors import CaptureError, UsageError
from capture_cli.preprocessing import to_pixels
from capture_cli.replay import Made

MAX_BYTES = 2**32
"""Of tensors that nobody limited."""


class Pictures:
    """A folder of PNG files, one an input: (input / scale + centre), which is the picture that the network saw."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        """Make the folder where it is not there. Raises UsageError if it cannot be one."""
        self.count = 0
        self._folder = folder
        self._force = force
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"'{folder}' cannot be made: {error.strerror}", "--png takes a folder") from error

    def write(self, made: Made) -> None:
        """Raises UsageError for a file that exists, CaptureError for one that cannot be written."""
        from PIL import Image

        for index, one in zip(made.equal.tolist(), made.inputs, strict=True):
            pixels = to_pixels(one)
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            path = self._folder / picture_name(made, index)
            with _new(path, force=self._force) as file:
                try:
                    image.save(file, "PNG")
                except OSError as error:
                    raise _not_written(path, error) from error
            self.count += 1


def picture_name(made: Made, index: int) -> str:
    """Of the input of sample `index` of a batch."""
    batch = made.batch
    rank = f"-r{batch.rank}" if batch.rank else ""
    return f"e{batch.epoch:04d}-{batch.phase}{rank}-b{batch.batch:05d}-s{index:03d}-id{batch.ids[index]}.png"


class Tensors:
    """A .npy file, float32 [N, C, H, W] in the order of the records. It stays only if it was completed."""

    def __init__(self, path: Path, *, force: bool, limited: bool = False) -> None:
        """Begin it; more than MAX_BYTES is refused unless `limited`.

        Raises UsageError if it exists, CaptureError where it cannot be.
        """
        self.count = 0
        self._path = path
        self._limited = limited
        self._shape: tuple[int, ...] | None = None
        self._begins = self._bytes = 0
        self._complete = False
        self._file = _new(path, force=force)

    def write(self, made: Made) -> None:
        """Append [n, C, H, W]. Raises UsageError where the inputs of a run have several shapes, or are too many."""
        if self._shape is None:
            self._begin(made.inputs.shape[1:])
        if made.inputs.shape[1:] != self._shape:
            raise UsageError("the chosen inputs have several shapes, --npy takes one", "choose with --epoch or --phase")
        self._bytes += made.inputs.nbytes
        if self._bytes > MAX_BYTES and not self._limited:
            raise UsageError(
                f"the chosen inputs take more than {MAX_BYTES >> 30} GiB", "choose fewer, or say how many with --limit"
            )
        self.count += len(made.inputs)
        self._put(made.inputs)

    def complete(self) -> None:
        """Write how many there are, and let the file stay."""
        if self._shape is None:
            self._begin(())
        self._file.seek(0)
        self._header()
        if self._file.tell() != self._begins:  # numpy leaves room in a header for the first axis to grow
            raise CaptureError(f"'{self._path}' has no room for its header", "report this")
        self._file.flush()
        self._complete = True

    def _begin(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._header()
        self._begins = self._file.tell()

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, *(self._shape or ()))}
        try:
            np.lib.format.write_array_header_1_0(self._file, header)
        except OSError as error:
            raise _not_written(self._path, error) from error

    def _put(self, inputs: npt.NDArray[np.float32]) -> None:
        try:
            self._file.write(np.ascontiguousarray(inputs, "<f4").data)
        except OSError as error:
            raise _not_written(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()
        finally:
            if not self._complete:
                self._path.unlink(missing_ok=True)


def _new(path: Path, *, force: bool) -> IO[bytes]:
    """A file that was not there; with `force` in place of one that was."""
    try:
        if force:
            path.unlink(missing_ok=True)
        return path.open("xb")
    except FileExistsError as error:
        raise UsageError(f"'{path}' exists", "choose another place, or overwrite it with --force") from error
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> CaptureError:
    return CaptureError(f"'{path}' could not be written: {error.strerror}", "choose another place")
