"""A trained model as a function of pictures: `capture predict`, and `load_model` in Python.

    classifier = load_model("runs/first")               # or a model.safetensors
    for one in classifier(["cat.png", Image.open("dog.png")]):
        print(one.pred, one.p_pred, one.topk(3))

Inputs are made as in `capture evaluate`, from the same bytes by the same code, so they are the same bits.

Results do not depend on the other images. The libraries below torch add up in another order for another number of rows, and
the last digits differ. So on the CPU every pass has 16 rows, filled up with zeros, whatever the batch size: the same bits.
With 8 rows the place of an image among them made a difference. On a GPU a pass has the rows of a batch, a multiple of 16.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from capture_cli.errors import CaptureError, DataError, Unusable
from capture_cli.pixels.admission import Admission, Loader
from capture_cli.pixels.choosing import PEEKED_FILES
from capture_cli.pixels.encoding import encoded
from capture_cli.pixels.geometry import MAX_PIXELS
from capture_cli.pixels.store import MemoryStore
from capture_cli.pixels.unlike import unlike
from capture_cli.preprocessing import make_batch, path_keys
from capture_cli.runfolder import BEST, MODEL
from capture_cli.runs.names import find_run
from capture_cli.runtime import Runtime, choose_device
from capture_cli.sources.named import read_named
from capture_cli.training.loading import Trained, read_trained

if TYPE_CHECKING:
    from capture_cli.pixels.encoding import Picture

ROWS = 16
"""Rows of a pass on the CPU: more gain little there, and a single image costs as much as all of them."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image."""

    file: str | None
    """Its path as it was given; None for a picture."""
    probs: Floats
    """[C] the probabilities of the classes."""
    classes: Sequence[str]

    @cached_property
    def _order(self) -> list[int]:
        """The classes, the most probable first, and of equals the first."""
        order: list[int] = np.argsort(-self.probs, kind="stable").tolist()
        return order

    @property
    def pred(self) -> str:
        """The most probable class."""
        return self.classes[self._order[0]]

    @property
    def p_pred(self) -> float:
        """Its probability."""
        return float(self.probs[self._order[0]])

    @property
    def entropy(self) -> float:
        """The entropy of the probabilities in nats: 0 if one is certain, ln C if all are equal."""
        p = self.probs.astype(np.float64)
        return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum()) + 0.0

    def topk(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities."""
        return [(self.classes[i], float(self.probs[i])) for i in self._order[:k]]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images that were predicted together. Those that cannot be used are in `unusable` alone."""

    start: int
    """Pictures before this chunk."""
    names: list[str | None]
    """[N] the paths of all, as they were given; None for a picture."""
    places: list[int]
    """[B] the places of the usable ones among all pictures."""
    predictions: list[Prediction]
    """[B]"""
    inputs: Floats
    """[B, C, H, W] as they went into the model."""
    pixels: npt.NDArray[np.uint8]
    """[B, C, H, W]"""
    sizes: list[int]
    """[B] bytes of the files."""
    digests: list[str]
    """[B] BLAKE2b (16 bytes, hex) of the files."""
    unusable: list[tuple[int, Unusable]]
    """Place among all pictures, and the reason."""


class Classifier:
    """A trained model that takes paths and pictures."""

    def __init__(
        self,
        trained: Trained,
        runtime: Runtime,
        *,
        batch_size: int = 64,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        """Build the model on the device. `workers` threads decode (None: one per processor). Raises UsageError.

        `warn` is told, once, of images of another kind than those of the training, if there are some among the first
        PEEKED_FILES.
        """
        self.classes = list(trained.header.classes)
        """Their names, in the order of the logits."""
        self.recipe = trained.recipe
        """All steps from the bytes of a file to an input."""
        self.model = trained.build().to(runtime.device).eval()
        """float32 [B, C, H, W] -> logits [B, classes]."""
        self.batch_size = -(-batch_size // ROWS) * ROWS
        """Images that are decoded together: a multiple of ROWS."""
        self._runtime = runtime
        self._rows = ROWS if runtime.device.type == "cpu" else self.batch_size
        self._loader = Loader(self.recipe.geometry_within(max_pixels), threads=workers)
        self._kinds = trained.header.kinds
        self._warn = warn
        self._looked_at = 0

    def unlike(self, files: Sequence[str], read: Callable[[str], bytes]) -> list[str]:
        """Describe what the recipe does to these files and did to no training image."""
        return unlike(files, read, self._loader.geometry, self._kinds)

    def __call__(self, pictures: Iterable[Picture] | Picture, *, skip_unusable: bool = False) -> list[Prediction | None]:
        """Predict the class of each picture: a path or an image of Pillow.

        Raises DataError at the first that cannot be used; with `skip_unusable` its prediction is None.
        """
        single = isinstance(pictures, str | os.PathLike) or hasattr(pictures, "getbands")
        found: list[Prediction | None] = []
        for chunk in self.chunks([pictures] if single else pictures):  # type: ignore[list-item,arg-type]
            if chunk.unusable and not skip_unusable:
                place, reason = chunk.unusable[0]
                raise _unusable(place, chunk.names[place - chunk.start], reason, "skip_unusable=True gives None for it")
            predicted = dict(zip(chunk.places, chunk.predictions, strict=True))
            found += map(predicted.get, range(chunk.start, chunk.start + len(chunk.places) + len(chunk.unusable)))
        return found

    def chunks(self, pictures: Iterable[Picture]) -> Iterator[Chunk]:
        """Predict `batch_size` images together, as they come."""
        waiting, start = iter(pictures), 0
        while taken := list(islice(waiting, self.batch_size)):
            yield self._predicted(taken, start)
            start += len(taken)

    def inputs(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Make the inputs of pictures: float32 [N, C, H, W], on the device. Raises DataError if one cannot be used."""
        admission, pixels = self._pictures(pictures)
        if admission.skipped:
            place, reason = admission.skipped[0]
            raise _unusable(place, _name_of(pictures[place]), reason)
        return self._inputs(pixels)

    def inputs_of(self, n: int, read: Callable[[int], bytes]) -> tuple[torch.Tensor, list[Unusable]]:
        """Make the inputs of the usable ones of `n` files; also return what is wrong with the others."""
        admission, pixels = self._admitted(n, read)
        return self._inputs(pixels), [reason for _, reason in admission.skipped]

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the model on inputs [N, C, H, W]: logits float32 [N, classes], on the CPU."""
        parts = [self._pass(inputs[start : start + self._rows]) for start in range(0, len(inputs), self._rows)]
        return torch.cat(parts) if parts else torch.zeros(0, len(self.classes))

    def _pass(self, inputs: torch.Tensor) -> torch.Tensor:
        n = len(inputs)
        if missing := -n % ROWS:
            inputs = torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])
        try:
            with torch.inference_mode(), self._runtime.autocast():
                logits: torch.Tensor = self.model(inputs)
        except torch.OutOfMemoryError as error:
            raise CaptureError("the device is out of memory", "lower --batch-size") from error
        return logits[:n].float().cpu()

    def _pictures(self, pictures: Sequence[Picture]) -> tuple[Admission, npt.NDArray[np.uint8]]:
        """Read and decode pictures as `_admitted` does, and look at the first ones."""
        if self._warn and self._looked_at < PEEKED_FILES:
            self._looked_at += len(pictures)
            named = {_name_of(one) or f"picture {i}": one for i, one in enumerate(pictures)}
            for text in self.unlike(list(named), lambda name: _bytes_of(named[name])):
                self._looked_at = PEEKED_FILES
                self._warn(text)
        return self._admitted(len(pictures), lambda i: _bytes_of(pictures[i]))

    def _admitted(self, n: int, read: Callable[[int], bytes]) -> tuple[Admission, npt.NDArray[np.uint8]]:
        """Read and decode `n` files; return the outcome, and the pixels of the usable ones [B, C, H, W]."""
        store = MemoryStore(n, self._loader)
        admission = store.admit(range(n), read)
        return admission, store.pixels[admission.ids]

    def _inputs(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        n = len(pixels)
        options: dict[str, Any] = {"seed": 0, "epoch": 1, "augment": False, "device": self._runtime.device}
        return make_batch(torch.from_numpy(pixels), np.arange(n), keys=path_keys([""] * n), recipe=self.recipe, **options)

    def _predicted(self, pictures: Sequence[Picture], start: int) -> Chunk:
        admission, pixels = self._pictures(pictures)
        inputs = self._inputs(pixels)
        probs = np.exp(self.logits(inputs).log_softmax(1).numpy())  # as in the records of `evaluate`
        names = list(map(_name_of, pictures))
        return Chunk(
            start=start,
            names=names,
            places=[start + place for place in admission.ids],
            predictions=[Prediction(names[i], row, self.classes) for i, row in zip(admission.ids, probs, strict=True)],
            inputs=inputs.cpu().numpy(),
            pixels=pixels,
            sizes=admission.sizes,
            digests=admission.digests,
            unusable=[(start + place, reason) for place, reason in admission.skipped],
        )


def load_model(run: str | os.PathLike[str], *, last: bool = False, device: str = "cpu", batch_size: int = 64) -> Classifier:
    """Load the model of a run, or a model file, as a function of pictures.

    `run` is a path, or a name as on the command line (capture_cli.runs.names). The model is that of the best epoch, or with
    `last` that of the last. `device` is cpu, cuda, cuda:N or auto. If the model came from FILE.py:FACTORY, that file's code is
    run, with a warning if it has changed since the training. Raises UsageError.
    """
    name = os.fspath(run)
    path = Path(name) if name.endswith(".safetensors") else find_run(name, having=(MODEL, BEST))
    runtime = Runtime(choose_device(device), False, torch.get_num_threads())
    trained = read_trained(path, last=last)
    if trained.warning:
        warnings.warn(trained.warning, stacklevel=2)
    return Classifier(trained, runtime, batch_size=batch_size, warn=lambda text: warnings.warn(text, stacklevel=2))


def _unusable(place: int, name: str | None, reason: Unusable, hint: str = "") -> DataError:
    return DataError(f"picture {place}{'' if name is None else f', {name!r},'} cannot be used: {reason}", hint)


def _name_of(picture: Picture) -> str | None:
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else None


def _bytes_of(picture: Picture) -> bytes:
    return read_named(os.fspath(picture)) if isinstance(picture, str | os.PathLike) else encoded(picture)
