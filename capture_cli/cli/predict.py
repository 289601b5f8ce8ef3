"""`capture predict RUN IMAGES...`: a trained model on images without labels."""

import contextlib
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from capture_cli import models
from capture_cli.cli import arguments as shared
from capture_cli.cli.terminal import terminal_width
from capture_cli.config import TrainConfig
from capture_cli.errors import DataError, UsageError, absent
from capture_cli.views.terminal import predictions as view
from capture_cli.views.terminal.text import safe

if TYPE_CHECKING:
    from capture_cli.sources import Listing, Skipped
    from capture_cli.training.prediction import Chunk

MAX_PICTURES = 32
"""Pictures shown on a terminal; the other images are a line each."""


def predict(
    model: shared.ModelArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Files, folders, patterns; - for names on stdin, one a line.", show_default=False
        ),
    ],
    last: shared.Last = False,
    style: Annotated[
        str | None,
        shared.Output("--format", metavar="jsonl|csv", help="Default: jsonl; pictures on a terminal."),
    ] = None,
    as_csv: Annotated[bool, shared.Output("--csv", help="The same as --format csv.")] = False,
    as_json: Annotated[bool, shared.Output("--json", help="The same as --format jsonl: one JSON object a line.")] = False,
    top: Annotated[int, shared.Output(metavar="K", min=1, help="The most probable classes to write for each image.")] = 3,
    min_confidence: Annotated[
        float, shared.Output(metavar="P", min=0.0, max=1.0, help="Leave out images whose prediction is less probable.")
    ] = 0.0,
    records: Annotated[
        str | None,
        shared.Output(
            metavar="PATH", help="Also record a run of the phase predict: a run folder, or FILE.jsonl.", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, shared.Output(help="Also record it, in a run folder of this name in runs/.")] = None,
    force: shared.Force = False,
    quiet: shared.Quiet = False,
    batch_size: shared.BatchSize = TrainConfig.batch_size,
    device: shared.Device = TrainConfig.device,
    amp: shared.Amp = TrainConfig.amp,
    threads: shared.Threads = None,
    workers: shared.Workers = None,
    max_pixels: shared.MaxPixels = TrainConfig.max_pixels,
) -> int:
    """Predict the classes of images: one line each, with probabilities.

    Columns: file, pred, p_pred (its probability), entropy (nats; 0 is certain),
    and the K most probable classes: topk in JSON, pred_2, p_2, ... in CSV.

    A file that cannot be used is named on stderr and has no line. Exit code 3 if
    none can be used. A prediction depends on its image alone, not on the others,
    their order or --batch-size (on a GPU, up to the last digits).

    The model is that of the best epoch; --last takes that of the last. If it came
    from FILE.py:FACTORY, that file's code is run.
    """
    config = TrainConfig(batch_size=batch_size, device=device, amp=amp, max_pixels=max_pixels)
    if style not in (None, "jsonl", "csv"):
        raise UsageError(f"--format {style} is not valid", "choose jsonl or csv")
    asked = {style, "csv" if as_csv else None, "jsonl" if as_json else None} - {None}
    if len(asked) > 1:
        raise UsageError("--format, --csv and --json choose the output format", "give one of them")
    style = asked.pop() if asked else None
    if records == "-":
        raise UsageError("--records - is not valid: the predictions go to standard output", "give a folder, or FILE.jsonl")
    if records and name:
        raise UsageError("--records and --name both say where the run goes", "give one of them")
    if force and not (records or name):
        raise UsageError("--force is only valid with --records or --name", "drop it, or add one of them")
    shared.demand_run_first("predict", model, images)
    found = _listed(images)
    from capture_cli.cli.streams import other_code
    from capture_cli.runtime import start, use_threads
    from capture_cli.sources.named import read_named
    from capture_cli.stopping import Stopping
    from capture_cli.training.loading import read_trained
    from capture_cli.training.prediction import Classifier

    trained = read_trained(Path(model), last=last)
    if (notice := models.notice(trained.header.model)) and not quiet:
        typer.echo(safe(notice), err=True)
    shared.warn(trained.warning)
    with other_code():
        use_threads(threads)
        runtime = start(config.device, amp=amp)
        classifier = Classifier(trained, runtime, batch_size=batch_size, workers=workers, max_pixels=config.max_pixels)
    for text in classifier.unlike(found.files, read_named):
        shared.warn(text)
    shown = _Shown(style, min(top, len(classifier.classes)), min_confidence)
    with Stopping(lambda text: typer.echo(text, err=True)) as stopping, contextlib.ExitStack() as stack:
        recording = None
        if records or name:
            from capture_cli.runfolder import open_output
            from capture_cli.training.predicting import PredictionRecords

            output = stack.enter_context(open_output(records, name=name, model="", force=force))
            options = {"batch_size": classifier.batch_size, "amp": amp, "max_pixels": config.max_pixels}
            recording = stack.enter_context(PredictionRecords(output, classifier, trained, runtime, found, options))
        for chunk in _quietly(classifier.chunks(found.files)):
            if recording:
                recording.write(chunk)
            shown.add(chunk, found.files)
            if stopping():
                break
        if recording:
            recording.status = "interrupted" if stopping() else "completed"
    if not quiet or shown.skipped:
        typer.echo(safe(shown.sentence(found.skipped, trained.path)), err=True)
    if stopping():
        return stopping.exit_code
    if not shown.n:
        raise DataError(f"none of the {len(found.files):,} images can be used", "the reasons are above")
    return 0


def _quietly(chunks: "Iterator[Chunk]") -> "Iterator[Chunk]":
    """Yield the chunks; what the model prints meanwhile goes to stderr."""
    from capture_cli.cli.streams import other_code

    while True:
        with other_code():
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


@dataclass
class _Shown:
    """Writes predictions to stdout, and counts them."""

    style: str | None
    """jsonl, csv, or None: pictures on a terminal, else jsonl."""
    top: int
    min_confidence: float
    n: int = 0
    below: int = 0
    skipped: int = 0
    width: int | None = field(default_factory=terminal_width)

    def __post_init__(self) -> None:
        if self.style == "csv":
            self._write(view.csv_heading(self.top))

    def add(self, chunk: "Chunk", files: Sequence[str]) -> None:
        """Take the predictions for some of `files`; name those that cannot be used."""
        for place, reason in chunk.unusable:
            name = files[place]
            why = "no file matches" if reason.reason == "missing" and glob.has_magic(name) else reason
            typer.echo(safe(f"skipped {name}: {why}"), err=True)
        least = np.float32(self.min_confidence)
        chosen = [i for i, one in enumerate(chunk.predictions) if not least or np.float32(one.p_pred) >= least]
        ones = [chunk.predictions[i] for i in chosen]
        if self.style == "csv":
            self._write(view.csv_rows(ones, self.top))
        elif self.style or self.width is None:
            self._write(view.jsonl(ones, self.top))
        else:
            pictured = max(0, MAX_PICTURES - self.n + self.below)
            view.show_pictures(ones[:pictured], chunk.pixels[chosen[:pictured]], width=self.width)
            sys.stdout.write(view.lines(ones[pictured:]))
            sys.stdout.flush()
        self.n += len(chunk.predictions)
        self.below += len(chunk.predictions) - len(ones)
        self.skipped += len(chunk.unusable)

    def sentence(self, others: Sequence["Skipped"], model: Path) -> str:
        """Tell how many there were, and by which model; `others` are files of folders that are no images."""
        parts = [f"{self.n:,} image{'' if self.n == 1 else 's'} predicted by {model}"]
        if self.below:
            parts.append(f"{self.below:,} of them not shown: below --min-confidence {self.min_confidence}")
        if self.skipped:
            parts.append(f"{self.skipped:,} cannot be used")
        reasons = Counter(one.reason for one in others).most_common()
        if reasons:
            parts.append(f"skipped in folders: {', '.join(f'{n:,} {reason}' for reason, n in reasons)}")
        return "; ".join(parts)

    def _write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _listed(names: list[str]) -> "Listing":
    """List the images that are named. Raises DataError if there are none, UsageError for data on stdin in place of names."""
    from capture_cli.labels.refusals import quoted
    from capture_cli.labels.rules import natural_order
    from capture_cli.sources.named import named_images

    found = named_images(_with_stdin(names), order=natural_order)
    if not found.files:
        raise DataError(f"no images in {', '.join(names)}", "name files, or a folder that holds images")
    if not any(map(os.path.lexists, found.files)):
        if "-" in names and min(map(min, found.files)) < " ":  # a picture, cut at its line ends
            raise UsageError("stdin holds no names of files", "name the images as arguments, or pipe a list of names")
        raise DataError(_absence(found.files, quoted(found.files)), "name files, folders or patterns")
    return found


def _absence(names: Sequence[str], quoted: str) -> str:
    """Say that there is none of the files."""
    if all(map(glob.has_magic, names)):
        return f"no file matches {quoted}"
    return absent(names[0], "file") if len(names) == 1 else f"none of these {len(names):,} files exist: {quoted}"


def _with_stdin(names: list[str]) -> Iterator[str]:
    """Yield the names, with those on stdin in the place of `-`: one a line, or with NUL between them as `find -print0` does."""
    for name in names:
        if name != "-":
            yield name
            continue
        if sys.stdin.isatty():
            raise UsageError("stdin is a terminal, not a list of names", "pipe names into it, or give them as arguments")
        data = sys.stdin.buffer.read()
        for one in data.split(b"\0" if b"\0" in data else b"\n"):
            if one.endswith(b"\r") and not os.path.lexists(one):  # Windows ends lines so; a name may end so too
                one = one[:-1]
            if one:
                yield one.decode("utf-8", "surrogateescape")
