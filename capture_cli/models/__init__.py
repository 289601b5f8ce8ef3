"""Models: the values of `--model`, and the networks they become.

    linear              logistic regression on the pixels
    mlp                 two hidden layers on the pixels
    cnn                 a small convolutional network that adapts to the image size
    torchvision:NAME    a classifier of torchvision, its head fitted to the data, and its stem if it begins with random weights
    timm:NAME           a classifier of timm, its head fitted to the data
    FILE.py:FACTORY     the result of FACTORY(classes=, channels=, height=, width=) in that file; the file's code is run

    check(spec)                                                         # at once and without torch: UsageError
    model = build(spec, classes=10, channels=1, height=28, width=28)    # right after torch.manual_seed(seed)

A model maps float32 images [B, C, H, W] in [-1, 1] to logits [B, classes], and `build` has tried it. The weights are a function
of the arguments and of torch's global generator; the trial draws nothing from it. This module and `check` do not import torch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from capture_cli.errors import UsageError, did_you_mean, quoted
from capture_cli.models import timm_zoo, userfile, zoo

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build", "check", "code_changed", "code_digest", "notice"]

BUILT_IN = ("linear", "mlp", "cnn")


def check(spec: str) -> None:
    """Raise UsageError if `spec` names no model, as far as can be told without importing torch or running a file."""
    if spec in BUILT_IN:
        return
    if spec.startswith(zoo.PREFIX):
        zoo.check(spec)
    elif spec.startswith(timm_zoo.PREFIX):
        timm_zoo.check(spec)
    elif userfile.parse(spec) is not None or spec.endswith(".py"):
        userfile.check(spec)
    else:
        choices = f"choose {', '.join(BUILT_IN)}, {zoo.PREFIX}NAME, {timm_zoo.PREFIX}NAME or FILE.py:FACTORY"
        lacks_prefix = spec.lower() in zoo.names_in_source()
        hint = f"did you mean {zoo.PREFIX}{spec.lower()}?" if lacks_prefix else did_you_mean(spec, BUILT_IN, choices)
        raise UsageError(f"there is no model '{spec}'", hint)


def notice(spec: str) -> str:
    """Return one sentence to show before `build` runs a user's code, else an empty string."""
    return userfile.notice(spec) if userfile.parse(spec) else ""


def code_digest(spec: str) -> str | None:
    """Return BLAKE2b (16 bytes, hex) of the file of FILE.py:FACTORY; None for any other model."""
    parsed = userfile.parse(spec)
    return userfile.digest(parsed[0]) if parsed else None


def code_changed(spec: str, digest: str | None) -> str:
    """Return a warning if the file of FILE.py:FACTORY is not that of `digest`; empty if it is, or `digest` is None."""
    if digest is None or code_digest(spec) == digest:
        return ""
    file = spec.rpartition(":")[0]
    return f"{file} has changed since the training: the weights were trained with other code, so results may be wrong"


def build(spec: str, *, classes: int, channels: int, height: int, width: int, original_stem: bool = False) -> "nn.Module":
    """Build the model `spec` with random weights, on the CPU, for images of `channels` x `height` x `width` pixels.

    `original_stem` leaves the first layers of a torchvision model as they are, for weights that fit them.
    Raises UsageError if `spec` names no model, if the model cannot take such images (the hint names a size that it takes, if
    there is one), if it does not return logits [B, classes], or if a user's own file fails.
    """
    from torch import Tensor

    check(spec)
    try:
        model = _make(spec, original_stem, classes=classes, channels=channels, height=height, width=width)
        output = _try(model, channels, height, width)
    except UsageError:
        raise
    except Exception as error:  # torchvision's or a user's code may raise anything
        if spec.startswith(zoo.PREFIX):
            side = zoo.fitting_side(spec, channels=channels, height=height, width=width)
            hint = f"it takes {side}x{side}: --img-size {side}" if side else "try another --img-size or another model"
        else:
            hint = f"it must map float32 [B, {channels}, {height}, {width}] on the CPU to logits [B, {classes}]"
        raise UsageError(f"the model {spec} fails on {channels}x{height}x{width} images: {quoted(error)}", hint) from error
    if not isinstance(output, Tensor) or tuple(output.shape) != (2, classes) or not output.is_floating_point():
        got = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"the model {spec} returns {got} for a batch of two images", f"it must return logits of shape [2, {classes}]"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"the model {spec} has no parameter to train", "set requires_grad=True on the parameters to train")
    return model


def _make(spec: str, original_stem: bool, **size: int) -> "nn.Module":
    if spec.startswith(zoo.PREFIX):
        return zoo.build(spec, original_stem=original_stem, **size)
    if spec.startswith(timm_zoo.PREFIX):
        return timm_zoo.build(spec, **size)
    if spec not in BUILT_IN:
        return userfile.build(spec, **size)
    from capture_cli.models import nets

    built_in: dict[str, Callable[..., nn.Module]] = {"linear": nets.Linear, "mlp": nets.MLP, "cnn": nets.CNN}
    return built_in[spec](**size)


def _try(model: "nn.Module", channels: int, height: int, width: int) -> object:
    """Run the model on two images of zeros in evaluation mode; its modes and the random state stay as they were."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(torch.zeros(2, channels, height, width))
    finally:
        for module, training in modes:
            module.training = training
