"""`capture train FOLDER --folds K`: one training after the other, each of which holds out other images."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from capture_cli.answers.summary import summarise
from capture_cli.cli.session import session
from capture_cli.cli.sinks import SinkOptions, prepared
from capture_cli.cli.streams import other_code
from capture_cli.config import Every
from capture_cli.errors import UsageError
from capture_cli.pixels.sharing import SharedPixels
from capture_cli.plan import Plan, plan_folds
from capture_cli.resources import Resources
from capture_cli.runfolder import open_output, reopen_output
from capture_cli.runfolder.folds import FoldsFolder, open_folds, reopen_folds
from capture_cli.runs import open_run
from capture_cli.training.folds import previous_training, shared_pixels
from capture_cli.training.job import Session, Shared, run_training
from capture_cli.training.preparing import prepare
from capture_cli.training.resuming import PreviousRun, check_continuation, is_done
from capture_cli.views.terminal.text import safe


def train_folds(plan: Plan, options: Mapping[str, Any], *, every: Every, resources: Resources, wanted: SinkOptions) -> int:
    """Train each fold, or those that an earlier process has not completed; return the exit code.

    `options` are those of `capture train`. Raises as a single training does.
    """
    plans, resume = plan_folds(plan), options["resume"]
    if resume is None:
        with other_code():
            prepare(plans[0])  # whatever is wrong with the options is said before a folder is made
        place = {name: options[name] for name in ("out", "name", "force")}
        opened = open_folds(place.pop("out"), model=plan.config.model, **place)
    else:
        opened = reopen_folds(Path(resume))
    with opened as folder:
        folds = _Folds(folder, options, every, resources, wanted)
        with shared_pixels(plan, resources, folds.warn) as pixels:
            for one in plans:
                if code := folds.train(one, pixels):
                    return code
        if not folds.trained:
            raise UsageError(
                f"'{folder.place}' has completed the {plan.config.epochs} epochs of its {len(plans)} folds",
                f"add more with --epochs, such as {plan.config.epochs + 1}",
            )
        folds.show_end()
    return 0


class _Folds:
    """The trainings of one run."""

    def __init__(
        self, folder: FoldsFolder, options: Mapping[str, Any], every: Every, resources: Resources, wanted: SinkOptions
    ) -> None:
        self.trained = 0
        """Trainings of this process."""
        self._folder, self._options = folder, options
        self._every, self._resources, self._wanted = every, resources, wanted
        self._session: Session | None = None
        self._warned: set[str] = set()
        self._code: str | None = None
        """Digest of the file of code that built the models so far."""
        self._digests: dict[str, str | None] = {}
        """Digests of the files that trainings of earlier processes have read."""

    def warn(self, text: str) -> None:
        """Show a warning about pixels in the training under way."""
        if self._session:
            self._session.warn(text, "pixels")

    def train(self, plan: Plan, pixels: SharedPixels) -> int:
        """Train one fold, unless that is done; return the exit code if it was stopped, else 0."""
        number = (plan.fold or {})["number"]
        place, allowed = self._folder.fold(number), self._options["allow_env_change"]
        previous = previous_training(place)
        if previous and self._is_done(plan, previous):
            return 0
        with prepared(plan, self._wanted_of(number)) as (ready, sinks):
            if self.trained and ready.code_digest != self._code:
                file, where = plan.config.model.rpartition(":")[0], shlex.quote(str(self._folder.place))
                hint = f"restore it, and resume with: capture train --resume {where}; or start a new run"
                raise UsageError(f"{file} has changed since the run began", hint)
            self._code = ready.code_digest
            told: dict[str, Any] = {}
            repeat_info = False
            if previous is None:
                needs = "--inputs all" if plan.config.inputs == "all" else ""
                open_run = partial(open_output, str(place), name=None, model="", force=False, needs_folder=needs)
            else:
                warnings, tail = check_continuation(previous, ready.run_info(), plan.scan.files, allow_env_change=allowed)
                open_run = partial(reopen_output, previous.folder, previous.position, tail)
                told = {"notes": [previous.sentence], "warnings": warnings, "earlier": previous.epochs}
                repeat_info = tail != "compare" or previous.repeats_info
            told |= {"introduced": self.trained > 0, "run": str(self._folder.place)}
            view = {name: self._options[name] for name in ("preview", "quiet")}
            if not self.trained:  # not before it is sure that these options continue the run
                self._folder.write_config({"folder": plan.folder} | plan.config.to_dict())
            self.trained += 1
            with session(ready, open_run, piped=False, sinks=sinks, **view, **told) as (around, stopping):
                around.warned.update(self._warned)
                self._session = around
                run_training(
                    ready,
                    around,
                    every=self._every,
                    resources=self._resources,
                    previous=previous,
                    repeat_info=repeat_info,
                    shared=Shared(pixels=pixels.view(), digests=self._digests),
                )
        self._warned |= around.warned
        return stopping.exit_code

    def _is_done(self, plan: Plan, previous: PreviousRun) -> bool:
        with other_code():
            info = prepare(plan).run_info()
        if not is_done(previous, info, plan.scan.files, allow_env_change=self._options["allow_env_change"]):
            return False
        self._digests |= {**previous.files, **previous.later_files}
        return True

    def _wanted_of(self, number: int) -> SinkOptions:
        """Ask for the same sinks, with the number of the training in the name of the run."""
        name = self._wanted.run_name
        return replace(self._wanted, run_name=f"{name}-fold-{number}" if name else None)

    def show_end(self) -> None:
        """Tell the accuracy on held-out images, where the run is and what to type next."""
        if self._options["quiet"]:
            return
        place = self._folder.place
        with open_run(place) as run:
            summary = summarise(run)
        sentences = [one.text for one in summary.lesson if one.kind == "held_out"]
        name = shlex.quote(str(place))
        for text in [*sentences, f"recorded in {place}; look at it with: capture inspect {name}"]:
            typer.echo(safe(text), err=True)
