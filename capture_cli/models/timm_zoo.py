"""Classifiers of timm (PyTorch Image Models), the optional package `timm`: `timm:NAME`, such as `timm:resnet10t`."""

import difflib
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"


def check(spec: str) -> None:
    """Raise UsageError if NAME cannot be the name of a model, or timm is not installed."""
    if not re.fullmatch(r"[A-Za-z0-9_.]+", spec.removeprefix(PREFIX)):
        raise UsageError(f"the model {spec} names no timm model", f"write its name, such as {PREFIX}resnet10t")
    if find_spec("timm") is None:
        raise UsageError(f"the model {spec} needs timm, which is not installed", "pip install 'capture-cli[timm]'")


def build(spec: str, *, classes: int, channels: int, height: int, width: int) -> "nn.Module":
    """Build the model with random weights, drawn from torch's global generator. Raises UsageError for an unknown name."""
    import timm

    config = default_config(spec)
    options: dict[str, Any] = {"img_size": (height, width)} if config.get("fixed_input_size") else {}
    model: nn.Module = timm.create_model(_name(spec), num_classes=classes, in_chans=channels, **options)
    return model


def default_config(spec: str) -> dict[str, Any]:
    """Return timm's description of the model and its default weights. Raises UsageError for an unknown name."""
    import timm

    name = _name(spec)
    if not timm.is_model(name):
        close = [PREFIX + one for one in difflib.get_close_matches(name, timm.list_models(), n=3)]
        raise UsageError(
            f"timm has no model {name}", f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        )
    config: Any = timm.get_pretrained_cfg(name)
    return dict(config.to_dict()) if config else {}


def _name(spec: str) -> str:
    return spec.removeprefix(PREFIX)
