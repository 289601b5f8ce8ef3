"""torchvision's classifiers with random weights, fitted to the data: `torchvision:NAME`.

NAME is anything that `torchvision.models.list_models(module=torchvision.models)` lists. Head and stem are fitted:

- Auxiliary heads are off (GoogLeNet, Inception v3), so that training and evaluation return one tensor of logits.
- The first convolution takes the images' channels; its weights are drawn with the spread that keeps its output's variance.
- On images of at most 64 pixels the ResNet family begins with a 3x3 convolution of stride 1, and on at most 32 without its
  max-pool, as is usual for such images: the stem made for 224 pixels would leave a 1x1 map.

Some models need a certain size (Inception v3 at least 75 pixels, MaxViT multiples of 224, ViT squares of whole patches).
"""

import inspect
import re
import typing
from collections.abc import Collection, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError, any_of, closest

if TYPE_CHECKING:
    from torch import nn

PREFIX = "torchvision:"
RESNET_STEM_UP_TO = 64  # pixels of the longer side
RESNET_POOL_ABOVE = 32
SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384)  # tried for a hint, in pixels


def check(spec: str) -> None:
    """Raise UsageError, with the closest names, if torchvision has no such model: from its source, without importing it."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", spec.removeprefix(PREFIX)):
        raise UsageError(f"the model {spec} names no torchvision model", f"write its name, such as {PREFIX}resnet18")
    if known := names_in_source():
        _demand_known(spec.removeprefix(PREFIX), sorted(known))


def known_name(spec: str) -> str:
    """Return NAME. Raises UsageError, with the closest names, if torchvision has no such model."""
    import torchvision.models as tv

    name = spec.removeprefix(PREFIX)
    _demand_known(name, tv.list_models(module=tv))
    return name


def _demand_known(name: str, known: Collection[str]) -> None:
    if name not in known:
        close = any_of(PREFIX + one for one in closest(name, known, 3))
        hint = f"did you mean {close}?" if close else f"one that it has is {PREFIX}resnet18"
        raise UsageError(f"torchvision has no classifier {name}", hint)


@lru_cache
def names_in_source() -> frozenset[str]:
    """Return the names of the classifiers that torchvision's source registers, in 5 ms; none if the source is not there."""
    return frozenset(name for text in source_of("torchvision") for name in _REGISTERED.findall(text))


_REGISTERED = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def source_of(package: str) -> Iterator[str]:
    """Yield the source of each module in `PACKAGE.models`, without importing it."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "models").glob("*.py")):
            yield path.read_text("utf-8", errors="replace")


def build(spec: str, *, classes: int, channels: int, height: int, width: int, original_stem: bool = False) -> "nn.Module":
    """Build the model with random weights, drawn from torch's global generator; `original_stem` leaves its first layers as is.

    Raises UsageError, with the closest names, if torchvision has no such model. A size that the model cannot take raises what
    torchvision raises (RuntimeError, ValueError, AssertionError), here or in the first forward pass.
    """
    import torchvision.models as tv

    factory = tv.get_model_builder(known_name(spec))
    accepted = inspect.signature(typing.get_type_hints(factory)["return"]).parameters
    # init_weights: their default, given explicitly, which avoids the warning that the default may change.
    options = {"image_size": height, "input_size": (height, width), "aux_logits": False, "init_weights": True}
    model: nn.Module = factory(weights=None, num_classes=classes, **{key: options[key] for key in options if key in accepted})
    if not original_stem:
        _fit_stem(model, channels, longer_side=max(height, width))
    elif hasattr(model, "transform_input"):  # GoogLeNet and Inception were trained with another normalisation
        model.__dict__["transform_input"] = True
    return model


def fitting_side(spec: str, *, channels: int, height: int, width: int) -> int | None:
    """Find the side in pixels of square images that the model takes: the next larger one in SIZES, else the next smaller.

    None if there is none, or if the size at hand works and something else must have failed.
    """
    if _takes(spec, channels, height, width):
        return None
    longer = max(height, width)
    order = [*(side for side in SIZES if side >= longer), *(side for side in reversed(SIZES) if side < longer)]
    return next((side for side in order if _takes(spec, channels, side, side)), None)


def _takes(spec: str, channels: int, height: int, width: int) -> bool:
    """Test whether the shapes work out, on torch's meta device: no memory, hardly any time."""
    import torch

    try:
        with torch.device("meta"), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model = build(spec, classes=2, channels=channels, height=height, width=width).eval()
            model(torch.zeros(2, channels, height, width))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def _fit_stem(model: "nn.Module", channels: int, *, longer_side: int) -> None:
    import torch
    from torch import nn
    from torchvision.models import ResNet

    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    if isinstance(model, ResNet) and longer_side <= RESNET_STEM_UP_TO:
        model.conv1 = nn.Conv2d(channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        if longer_side <= RESNET_POOL_ABOVE:
            model.maxpool = nn.Identity()
    elif channels != old.in_channels:
        geometry: dict[str, Any] = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        new = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **geometry)
        with torch.no_grad():
            new.weight.normal_().mul_(old.weight.std() * (old.in_channels / channels) ** 0.5)
            if new.bias is not None:
                new.bias.zero_()
        model.set_submodule(name, new)
