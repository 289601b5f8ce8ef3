"""`capture inspect RUN`: a run at a glance, or the history of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import RunArgument, open_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from capture_cli.records import RunInfo

    Picture = npt.NDArray[np.uint8] | None

_MAX_SIDE = 4096
_EVENTS_BYTES = 1 << 20


def inspect(
    run: RunArgument,
    sample: Annotated[
        str | None, typer.Option(metavar="FILE", help="Show every visit of one image: its recorded path, or the end of it.")
    ] = None,
    worst: Annotated[int, typer.Option(metavar="N", min=0, max=1000, help="Samples with the highest loss to show.")] = 8,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Classes to show, and half as many confusions.")] = 20,
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, for pictures.", show_default="as recorded")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> int:
    """Show what happened: epochs, classes, confusions, the worst samples.

    Works on a run that is still going or was cut off, and says so. If the records
    are damaged, it shows what comes before the damage and exits with 4.
    """
    import json
    from pathlib import Path

    from capture_cli.answers.history import sample_history
    from capture_cli.answers.summary import summarise
    from capture_cli.cli.terminal import terminal_width
    from capture_cli.errors import UsageError
    from capture_cli.views.terminal import inspect as view

    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"no such folder: '{folder}'", "--folder says where the images of the run are now")
    width = terminal_width()
    with open_run(run) as opened:
        if sample is not None:
            history = sample_history(opened, sample)
            state = history.state
            if as_json:
                typer.echo(json.dumps({"run": run, **history.to_json()}))
            else:
                wanted = [(history.sample.file, history.sample.digest)] if width else []
                pictures, notes = _pictures(history.info, wanted, folder, opened.folder)
                picture = pictures[0] if pictures else None
                view.show_history(history, run=run, width=width, picture=picture, note="; ".join(notes))
        else:
            summary = summarise(opened, worst=worst, confusions=max(1, limit // 2))
            state = summary.state
            if as_json:
                typer.echo(json.dumps({"run": run, **summary.to_json(), "commands": view.commands(summary, run)}))
            else:
                wanted = [(one.visit.file, one.digest) for one in summary.phase.worst] if summary.phase and width else []
                pictures, notes = _pictures(summary.info, wanted, folder, opened.folder)
                view.show_summary(summary, run=run, limit=limit, width=width, pictures=pictures, notes=notes)
    if state.error:
        raise state.error
    return 0


def _pictures(
    run: RunInfo, wanted: list[tuple[str, str | None]], folder: str | None, run_folder: Path | None
) -> tuple[list[Picture], list[str]]:
    """The images `wanted` (file, digest) as uint8 [C, H, W] in the size of the input, and notes on those that are missing."""
    if not any(digest for _, digest in wanted):
        return [None] * len(wanted), []
    from pathlib import Path

    places = [place for place in ([Path(folder)] if folder else _places(run, run_folder)) if place.is_dir()]
    if not places:
        return [None] * len(wanted), [
            f"no pictures: the folder '{folder or run.folder}' is not here; --folder says where it is"
        ]
    pictures = [_picture(run, places, file, digest) for file, digest in wanted]
    missing = [picture for picture in pictures if isinstance(picture, str)]
    notes = [f"{missing.count(reason)} without a picture: {reason}" for reason in dict.fromkeys(missing)]
    return [None if isinstance(picture, str) else picture for picture in pictures], notes


def _picture(run: RunInfo, places: list[Path], file: str, digest: str | None) -> npt.NDArray[np.uint8] | str:
    """One image, or why there is none. Only a file with the recorded digest is opened as a picture."""
    from hashlib import blake2b

    from capture_cli.errors import Unusable
    from capture_cli.pixels.decoding import decode
    from capture_cli.sources.access import read_file

    size = [one for name in ("height", "width", "channels") if isinstance(one := run.recipe.get(name), int)]
    if len(size) < 3 or not all(0 < one <= _MAX_SIDE for one in size) or size[2] not in (1, 3):
        return "the recipe has no usable size"
    reason = "the file is not there"
    for place in places:
        try:
            data = read_file(place, file)
            if blake2b(data, digest_size=16).hexdigest() == digest:
                return decode(data, height=size[0], width=size[1], channels=size[2])
            reason = "the file has changed since the run"
        except Unusable as error:
            if error.reason != "missing":
                reason = error.reason
    return reason


def _places(run: RunInfo, run_folder: Path | None) -> Iterator[Path]:
    """Where the images of a run may be: as the user named the folder, seen from here, and where it was."""
    from pathlib import Path

    import orjson

    from capture_cli.errors import Unusable
    from capture_cli.sources.access import read_file

    if run.folder and "\0" not in run.folder:
        yield Path(run.folder)
    if run_folder is None:
        return
    try:
        events = read_file(run_folder, "events.jsonl", max_bytes=64 * _EVENTS_BYTES)[:_EVENTS_BYTES]
    except Unusable:
        return
    for line in events.splitlines():
        try:
            event = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "start" and isinstance(event.get("folder_absolute"), str):
            yield Path(event["folder_absolute"])
