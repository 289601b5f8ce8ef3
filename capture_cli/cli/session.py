"""What `train` and `evaluate` share: where the records go, the view on stderr, signals, and the last words."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from capture_cli import models
from capture_cli.labels.warnings import warnings
from capture_cli.plan import Plan
from capture_cli.runfolder import Output
from capture_cli.stopping import Stopping
from capture_cli.training import Stopped
from capture_cli.training.job import Ready, Session
from capture_cli.views.terminal.live import make_view
from capture_cli.writer.sink import Sink


@contextlib.contextmanager
def session(
    ready: Ready,
    open_it: Callable[[], Output],
    *,
    piped: bool,
    preview: int,
    quiet: bool,
    notes: Sequence[str] = (),
    doubts: Sequence[str] = (),
    sinks: Sequence[Sink] = (),
) -> Iterator[tuple[Session, Stopping]]:
    """Open the output and the view for a run; afterwards say how it ended and what to type next.

    `piped` says that the records go to standard output; `notes` are sentences to begin with, `doubts` warnings; `sinks` is
    where they go besides.
    """
    plan = ready.plan
    phases = [phase for phase in ("train", "val", "test") if phase in plan.scan.splits]
    with open_it() as output:
        view = make_view(
            sys.stderr,
            quiet=quiet,
            classes=plan.scan.classes,
            total_images=len(plan.scan.files) * plan.config.epochs,
            epochs=plan.config.epochs,
            phases=phases,
            preview=preview,
            animate=not (piped and sys.stdout.isatty()),
        )
        with view, Stopping(view.note) as stopping:
            for text in [*_beforehand(ready), *notes]:
                view.note(text)
            for text in [*warnings(plan.scan), *_unvalidated(plan), *doubts]:
                view.warn(text)
            with contextlib.suppress(Stopped):
                yield Session(output, view, stopping, sinks), stopping
            view.close()
            where = shlex.quote(output.where)
            if stopping():
                resume = f"; go on with: capture train --resume {where}" if output.folder and "train" in phases else ""
                view.note(f"stopped; the records up to here are sealed in {output.where}{resume}")
            elif not piped:
                view.note(f"captured in {output.where}; look at it with: capture inspect {where}")


def _unvalidated(plan: Plan) -> list[str]:
    """A warning where images should be held out and none is."""
    if not plan.config.val_split or {"val", "test"} & set(plan.scan.splits):
        return []
    return [f"none of the {len(plan.scan.files)} images is held out for validation: in few images, --val-split may find none"]


def _beforehand(ready: Ready) -> list[str]:
    """What is good to know before the first batch."""
    plan = ready.plan
    code = models.notice(plan.config.model)
    labels = f"Labels: {plan.scan.example}. Not right? Try `capture labels FOLDER` or --labels"
    return [code, labels] if code else [labels]
