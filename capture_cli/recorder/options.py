"""The options of a recorder, checked, and the run record that they make.

check_choices(task, nonfinite="raise", ...)      # raises UsageError for the first that is not valid
info = run_info(["cat", "dog"], "classification", config={}, model=described(model), numbers=[], device=None)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.errors import any_of
from capture_cli.recorder.opening import inner_model
from capture_cli.recorder.validation import require
from capture_cli.records import RunInfo
from capture_cli.writer.columns import CLASSIFICATION, TASKS
from capture_cli.writer.measures import SEGMENTATION

if TYPE_CHECKING:
    import torch
    from torch import nn


def check_choices(task: str, **given: Any) -> None:
    """Raise UsageError, naming the choices, for the first of the recorder's options that is not valid."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "nonfinite": (lambda one: one in ("raise", "record"), "raise or record"),
        "on_error": (lambda one: one in ("raise", "warn"), "raise or warn"),
        "append": (lambda one: not (one and given["force"]), "one of force (overwrite the run) and append (continue it)"),
        "every": (lambda one: type(one) is int and one >= 1, "a whole number from 1"),
        "spike": (lambda one: type(one) in (int, float) and one >= 0, "a number of standard deviations, or 0 for off"),
        "ignore_index": (lambda one: type(one) is int, "a whole number"),
        "masks": (lambda one: type(one) is bool and (not one or task == SEGMENTATION), "True only for segmentation"),
        "config": (lambda one: one is None or isinstance(one, Mapping), "a mapping of names to plain values"),
    }
    require(task in TASKS, "task", task, any_of(TASKS))
    for name, (is_valid, choices) in rules.items():
        require(is_valid(given[name]), name, given[name], choices)


def of_writer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the writer that follow from those of the recorder."""
    same = ("task", "every", "probs", "inputs", "masks", "spike", "ignore_index", "sinks")
    more = {"reject_nan": settings["nonfinite"] == "raise", "unique_ids": not settings["repeats"]}
    return {name: settings[name] for name in same} | more


def described(model: nn.Module | None) -> dict[str, Any]:
    """Return class and size of a model, inside of its wrappers; nothing without a model."""
    if model is None:
        return {}
    return {"name": type(inner_model(model)).__name__, "parameters": sum(one.numel() for one in model.parameters())}


def run_info(
    classes: Sequence[str],
    task: str,
    *,
    config: Mapping[str, Any],
    model: Mapping[str, Any],
    numbers: Sequence[str],
    device: torch.device | None,
) -> RunInfo:
    """Make the run record of a recorder."""
    import torch

    from capture_cli.runtime import device_name, versions

    return RunInfo(
        config=config,
        folder="",
        classes=classes,
        number_names=numbers or None,
        task=None if task == CLASSIFICATION else task,
        model=model,
        recipe={},
        versions=versions(),
        device=device_name(device) if device else "cpu",
        threads=torch.get_num_threads(),
    )
