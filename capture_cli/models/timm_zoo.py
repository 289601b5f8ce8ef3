"""Classifiers of timm (PyTorch Image Models), the optional package `timm`: `timm:NAME`, such as `timm:resnet10t`."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from capture_cli.errors import UsageError, any_of, closest
from capture_cli.models.zoo import source_of

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"


def check(spec: str) -> None:
    """Raise UsageError if NAME is in none of timm's files, as the name of a model would be, or timm is not installed."""
    if not re.fullmatch(r"[A-Za-z0-9_.]+", spec.removeprefix(PREFIX)):
        raise UsageError(f"the model {spec} names no timm model", f"write its name, such as {PREFIX}resnet10t")
    if find_spec("timm") is None:
        raise UsageError(f"the model {spec} needs timm, which is not installed", "pip install 'capture-cli[timm]'")
    texts = list(source_of("timm"))
    name = _name(spec).partition(".")[0]  # behind the dot are the weights
    if texts and not any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts):
        known = sorted({one for text in texts for one in _REGISTERED.findall(text)})
        raise _unknown(name, known)


_REGISTERED = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    close = any_of(PREFIX + one for one in closest(name, known, 3))
    return UsageError(f"timm has no model {name}", f"did you mean {close}?" if close else "see timm.list_models()")


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
        raise _unknown(name, timm.list_models())
    config: Any = timm.get_pretrained_cfg(name)
    return dict(config.to_dict()) if config else {}


def _name(spec: str) -> str:
    return spec.removeprefix(PREFIX)
