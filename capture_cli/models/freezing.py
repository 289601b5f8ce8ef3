"""The head of a classifier, and the layers before it that a training leaves as they are.

head = head_of(model, classes=10)               # ("fc", Linear), the last layer with 10 outputs
frozen = freeze(model, "backbone", classes=10)  # their weights get no gradient; keep them in evaluation mode
"""

from typing import TYPE_CHECKING

from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

BACKBONE = "backbone"


def head_of(model: "nn.Module", classes: int) -> "tuple[str, nn.Module] | None":
    """Find the last layer with one output for each class: its name and the layer; None if there is none."""
    from torch import nn

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for name, layer in reversed(layers):
        if layer.weight.shape[0] == classes:
            return name, layer
    return None


def freeze(model: "nn.Module", what: str | None, *, classes: int) -> "list[nn.Module]":
    """Freeze all but the head (`backbone`), or the first N layers or blocks; return the modules that are frozen.

    Statistics of batch normalisation stay as they are too, if these modules are kept in evaluation mode. Raises UsageError if
    the model has no head, or not so many layers.
    """
    if what is None:
        return []
    head = head_of(model, classes)
    if head is None:
        raise UsageError(f"--freeze {what}: the model has no last layer with {classes} outputs", "drop --freeze")
    others = [block for block in _blocks(model) if head[1] not in set(block.modules())]
    count = len(others) if what == BACKBONE else int(what)
    if count > len(others):
        raise UsageError(f"--freeze {what}: the model has {len(others)} layers before its head", "freeze fewer, or backbone")
    frozen: list[nn.Module] = []
    for block in others[:count]:
        block.requires_grad_(False)
        frozen += [one for one in block.modules() if [*one.parameters(recurse=False), *one.buffers(recurse=False)]]
    if what == BACKBONE:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        head[1].requires_grad_(True)
    return frozen


def _blocks(model: "nn.Module") -> "list[nn.Module]":
    """List the layers and blocks with weights in their order; sequences are taken apart."""
    from torch import nn

    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            found += _blocks(child)
        elif any(True for _ in child.parameters()):
            found.append(child)
    return found
