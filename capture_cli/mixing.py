"""Inputs mixed with those of another sample of their batch: mixup and cutmix.

    mixing = Mixing(mixup=0.2, cutmix=1.0, seed=0)
    mix = mixing.draw(epoch=3, batch=17, size=64, height=32, width=32)      # None: this batch is not mixed
    inputs = mix.apply(inputs, inputs[mix.partners])

The partner of a sample is the one before it in the batch. One weight is drawn for a batch, from Beta(alpha, alpha), by
(seed, epoch, number of the batch) alone. The record holds all of it, so replay draws nothing.

mixup     weight * input + (1 - weight) * partner (Zhang et al. 2018)
cutmix    a rectangle of the partner, of (1 - weight) of the area, is pasted into the input (Yun et al. 2019)

Sums and products of float32 are rounded one by one, so CPU, CUDA and numpy agree in every bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import xxhash

from capture_cli.errors import RecordsError

METHODS = ("mixup", "cutmix")
_BOX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The mixing of one batch of B samples."""

    method: str
    weight: float
    """Share of a sample's own label in the loss: of its own input, or of its area."""
    partners: Sequence[int]
    """[B] position of each sample's partner in the batch."""
    box: Sequence[int] | None = None
    """top, left, height and width of the rectangle, in pixels; for cutmix."""

    def apply(self, inputs: Any, partners: Any) -> Any:
        """Mix inputs [n, C, H, W] with as many of their partners; torch or numpy, float32."""
        if self.box is None:
            return inputs * self.weight + partners * (1 - self.weight)
        top, left, height, width = self.box
        rows, columns = slice(top, top + height), slice(left, left + width)
        mixed = inputs.clone() if hasattr(inputs, "clone") else inputs.copy()
        mixed[:, :, rows, columns] = partners[:, :, rows, columns]
        return mixed

    def to_json(self, labels: Sequence[int]) -> dict[str, Any]:
        """Return what a batch record holds; `labels` [B] are those of the partners."""
        body = {"method": self.method, "weight": self.weight, "partners": list(self.partners), "labels": list(labels)}
        return body if self.box is None else {**body, "box": list(self.box)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any], *, size: int) -> Self:
        """Read the `mix` of a batch record of `size` samples, which may come from anywhere. Raises RecordsError."""
        box = body.get("box")
        weight, partners = body.get("weight"), body.get("partners")
        valid = body.get("method") in METHODS and (body["method"] == "cutmix") == (box is not None)
        valid = valid and isinstance(weight, int | float) and 0 <= weight <= 1
        valid = valid and isinstance(partners, list) and len(partners) == size
        valid = valid and all(type(one) is int and 0 <= one < size for one in partners or ())
        valid = valid and (box is None or (isinstance(box, list) and len(box) == _BOX and all(map(_is_side, box))))
        if not valid:
            raise RecordsError("a batch record whose mix does not fit")
        return cls(method=body["method"], weight=float(body["weight"]), partners=body["partners"], box=box)


def _is_side(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """The options of a run; with both methods, each batch takes one of them."""

    mixup: float
    """alpha; 0: off."""
    cutmix: float
    seed: int

    def draw(self, *, epoch: int, batch: int, size: int, height: int, width: int) -> Mix | None:
        """Draw the mixing of a batch; None if it is off, or the batch has a single sample."""
        alphas = [alpha for alpha in (self.mixup, self.cutmix) if alpha]
        if not alphas or size < 2:
            return None
        key = xxhash.xxh3_64_intdigest(f"capture:mix:{self.seed}:{epoch}:{batch}".encode())
        random = np.random.Generator(np.random.Philox(key))
        is_mixup = bool(self.mixup) and (len(alphas) == 1 or bool(random.integers(2)))
        alpha = self.mixup if is_mixup else self.cutmix
        weight = float(np.float32(random.beta(alpha, alpha)))
        partners = [(position - 1) % size for position in range(size)]
        if is_mixup:
            return Mix(method="mixup", weight=weight, partners=partners)
        side = (1 - weight) ** 0.5
        rows, columns = round(side * height), round(side * width)
        top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
        weight = 1 - rows * columns / (height * width)
        return Mix(method="cutmix", weight=weight, partners=partners, box=[top, left, rows, columns])
