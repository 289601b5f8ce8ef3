"""`capture replay RUN`: reproduce captured inputs from the image files and compare them with the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run
from capture_cli.errors import CaptureError, RecordsError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from capture_cli.replay import Replay, Selection
    from capture_cli.replay.outputs import Outputs
    from capture_cli.runs import Run

CHOICE, FILES = "Selection", "Output"


def replay(
    run: RunArgument,
    epoch: Annotated[int | None, typer.Option(metavar="N", help="Only this epoch, from 1.", rich_help_panel=CHOICE)] = None,
    phase: Annotated[str | None, typer.Option(help="Only this phase: train, val or test.", rich_help_panel=CHOICE)] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Only this batch of the phase, from 0.", rich_help_panel=CHOICE)
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Only this image: its path as recorded, or the end of it.", rich_help_panel=CHOICE),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N.", show_default="all", rich_help_panel=CHOICE)
    ] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder where the images are now.", show_default="as recorded")
    ] = None,
    stored: Annotated[bool, typer.Option("--stored", help="Also compare the inputs that the run stored.")] = False,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Also recompute the model's outputs, where a checkpoint has the weights.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:FACTORY", help="With --outputs: run this code as the run's model.", show_default="none"),
    ] = None,
    png: Annotated[str | None, typer.Option(metavar="DIR", help="Save the inputs as pictures.", rich_help_panel=FILES)] = None,
    npy: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the exact tensors, float32 [N, C, H, W].", rich_help_panel=FILES)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.", rich_help_panel=FILES)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also on failure.")] = False,
) -> int:
    """Reproduce captured inputs from the image files and the recorded recipe, and compare their digests.

    Exit code 4 if an input differs. The file and the cause are named: the file is
    missing, changed or cannot be read, the image decoder is another version, or
    the record does not match the file. With --limit, the records after the last
    input are not verified.

    --outputs recomputes probabilities and losses and compares them bit for bit,
    for batches whose weights are in a checkpoint. It needs the software, threads
    and device of the run.
    """
    if outputs and (sample is not None or limit is not None):
        raise UsageError("--outputs needs whole batches", "choose with --epoch, --phase and --batch")
    if model is not None and not outputs:
        raise UsageError("--model is for --outputs", "omit it, or add --outputs")
    import json
    from contextlib import ExitStack
    from pathlib import Path

    from capture_cli.cli.streams import other_code
    from capture_cli.replay import Replay, Selection
    from capture_cli.replay.exports import Pictures, Tensors
    from capture_cli.replay.report import Report
    from capture_cli.runs.names import demand_one_training
    from capture_cli.views.terminal import replay as view
    from capture_cli.views.terminal.text import safe

    if outputs or stored:
        demand_one_training(Path(run), f"and {'--outputs' if outputs else '--stored'} needs the files of one")
    selection = Selection(phase=phase, epoch=epoch, batch=batch, sample=sample, limit=limit)
    report = Report()
    with ExitStack() as stack:
        records = stack.enter_context(open_run(run))
        if outputs:
            stack.enter_context(other_code())
        recomputed = _outputs(records.folder, model) if outputs else None
        inputs = Replay(
            records,
            selection,
            folder=Path(folder) if folder else None,
            whole=outputs,
            stored=stored,
            without_recipe=stored and not (outputs or png or npy),
        )
        pictures = Pictures(Path(png), force=force) if png else None
        tensors = stack.enter_context(Tensors(Path(npy), force=force, limited=limit is not None)) if npy else None
        error = None
        try:
            for reproduced in inputs:
                reproduced.add_to(report)
                report.add(recomputed.compare(reproduced) if recomputed else [])
                for file in (pictures, tensors):
                    if file:
                        file.write(reproduced)
        except RecordsError as found:  # what comes before it is shown
            error = found
        if not report.inputs and not report.stored:
            raise error or _nothing(records, inputs, selection)
        if tensors and report.equal == report.inputs:
            tensors.complete()
    if as_json:
        typer.echo(json.dumps({"run": run, **view.to_json(report), "outputs": recomputed.batches if recomputed else None}))
    else:
        typer.echo(view.summary(report, stored=stored, batches=recomputed.batches if recomputed else 0))
    for line in view.lines(report):
        typer.echo(safe(line), err=True)
    if pictures:
        typer.echo(f"Wrote {pictures.count:,} pictures, 8 bits per channel, to {png}; --npy writes the exact tensors", err=True)
    if tensors and report.equal < report.inputs:
        typer.echo(f"{npy} was not written: {report.inputs - report.equal:,} inputs would be missing", err=True)
    if error:
        raise error
    if report.causes:
        raise RecordsError(f"{records.name}: {view.failure(report)}", "the lines above name the files")
    if records.ending.state == "torn":
        typer.echo(safe(f"{records.name}: {records.ending.sentence}"), err=True)
    if recomputed and not recomputed.batches:
        raise UsageError(f"no batch could be recomputed: {recomputed.available}", "its inputs were compared all the same")
    return 0


def _outputs(run_folder: Path | None, model: str | None) -> Outputs:
    from capture_cli import models
    from capture_cli.replay.outputs import Outputs
    from capture_cli.views.terminal.text import safe

    notices = [models.notice(model)] if model and models.notice(model) else []
    outputs = Outputs(run_folder, model=model)
    for notice in [*notices, *outputs.warnings]:
        typer.echo(safe(notice), err=True)
    return outputs


def _nothing(records: Run, replay: Replay, selection: Selection) -> CaptureError:
    """The error if nothing was reproduced or compared, since that proves nothing."""
    if replay.not_stored:
        return UsageError(
            f"{records.name}: none of these inputs was stored", 'a recorder stores them with inputs=N or inputs="all"'
        )
    if str(selection):
        return UsageError(f"no captured input matches {selection}", "numbers are those of the records; see `capture rows RUN`")
    return CaptureError(f"{records.name}: no batch was captured, or none yet")
