"""The augmentations of `--augment`, and those that torchvision carries out.

    steps = parse("flip,rotate:15,color")               # ValueError, with the choices, for anything else
    canonical("flip, rotate")                           # "flip,rotate:15"
    augmented(batch, steps, keys=keys, seed=0, epoch=3) # uint8 [B, C, H, W]

    flip            mirror left to right, one half of the pictures
    crop            move by up to an eighth of each side; what comes in is reflected
    rotate:DEGREES  turn by up to so many degrees either way; the corners are black
    color:STRENGTH  change brightness, contrast and saturation by up to this share, and the hue by up to a quarter of it
    randaugment:M   two of torchvision's 14 operations, of magnitude M of 30 (Cubuk et al. 2020)
    erase:SHARE     blacken a rectangle in this share of the pictures (Zhong et al. 2020)

capture_cli.preprocessing flips and crops; the others are torchvision.transforms.v2 on uint8 and follow in the order given. Each
picture is transformed alone, by one thread, after torch's generator is seeded with a number drawn from (seed, epoch, path). So
its input does not depend on the batch, and replay makes it again. Torch is imported only where torchvision is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torchvision.transforms import v2

    from capture_cli.keyed_random import Keys

NONE = "none"
PLAIN = ("flip", "crop")
AMOUNTS: Mapping[str, tuple[float, float, float]] = {
    "rotate": (15, 0, 180),
    "color": (0.4, 0, 1),
    "randaugment": (9, 0, 30),
    "erase": (0.25, 0, 1),
}
"""The default amount of a step, and its limits."""
CHOICES = "none, or flip, crop, rotate:DEGREES, color:STRENGTH, randaugment:MAGNITUDE, erase:SHARE, separated by commas"
_MAGNITUDES = 31


class Step(NamedTuple):
    """One augmentation."""

    name: str
    amount: float | None = None

    def __str__(self) -> str:
        return self.name if self.amount is None else f"{self.name}:{self.amount:g}"


def parse(text: str) -> tuple[Step, ...]:
    """Parse names separated by commas (or +), each with an amount if it takes one. Raises ValueError."""
    if text == NONE:
        return ()
    steps = tuple(_step(one.strip()) for one in re.split("[,+]", text))
    if len({step.name for step in steps}) < len(steps):
        raise ValueError(f"{text!r} names an augmentation twice")
    return steps


def _step(text: str) -> Step:
    name, colon, amount = text.partition(":")
    if name in PLAIN and not colon:
        return Step(name)
    if name not in AMOUNTS or (colon and not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", amount)):
        raise ValueError(f"{text!r} is no augmentation")
    default, least, most = AMOUNTS[name]
    value = float(amount) if colon else default
    if not least < value <= most or (name == "randaugment" and value != int(value)):
        raise ValueError(f"{text!r} is beyond {least:g} to {most:g}")
    return Step(name, value)


def canonical(text: str) -> str:
    """Write augmentations in the one way in which they are recorded: flip and crop first. Raises ValueError."""
    steps = parse(text)
    names = [step.name for step in steps]
    plain = [name for name in PLAIN if name in names]
    others = [str(step) for step in steps if step.name not in PLAIN]
    if others:
        return ",".join([*plain, *others])
    return "+".join(plain) or NONE


def is_canonical(text: object) -> bool:
    """Return True for what `canonical` returns."""
    try:
        return isinstance(text, str) and canonical(text) == text
    except ValueError:
        return False


@lru_cache
def names(text: str) -> frozenset[str]:
    """Return the names of the augmentations in `text`."""
    return frozenset(step.name for step in parse(text))


@lru_cache
def torchvision_steps(text: str) -> tuple[Step, ...]:
    """Return the augmentations in `text` that torchvision carries out."""
    return tuple(step for step in parse(text) if step.name not in PLAIN)


def augmented(
    batch: npt.NDArray[np.uint8], steps: Sequence[Step], *, keys: Keys, seed: int, epoch: int
) -> npt.NDArray[np.uint8]:
    """Transform pictures uint8 [B, C, H, W], in place; `keys` [B] are those of the samples."""
    import torch

    from capture_cli.keyed_random import draw

    transform = _transform(tuple(steps))
    state, threads = torch.default_generator.get_state(), torch.get_num_threads()
    torch.set_num_threads(1)  # sums over a picture have other bits with other numbers of threads
    try:
        for picture, number in zip(batch, draw(keys, seed=seed, epoch=epoch, purpose="augment").tolist(), strict=True):
            torch.default_generator.manual_seed(number >> 1)
            picture[...] = transform(torch.from_numpy(picture)).numpy()
    finally:
        torch.set_num_threads(threads)
        torch.default_generator.set_state(state)
    return batch


@lru_cache
def _transform(steps: tuple[Step, ...]) -> v2.Transform:
    from torchvision.transforms import v2

    def made(step: Step) -> v2.Transform:
        amount = step.amount or 0.0
        if step.name == "rotate":
            return v2.RandomRotation(amount, interpolation=v2.InterpolationMode.BILINEAR)
        if step.name == "color":
            return v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount, hue=amount / 4)
        if step.name == "randaugment":
            return v2.RandAugment(magnitude=int(amount), num_magnitude_bins=_MAGNITUDES)
        return v2.RandomErasing(p=amount)

    return v2.Compose([made(step) for step in steps])


def versions() -> dict[str, Any]:
    """Return the software, and the CPU features, on which the bits of torchvision's augmentations depend."""
    from importlib.metadata import version

    import torch

    return {"torch": torch.__version__, "torchvision": version("torchvision"), "cpu": torch.backends.cpu.get_cpu_capability()}
