"""`capture replay RUN`: captured inputs made again from the image files, and compared with the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run
from capture_cli.errors import CaptureError, RecordsError, UsageError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from capture_cli.replay import Replay, Selection
    from capture_cli.replay.exports import Pictures, Tensors
    from capture_cli.replay.findings import Report
    from capture_cli.replay.outputs import Outputs
    from capture_cli.runs import Run

CHOICE, FILES = "Which inputs", "Files to write"


def replay(
    run: RunArgument,
    epoch: Annotated[int | None, typer.Option(metavar="N", help="Only this epoch, from 1.", rich_help_panel=CHOICE)] = None,
    phase: Annotated[str | None, typer.Option(help="train, val or test.", rich_help_panel=CHOICE)] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Only this batch of the phase, from 0.", rich_help_panel=CHOICE)
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Of this image: its path as recorded, or the end of it.", rich_help_panel=CHOICE),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The first so many.", show_default="all", rich_help_panel=CHOICE)
    ] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where the images are now.", show_default="as recorded")
    ] = None,
    stored: Annotated[bool, typer.Option("--stored", help="Compare the inputs that the run kept whole, too.")] = False,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Run the model too, where a checkpoint holds its weights of that moment.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FACTORY", help="With --outputs: the code of the run's model, which may run.", show_default="none"
        ),
    ] = None,
    png: Annotated[str | None, typer.Option(metavar="DIR", help="Write pictures, to look at.", rich_help_panel=FILES)] = None,
    npy: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the exact tensors, float32 [N, C, H, W].", rich_help_panel=FILES)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite such files.", rich_help_panel=FILES)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a line, also where it fails.")] = False,
) -> int:
    """Make captured inputs again, from the image files and the recipe in the records, and compare their digests.

    Exit code 4 where one differs, naming the file and the cause: it is gone, has
    changed, cannot be read now, the decoder is another one, or else the recipe or
    the record is untrue. Numbers are those of the records. A limit stops
    reading there, so what follows in the records is not verified.

    With --outputs, probabilities and losses are computed again and compared bit
    for bit, for the batches whose weights are kept: on the same software, threads
    and device only.
    """
    if outputs and (sample is not None or limit is not None):
        raise UsageError("--outputs needs whole batches", "choose with --epoch, --phase and --batch")
    if model is not None and not outputs:
        raise UsageError("--model is for --outputs", "leave it out, or add --outputs")
    from contextlib import ExitStack
    from pathlib import Path

    from capture_cli.replay import Replay, Selection
    from capture_cli.replay.findings import Report

    selection = Selection(phase=phase, epoch=epoch, batch=batch, sample=sample, limit=limit)
    report = Report()
    with ExitStack() as stack:
        reading = stack.enter_context(open_run(run))
        teller = _outputs(reading.folder, model) if outputs else None
        where = Path(folder) if folder else None
        alone = stored and not (outputs or png or npy)
        replayed = Replay(reading, selection, folder=where, whole=outputs, stored=stored, without_recipe=alone)
        pictures, tensors = _exports(stack, png, npy, force=force, limited=limit is not None)
        _go(replayed, report, teller, pictures, tensors)
        _demand_some(reading, replayed, report, selection)
        if tensors and report.equal == report.inputs:
            tensors.complete()
    _show(run, report, teller, stored=stored, as_json=as_json)
    if pictures:
        typer.echo(f"{pictures.count:,} pictures in {png}: 8 bits a channel, to look at; --npy has the exact tensors", err=True)
    if tensors and report.equal < report.inputs:
        typer.echo(f"{npy} was not kept: it would lack {report.inputs - report.equal:,} inputs", err=True)
    return _judge(reading, report, teller)


def _outputs(run_folder: Path | None, model: str | None) -> Outputs:
    from capture_cli import models
    from capture_cli.replay.outputs import Outputs
    from capture_cli.views.terminal.text import safe

    notes = [models.notice(model)] if model and models.notice(model) else []
    teller = Outputs(run_folder, model=model)
    for note in [*notes, *teller.doubts]:
        typer.echo(safe(note), err=True)
    return teller


def _exports(
    stack: ExitStack, png: str | None, npy: str | None, *, force: bool, limited: bool
) -> tuple[Pictures | None, Tensors | None]:
    from pathlib import Path

    from capture_cli.replay.exports import Pictures, Tensors

    pictures = Pictures(Path(png), force=force) if png else None
    return pictures, stack.enter_context(Tensors(Path(npy), force=force, limited=limited)) if npy else None


def _go(replayed: Replay, report: Report, teller: Outputs | None, pictures: Pictures | None, tensors: Tensors | None) -> None:
    from capture_cli.replay import Compared

    for made in replayed:
        made.add_to(report)
        if isinstance(made, Compared):
            continue
        if teller and teller.can_tell(made):
            for difference in teller.compare(made):
                report.note(difference)
        for writer in (pictures, tensors):
            if writer:
                writer.write(made)


def _demand_some(reading: Run, replayed: Replay, report: Report, selection: Selection) -> None:
    """Raise where nothing was made again or compared, since that proves nothing."""
    if report.inputs or report.stored:
        return
    error = reading.ending.error(reading.name)
    if error:
        raise error
    if replayed.unstored:
        raise UsageError(
            f"{reading.name}: none of these inputs was kept", 'a recorder keeps them with inputs=N or inputs="all"'
        )
    if str(selection):
        raise UsageError(f"no captured input fits {selection}", "numbers are those of the records; see `capture rows RUN`")
    raise CaptureError(f"{reading.name}: no batch was captured, or none yet")


def _show(run: str, report: Report, teller: Outputs | None, *, stored: bool, as_json: bool) -> None:
    import json

    from capture_cli.views.terminal import replay as view
    from capture_cli.views.terminal.text import safe

    if as_json:
        typer.echo(json.dumps({"run": run, **view.to_json(report), "outputs": teller.batches if teller else None}))
    else:
        typer.echo(view.sentence(report, stored=stored, batches=teller.batches if teller else 0))
    for line in view.lines(report):
        typer.echo(safe(line), err=True)


def _judge(reading: Run, report: Report, teller: Outputs | None) -> int:
    from capture_cli.views.terminal import replay as view
    from capture_cli.views.terminal.text import safe

    error = reading.ending.error(reading.name)
    if error:
        raise error
    if report.causes:
        raise RecordsError(f"{reading.name} is not borne out: {view.causes(report)}", "the lines above say where")
    if reading.ending.state == "torn":
        typer.echo(safe(f"{reading.name}: {reading.ending.sentence}"), err=True)
    if teller and not teller.batches:
        raise UsageError(
            f"no captured batch could be computed again: {teller.moments}", "the inputs above were compared all the same"
        )
    return 0
