"""`capture train FOLDER --dry-run`: all that precedes a training, without a run and without downloads."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
import typer

from capture_cli import models
from capture_cli.cli.arguments import warn
from capture_cli.cli.session import warnings_of
from capture_cli.cli.streams import other_code
from capture_cli.cli.terminal import terminal_width
from capture_cli.plan import Plan, plan_folds
from capture_cli.runfolder import check_output
from capture_cli.training.preparing import Ready, prepare
from capture_cli.training.resuming import check_continuation, read_previous_run
from capture_cli.views.terminal.labels import show_scan
from capture_cli.views.terminal.text import safe


def show_plan(plan: Plan, options: Mapping[str, Any]) -> None:
    """Print the labels, the inputs, the network, and the options in the form of a config file.

    `options` are those of `capture train`. Raises as the training would. Published weights are compared with the network by
    their names and shapes.
    """
    config, resume = plan.config, options["resume"]
    if resume is None:
        needs = "--folds" if config.folds else "--inputs all" if config.inputs == "all" else ""
        needs = needs or "--tensorboard" * options["tensorboard"]
        place = {name: options[name] for name in ("name", "force")}
        check_output(options["out"], model=config.model, needs_folder=needs, **place)
    with other_code():
        ready = prepare(plan_folds(plan)[0] if config.folds else plan, downloads=False)
    if resume is not None and not config.folds:
        _show_continuation(ready, Path(resume), allow_env_change=options["allow_env_change"])
    if notice := models.notice(config.model):
        typer.echo(safe(notice), err=True)
    for text in warnings_of(plan):
        warn(text)
    show_scan(plan.scan, width=terminal_width())
    if config.folds:
        typer.echo(f"folds: {config.folds}, each image is held out once")
    typer.echo(f"inputs: {safe(plan.inputs)}")
    parameters = list(ready.model.parameters())
    frozen = sum(one.numel() for one in parameters if not one.requires_grad)
    said = (
        f"{config.model}, {sum(one.numel() for one in parameters):,} parameters{f', {frozen:,} of them frozen' * bool(frozen)}"
    )
    typer.echo(safe(f"network: {said}"))
    for note in ready.notes:
        typer.echo(safe(note[0].lower() + note[1:]))
    typer.echo()
    typer.echo(tomli_w.dumps(replace(config, lr=config.learning_rate).to_dict()).rstrip())


def _show_continuation(ready: Ready, folder: Path, *, allow_env_change: bool) -> None:
    """Say on stderr where the run in `folder` continues. Raises where these options and images do not continue it."""
    previous = read_previous_run(folder)
    if previous.info and ready.plan.initial and not ready.plan.initial.is_local:  # their values are not known here
        ready = replace(ready, initial_digest=previous.info.model.get("initial_digest", ""))
    warnings, _ = check_continuation(previous, ready.run_info(), ready.plan.scan.files, allow_env_change=allow_env_change)
    for text in (previous.sentence, *warnings):
        typer.echo(safe(text), err=True)
