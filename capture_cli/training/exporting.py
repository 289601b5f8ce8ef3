"""A trained model as an ONNX file, checked against the model on real images.

checked = export_onnx(trained, Path("model.onnx"), inputs)      # raises CaptureError unless ONNX Runtime agrees

The file maps `input`, float32 [batch, C, H, W], to `logits`, float32 [batch, classes]. Its metadata hold the classes and the
recipe: all that is needed to make inputs of images.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from capture_cli.errors import CaptureError, DataError, UsageError, quoted
from capture_cli.files import write_atomically
from capture_cli.runtime import Runtime, choose_device
from capture_cli.sources import Source
from capture_cli.training.loading import Trained
from capture_cli.training.prediction import Classifier

if TYPE_CHECKING:
    import onnx

CHECKED = 64
"""Inputs on which the two are compared."""
TOLERANCE = 1e-4
"""The largest difference of a logit, relative to the largest logit where that is above 1."""
KEY = "capture"
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
MISSING = "install it: pip install 'capture-cli[onnx]'"


def demand_onnx() -> None:
    """Raise UsageError if a library that is needed is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--onnx needs the package {error.name or 'onnx'}, which is not installed", MISSING) from error


def real_inputs(trained: Trained, source: Source, files: Sequence[str], most: int = CHECKED) -> npt.NDArray[np.float32]:
    """Make the inputs of up to `most` of `files`, spread evenly over them: [N, C, H, W].

    Raises DataError if none of them can be used.
    """
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(most, len(files)), dtype=np.int64).tolist()]
    classifier = Classifier(trained, Runtime(choose_device("cpu"), False, torch.get_num_threads()))
    inputs, reasons = classifier.inputs_of(len(chosen), lambda i: source.read(chosen[i]))
    if not len(inputs):
        raise DataError(f"none of the images can be used to check the file: {reasons[0]}", "name others with --images FOLDER")
    return inputs.numpy()


def export_onnx(trained: Trained, file: Path, inputs: npt.NDArray[np.float32]) -> float:
    """Write the model to `file` if ONNX Runtime agrees with it on `inputs` [N, C, H, W]; return the largest difference.

    Raises CaptureError if it does not, if torch cannot export the model, or if the file cannot be written.
    """
    demand_onnx()
    model = trained.build().eval()
    made = _converted(model, torch.from_numpy(inputs[:2] if len(inputs) > 1 else np.repeat(inputs, 2, 0)))
    _describe(made, trained)
    data = made.SerializeToString()
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    difference = _difference(data, inputs, expected)
    if not difference <= TOLERANCE:
        message = f"ONNX Runtime does not agree with the model: logits differ by up to {difference:.1e}, more than {TOLERANCE}"
        raise CaptureError(message, "nothing was written; report it, with the versions of torch and onnxruntime")
    try:
        write_atomically(file.parent, file.name, data)
    except OSError as error:
        raise CaptureError(f"'{file}' could not be written: {error.strerror}", "choose another place") from error
    return difference


def _converted(model: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """Convert the model for any number of rows, with the weights inside."""
    with warnings.catch_warnings():  # of torch, about itself
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=["logits"],
            )
        except Exception as error:
            raise _not_exported(error) from error
    if program is None:
        raise CaptureError("torch returned no ONNX model", "use another version of torch")
    made: onnx.ModelProto = program.model_proto
    return made


def _not_exported(error: Exception) -> CaptureError:
    """Name the operator without an ONNX form, or else quote the cause: the exporter itself says what to do next."""
    reasons: list[BaseException] = [error]
    while cause := reasons[-1].__cause__:
        reasons.append(cause)
    if named := next(filter(None, (_NO_OPERATOR.search(str(one)) for one in reasons)), None):
        return CaptureError(
            f"this model cannot be exported: ONNX has no form of {named[1]}", "train with another layer in its place"
        )
    return CaptureError(
        f"torch cannot export this model: {quoted(reasons[1] if reasons[1:] else error)}",
        "change its code so that torch.export can trace it",
    )


def _describe(made: onnx.ModelProto, trained: Trained) -> None:
    """Replace the metadata, in which torch notes paths of this machine, by classes, recipe and origin."""
    graph = made.graph
    described = [made, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
    for function in made.functions:
        described += [function, *function.node, *function.value_info]
    for one in described:
        del one.metadata_props[:]
        one.doc_string = ""
    header = trained.header
    about: dict[str, Any] = {"model": header.model, "classes": list(header.classes), "recipe": dict(header.recipe)}
    about |= {"epoch": header.epoch, "weights_digest": trained.digest}
    entry = made.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about)


def _difference(data: bytes, inputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Run the file in ONNX Runtime; return the largest difference, see TOLERANCE. NaN must be NaN in both."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": inputs})[0]
    if logits.shape != expected.shape or not np.array_equal(np.isnan(logits), np.isnan(expected)):
        return float("inf")
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0.0)))
    return float(np.nanmax(np.abs(logits - expected), initial=0.0)) / scale
