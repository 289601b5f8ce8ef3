"""What `train` and `evaluate` share: where the records go, the view on stderr, signals, and the last words."""

import contextlib
import shlex
import sys
from collections.abc import Iterator

from capture_cli.job import Ready, View
from capture_cli.runfolder import Output, open_output
from capture_cli.stopping import Stopping
from capture_cli.training import Stopped
from capture_cli.views.live import make_view


@contextlib.contextmanager
def session(
    ready: Ready, *, epochs: int, out: str | None, name: str | None, force: bool, preview: int, quiet: bool
) -> Iterator[tuple[Output, View, Stopping]]:
    """Open the output and the view for a run; afterwards say how it ended and what to type next."""
    plan = ready.plan
    phases = [phase for phase in ("train", "val", "test") if phase in plan.scan.splits]
    with open_output(out, name=name, model=plan.config.model, force=force) as output:
        view = make_view(
            sys.stderr,
            quiet=quiet,
            classes=plan.scan.classes,
            total_images=len(plan.scan.files) * epochs,
            epochs=epochs,
            phases=phases,
            preview=preview,
            animate=out != "-" or not sys.stdout.isatty(),
        )
        with view, Stopping(view.note) as stopping:
            if ":" in plan.config.model and not plan.config.model.startswith("torchvision:"):
                view.note(f"--model runs the code in {plan.config.model.rpartition(':')[0]}")
            view.note(plan.scan.rule_sentence)
            with contextlib.suppress(Stopped):
                yield output, view, stopping
            left_out = output.journal.counts["skip"]
            if left_out:
                view.note(f"{left_out} files left out; their skip records say why")
            if stopping():
                view.note(f"stopped; the records up to here are sealed in {output.where}")
            elif output.folder:
                view.note(f"captured in {output.folder}; look at it with: capture inspect {shlex.quote(str(output.folder))}")
            elif out != "-":
                view.note(f"captured in {output.where}; look at it with: capture inspect {shlex.quote(output.where)}")
