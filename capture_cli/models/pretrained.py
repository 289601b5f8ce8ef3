"""Initial weights: `--weights DEFAULT|NAME|FILE`.

    initial = find("torchvision:resnet18", "DEFAULT")       # at once; nothing is loaded yet
    initial.inputs                                          # size, crop, filter and normalisation that they were trained with
    sentence = load(initial, model, classes=["cat", "dog"])

DEFAULT, NAME   weights that torchvision or timm publish; their libraries download and cache them
FILE            a .safetensors file, or a .pth or .pt of which only tensors are read; a run folder or its model.safetensors

The last layer is replaced, which means left as it was drawn, if the classes are others. Anything else that does not fit is an
error. Files are not trusted: nothing in them is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capture_cli import models
from capture_cli.errors import CaptureError, UsageError, quoted
from capture_cli.models import saved, timm_zoo, zoo
from capture_cli.models.freezing import head_of

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT = "DEFAULT"
MODEL_FILES = ("best.safetensors", "model.safetensors")
"""Files of a run folder: the best epoch if there is one, as for every other command."""
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_AUXILIARY = ("aux", "AuxLogits.", "head_dist.")
"""Beginnings of the names of heads that are only for training, which are not built."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class WeightInputs:
    """The inputs that weights were trained with."""

    height: int
    width: int
    resize: str
    """As in capture_cli.pixels.geometry."""
    crop_share: float
    filter: str
    mean: Sequence[float]
    """Values of each channel, for pixels from 0 to 1, like `std`."""
    std: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Weights to begin with, found but not loaded."""

    text: str
    """The value of `--weights`."""
    model: str
    """The value of `--model`."""
    path: Path | None = None
    inputs: WeightInputs | None = None
    header: saved.ModelHeader | None = None
    """The header of a model that capture saved."""
    classes: Sequence[str] | None = None
    """Names of the classes that they know, if that is known."""

    @property
    def is_local(self) -> bool:
        """True for a file, False for weights that a library publishes."""
        return self.path is not None

    @property
    def warning(self) -> str:
        """A warning if the file of code that they were trained with has changed; else empty."""
        known = self.header is not None and self.header.model == self.model
        return models.code_changed(self.model, self.header.code_digest) if self.header and known else ""


def begins_with_own_stem(initial: Initial | None) -> bool:
    """Tell if a model must be built with its first layers as they are, for these weights to fit."""
    return initial is not None and (initial.header is None or initial.header.original_stem)


def find(model: str, text: str) -> Initial:
    """Find the weights `text` for a model. Raises UsageError if there are none, or not for this model."""
    path = Path(text)
    if path.is_dir():
        path = next((path / name for name in MODEL_FILES if (path / name).is_file()), path / MODEL_FILES[-1])
    if not path.is_file() and (model.startswith((zoo.PREFIX, timm_zoo.PREFIX)) and not path.suffix):
        return _published(model, text)
    header = None
    if path.suffix == ".safetensors":
        header = saved.header_of(path)
        if header and header.model != model and {header.model, model} <= {*models.BUILT_IN}:
            raise UsageError(f"--weights {text} are of a {header.model}, and the model is {model}", f"use -m {header.model}")
    elif not path.is_file() and text == DEFAULT:
        raise UsageError(
            f"--weights {text}: nobody publishes weights of {model}",
            f"choose a model that has some, such as -m {zoo.PREFIX}resnet18, or give a .safetensors or .pth file, or a run",
        )
    elif not path.is_file():
        raise UsageError(f"--weights {text}: there is no such file or run", f"{_choices(model)}")
    elif path.suffix not in PICKLES:
        raise UsageError(
            f"--weights {text} is neither .safetensors nor .pth", "give a .safetensors, .pth or .pt file, or a run"
        )
    inputs = None if header else _usual_inputs(model)
    return Initial(text=text, model=model, path=path, inputs=inputs, header=header, classes=header.classes if header else None)


def _choices(model: str) -> str:
    published = f"{DEFAULT}, a name, " if model.startswith((zoo.PREFIX, timm_zoo.PREFIX)) else ""
    return f"give {published}a .safetensors or .pth file, or a run"


def _published(model: str, text: str) -> Initial:
    """Find weights that a library publishes."""
    if model.startswith(timm_zoo.PREFIX):
        config = timm_zoo.default_config(model if text == DEFAULT else f"{model.partition('.')[0]}.{text}")
        if not config.get("hf_hub_id") and not config.get("url"):
            raise UsageError(f"timm publishes no weights {text} of {model}", "see timm.list_pretrained(), or give a file")
        return Initial(text=text, model=model, inputs=_timm_inputs(config))
    entry = _entry(model, text)
    return Initial(text=text, model=model, inputs=_torchvision_inputs(entry), classes=entry.meta["categories"])


def _usual_inputs(model: str) -> WeightInputs | None:
    """The inputs of the weights that a library publishes for a model: those of a file are likely to have been the same."""
    if model.startswith(timm_zoo.PREFIX):
        config = timm_zoo.default_config(model)
        return _timm_inputs(config) if config else None
    if model.startswith(zoo.PREFIX):
        try:
            return _torchvision_inputs(_entry(model, DEFAULT))
        except UsageError:
            return None
    return None


def _entry(model: str, text: str) -> Any:
    """Look up weights of torchvision."""
    import torchvision.models as tv

    name = zoo.known_name(model)
    entries = {one.name: one for one in tv.get_model_weights(name)}
    if text == DEFAULT and entries:
        return tv.get_model_weights(name).DEFAULT
    if text not in entries:
        published = (
            f"choose {DEFAULT}, {', '.join(entries)}, or a file" if entries else "torchvision publishes none; give a file"
        )
        raise UsageError(f"there are no weights {text} of {model}", published)
    return entries[text]


def _torchvision_inputs(entry: Any) -> WeightInputs:
    preset = entry.transforms()
    side, scaled = preset.crop_size[0], preset.resize_size[0]
    return WeightInputs(
        height=side,
        width=side,
        resize="crop",
        crop_share=min(1.0, side / scaled),
        filter=_filter(preset.interpolation.value),
        mean=preset.mean,
        std=preset.std,
    )


def _timm_inputs(config: Mapping[str, Any]) -> WeightInputs:
    _, height, width = config["input_size"]
    return WeightInputs(
        height=height,
        width=width,
        resize={"squash": "stretch", "border": "pad"}.get(config.get("crop_mode", "center"), "crop"),
        crop_share=float(config.get("crop_pct") or 0.875),
        filter=_filter(config.get("interpolation", "bilinear")),
        mean=config["mean"],
        std=config["std"],
    )


def _filter(interpolation: str) -> str:
    return "pillow-bicubic-antialias" if interpolation == "bicubic" else "pillow-bilinear-antialias"


def load(initial: Initial, model: "nn.Module", *, classes: Sequence[str], downloads: bool = True) -> str:
    """Load the weights into a model that was just built; return a sentence for people.

    The head stays as it was drawn if the classes are others. Without `downloads`, published weights are not loaded, but their
    names and shapes are compared. Raises UsageError if the weights do not fit or cannot be had.
    """
    loads = downloads or initial.is_local
    tensors, own = _read(initial) if loads else _blank(initial), model.state_dict()
    head = head_of(model, len(classes))
    in_head = {name for name in own if head and name.startswith(f"{head[0]}.")}
    fits = all(name in tensors and tensors[name].shape == own[name].shape for name in in_head)
    replaced = bool(in_head) and not (fits and (initial.classes is None or list(initial.classes) == list(classes)))
    wanted = own.keys() - in_head if replaced else own.keys()
    ours = {name: tensors[name] for name in wanted if name in tensors}
    wrong = [
        *(f"'{name}' is missing" for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")),
        *(
            f"'{name}' is {list(tensor.shape)}, not {list(own[name].shape)}"
            for name, tensor in ours.items()
            if tensor.shape != own[name].shape
        ),
        *(f"'{name}' is unknown" for name in tensors if name not in own and not name.startswith(_AUXILIARY)),
    ]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UsageError(f"--weights {initial.text} do not fit {initial.model}: {', '.join(sorted(wrong)[:_SHOWN])}{more}")
    text = f"Weights: {initial.text}"
    if loads:
        model.load_state_dict(ours, strict=False)
    else:
        text += ", downloaded when the training begins unless they are cached"
    if not replaced:
        return f"{text}; the last layer is kept"
    known = tensors[f"{head[0]}.weight"].shape[0] if head and f"{head[0]}.weight" in tensors else None
    if known == len(classes):
        return f"{text}; the last layer is new, since its {known:,} classes are others"
    return f"{text}; the last layer is new: {len(classes):,} classes{f' instead of {known:,}' if known else ''}"


def _read(initial: Initial) -> "dict[str, torch.Tensor]":
    """Read the tensors by name. Raises UsageError, and CaptureError if they cannot be downloaded."""
    if initial.path is None:
        return _downloaded(initial)
    if initial.header:
        return saved.read(initial.path)[1]
    if initial.path.suffix == ".safetensors":
        return _stripped(saved.tensors_of(initial.path))
    import torch

    try:
        body = torch.load(initial.path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        if type(error).__name__ == "UnpicklingError":
            raise UsageError(
                f"--weights {initial.text} holds Python objects, such as a whole model, or is damaged; capture reads tensors",
                "save its state_dict: torch.save(model.state_dict(), FILE)",
            ) from error
        raise UsageError(
            f"--weights {initial.text}: no tensors can be read from it: {quoted(error)}",
            "save a state_dict: torch.save(model.state_dict(), FILE)",
        ) from error
    for name in _WRAPPERS:
        if isinstance(body, Mapping) and isinstance(body.get(name), Mapping):
            body = body[name]
            break
    if not isinstance(body, Mapping) or not all(isinstance(one, torch.Tensor) for one in body.values()):
        raise UsageError(
            f"--weights {initial.text} is no state_dict: names with tensors", "torch.save(model.state_dict(), FILE)"
        )
    return _stripped(body)


def _stripped(tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Remove what wrappers such as DataParallel put before every name."""
    found = dict(tensors)
    for prefix in _PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _blank(initial: Initial) -> "dict[str, torch.Tensor]":
    """Return tensors with the names and shapes of published weights, and no values."""
    import torch

    if initial.model.startswith(timm_zoo.PREFIX):
        return _timm_state(initial, pretrained=False)
    assert initial.inputs  # noqa: S101 - published weights have them
    assert initial.classes  # noqa: S101
    size = {"channels": len(initial.inputs.mean), "height": initial.inputs.height, "width": initial.inputs.width}
    with torch.device("meta"):
        return dict(zoo.build(initial.model, classes=len(initial.classes), original_stem=True, **size).state_dict())


def _timm_state(initial: Initial, *, pretrained: bool) -> "dict[str, torch.Tensor]":
    import timm

    name = initial.model.removeprefix(timm_zoo.PREFIX)
    name = name if initial.text == DEFAULT else f"{name.partition('.')[0]}.{initial.text}"
    return dict(timm.create_model(name, pretrained=pretrained).state_dict())


def _downloaded(initial: Initial) -> "dict[str, torch.Tensor]":
    """Get published weights through their library, which keeps them for the next time."""
    try:
        if initial.model.startswith(timm_zoo.PREFIX):
            return _timm_state(initial, pretrained=True)
        entry = _entry(initial.model, initial.text)
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except UsageError:
        raise
    except Exception as error:  # no network, a full disk, a proxy: urllib, requests and the file system raise their own
        raise CaptureError(
            f"the weights {initial.text} of {initial.model} could not be downloaded: {quoted(error)}",
            "give a file: --weights FILE.pth",
        ) from error
