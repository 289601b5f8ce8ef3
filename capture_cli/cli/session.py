"""The session of `train` and `evaluate`: output, view on stderr, signals, and the last message."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from capture_cli import models
from capture_cli.answers.best import BestEpochs
from capture_cli.cli.streams import other_code
from capture_cli.labels.warnings import warnings as label_warnings
from capture_cli.plan import Plan
from capture_cli.records import Epoch
from capture_cli.runfolder import Output
from capture_cli.stopping import Stopping
from capture_cli.training import Stopped
from capture_cli.training.job import Session
from capture_cli.training.preparing import Ready
from capture_cli.views.terminal.labels import summary
from capture_cli.views.terminal.live import make_view
from capture_cli.writer.sink import Sink


@contextlib.contextmanager
def session(
    ready: Ready,
    open_run: Callable[[], Output],
    *,
    piped: bool,
    preview: int,
    quiet: bool,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    sinks: Sequence[Sink] = (),
    earlier: Sequence[Epoch] = (),
    introduced: bool = False,
    run: str | None = None,
) -> Iterator[tuple[Session, Stopping]]:
    """Open the output and the view of a run; afterwards tell how it ended and what to type next.

    `piped` says that the records go to standard output; `notes` and `warnings` are shown first; `earlier` are the
    totals of phases that an earlier process ran. A training of a run with folds names the `run` that it is part of; what
    was said before the first of them (`introduced`) is not said again.
    """
    plan = ready.plan
    phases = [phase for phase in ("train", "val", "test") if phase in plan.scan.splits]
    best = BestEpochs(plan.config.best)
    for totals in earlier:
        best.update(totals)
    animate = sys.stderr.isatty() and not (piped and sys.stdout.isatty())
    with open_run() as output, other_code():
        view = make_view(
            sys.stderr,
            quiet=quiet,
            classes=plan.scan.classes,
            total_images=len(plan.scan.files) * plan.config.epochs,
            epochs=plan.config.epochs,
            phases=phases,
            preview=preview,
            best=best,
            lists_skipped=not introduced,
            animate=animate,
        )
        with contextlib.closing(view), Stopping(view.note) as stopping:
            for text in [*(() if introduced else _introduction(ready)), *_fold(plan), *notes]:
                view.note(text)
            for text in [*(() if introduced else warnings_of(plan)), *warnings]:
                view.warn(text)
            with contextlib.suppress(Stopped):
                around = Session(output, view, stopping, sinks)
                yield around, stopping
            view.close()
            for text in around.notes:
                view.note(text)
            where = shlex.quote(run or output.place)
            if stopping():
                resume = f"; resume it with: capture train --resume {where}" if output.folder and "train" in phases else ""
                view.note(f"stopped; the records so far are sealed in {output.place}{resume}")
            elif not piped and run is None:
                view.note(f"recorded in {output.place}; look at it with: capture inspect {where}")
                if tests := sum(one.reason == "test-split" and bool(one.detail) for one in plan.scan.skipped):
                    command = f"capture evaluate {where} {shlex.quote(plan.scan.source.name)}"
                    view.note(f"{tests:,} test images were not used; evaluate them with: {command}")


def _introduction(ready: Ready) -> list[str]:
    """Say what is trained on, and how."""
    plan = ready.plan
    inputs = f"Inputs: {plan.inputs}. Other choices: --img-size, --resize"
    return [
        *filter(None, [models.notice(plan.config.model)]),
        *summary(plan.scan, folds=plan.config.folds),
        inputs,
        *ready.notes,
    ]


def warnings_of(plan: Plan) -> list[str]:
    """Say what is probably not meant in the images and options of a training."""
    weights = plan.initial.warning if plan.initial else ""
    labels = label_warnings(plan.scan, holds_out=plan.config.val_split > 0)
    return [*labels, *plan.warnings, *filter(None, [weights])]


def _fold(plan: Plan) -> list[str]:
    """Say which of several trainings this is."""
    if plan.fold is None:
        return []
    trained, held_out = (plan.scan.splits.count(split) for split in ("train", "val"))
    number = f"Fold {plan.fold['number']} of {plan.fold['of']}"
    return [f"{number}: {trained:,} images to train on, {held_out:,} held out"]
