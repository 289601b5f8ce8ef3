"""Models: what `--model` can name, and how it becomes a network.

    linear              logistic regression on the pixels
    mlp                 two hidden layers on the pixels
    cnn                 a small convolutional network that sizes itself to the images
    torchvision:NAME    a classifier of torchvision with random weights, its stem and head fitted to the data
    FILE.py:FACTORY     what FACTORY(classes=, channels=, height=, width=) of that file returns; the file's code is run

    check(spec)                                                         # at once and without torch: UsageError
    model = build(spec, classes=10, channels=1, height=28, width=28)    # right after torch.manual_seed(seed)

A model maps float32 images [B, C, H, W] in [-1, 1] to logits [B, classes], and `build` has tried it. The weights are a
function of the arguments and of torch's global generator; the trial draws nothing from it. This door and `check` import no
torch, so that a mistyped name costs no waiting.
"""

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import userfile, zoo

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build", "check", "names", "notice"]

OWN = ("linear", "mlp", "cnn")


def names() -> list[str]:
    """The forms that a model can be named in, for help texts."""
    return [*OWN, f"{zoo.PREFIX}NAME", "FILE.py:FACTORY"]


def check(spec: str) -> None:
    """Raise UsageError where `spec` names no model, as far as that shows without importing torch or running a file."""
    if spec in OWN:
        return
    if spec.startswith(zoo.PREFIX):
        zoo.check(spec)
    elif userfile.parse(spec) is not None or spec.endswith(".py"):
        userfile.check(spec)
    else:
        close = difflib.get_close_matches(spec.lower(), OWN, n=1)
        choices = f"choose {', '.join(OWN)}, {zoo.PREFIX}NAME (such as {zoo.PREFIX}resnet18) or FILE.py:FACTORY"
        raise UsageError(f"there is no model {spec}", f"did you mean {close[0]}?" if close else choices)


def notice(spec: str) -> str:
    """One sentence to show before `build`, where building runs code that is not ours or torch's; else an empty string."""
    return userfile.notice(spec) if userfile.parse(spec) else ""


def build(spec: str, *, classes: int, channels: int, height: int, width: int) -> "nn.Module":
    """The model `spec` with random weights, on the CPU, for images of `channels` x `height` x `width` pixels.

    Raises UsageError where `spec` names no model, where the model cannot take such images (the hint names a size that it
    takes, if there is one), where its answer is not logits [B, classes], and where a person's own file fails.
    """
    from torch import Tensor

    check(spec)
    try:
        model = _make(spec, classes=classes, channels=channels, height=height, width=width)
        answer = _answer(model, channels, height, width)
    except UsageError:
        raise
    except Exception as error:  # code that is not ours, torchvision's or a person's, may raise anything
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        hint = _way_on(spec, classes=classes, channels=channels, height=height, width=width)
        raise UsageError(f"the model {spec} fails on {channels}x{height}x{width} images: {text}", hint) from error
    if not isinstance(answer, Tensor) or tuple(answer.shape) != (2, classes) or not answer.is_floating_point():
        got = f"{answer.dtype} {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise UsageError(f"the model {spec} answers two images with {got}", f"it must return logits of shape [2, {classes}]")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"the model {spec} has no parameter to train", "leave requires_grad on where it is to learn")
    return model


def _make(spec: str, *, classes: int, channels: int, height: int, width: int) -> "nn.Module":
    if spec in OWN:
        from . import nets

        own: dict[str, Callable[..., nn.Module]] = {"linear": nets.Linear, "mlp": nets.MLP, "cnn": nets.CNN}
        return own[spec](classes=classes, channels=channels, height=height, width=width)
    if spec.startswith(zoo.PREFIX):
        return zoo.build(spec, classes=classes, channels=channels, height=height, width=width)
    return userfile.build(spec, classes=classes, channels=channels, height=height, width=width)


def _answer(model: "nn.Module", channels: int, height: int, width: int) -> object:
    """What the model answers to two images of zeros in evaluation mode; its modes and the random state stay as they were."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(torch.zeros(2, channels, height, width))
    finally:
        for module, training in modes:
            module.training = training


def _way_on(spec: str, *, classes: int, channels: int, height: int, width: int) -> str:
    if spec.startswith(zoo.PREFIX):
        side = zoo.fitting_side(spec, channels=channels, height=height, width=width)
        return f"it takes {side}x{side}: --img-size {side}" if side else "try another --img-size or another model"
    return f"it must map float32 [B, {channels}, {height}, {width}] on the CPU to logits [B, {classes}]"
