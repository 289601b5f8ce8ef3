"""`capture export RUN --onnx FILE`: a trained model for other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli import arguments as shared
from capture_cli.errors import CaptureError, UsageError
from capture_cli.views.terminal.text import safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture_cli.sources import Source


def export(
    model: shared.ModelArgument,
    onnx: Annotated[str | None, typer.Option(metavar="FILE", help="Write an ONNX file.", show_default=False)] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Check it on the images in this folder.", show_default="those of the run"),
    ] = None,
    last: shared.Last = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> int:
    """Write a trained model as an ONNX file, checked on up to 64 real images.

    The file maps `input`, float32 [batch, C, H, W], to `logits`. Its metadata have
    the classes and the recipe that makes inputs of images, as JSON under the key
    capture. Nothing is written unless ONNX Runtime gives the logits of the model
    within 1e-4.

    The model is that of the best epoch; --last takes that of the last. If it came
    from FILE.py:FACTORY, that file's code is run. Needs the packages of
    `pip install 'capture-cli[onnx]'`.
    """
    if onnx is None:
        raise UsageError("nothing says what to write", "add --onnx FILE")
    file = Path(onnx)
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError(f"'{onnx}' cannot be written", "give --onnx a file in a folder that exists")
    if file.exists() and not force:
        raise UsageError(f"'{onnx}' exists", "choose another name, or overwrite it with --force")
    from capture_cli.cli.streams import other_code
    from capture_cli.training.exporting import demand_onnx, export_onnx, real_inputs
    from capture_cli.training.loading import model_file, read_trained

    demand_onnx()
    source, files = _images(model_file(Path(model), last=last), images)
    trained = read_trained(Path(model), last=last)
    shared.warn(trained.warning)
    with other_code():
        inputs = real_inputs(trained, source, files)
        difference = export_onnx(trained, file, inputs)
    agrees = f"ONNX Runtime agrees on {len(inputs)} images within {max(difference, 1e-9):.0e}"
    typer.echo(safe(f"wrote {onnx} from {trained.path}: {agrees}"), err=True)
    return 0


def _images(model: Path, folder: str | None) -> "tuple[Source, Sequence[str]]":
    """Find images to check a model on: in `folder`, or those of the run that `model` is in. Raises UsageError."""
    from capture_cli.labels.rules import natural_order
    from capture_cli.runs import open_run
    from capture_cli.runs.names import holds_run
    from capture_cli.sources.folder import FolderSource

    source: Source
    if folder is not None:
        source = FolderSource(folder)
    elif holds_run(model.parent):
        try:
            source = open_run(model.parent).images
        except CaptureError as error:
            raise UsageError(
                f"the images of the run cannot be found: {error.message}", "name a folder with --images"
            ) from error
    else:
        raise UsageError(f"'{model}' is not in a run folder, so no images to check it on are known", "add --images FOLDER")
    files = natural_order(source.list().files)
    if not files:
        raise UsageError(f"no images in '{source.name}'", "name a folder of images with --images")
    return source, files
