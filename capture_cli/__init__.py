"""capture: train an image classifier from a folder and write down, for every batch and every image, what happened.

    from capture_cli import Recorder

What is public is listed here, and imported when it is first asked for: `import capture_cli` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Recorder": "recorder",
    "ListSink": "writer.sink",
    "MlflowSink": "sinks.mlflow",
    "TensorBoardSink": "sinks.tensorboard",
    "identified": "recorder.identified",
    "open_run": "answers.door",
    "Run": "answers.door",
    "Cursor": "runs",
    "load_model": "training.prediction",
    "CaptureError": "errors",
    "LightningCapture": "integrations.lightning",
    "TransformersCapture": "integrations.transformers",
}
"""Public name -> the module that defines it."""
__all__ = ["__version__", *_HOMES]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'capture_cli' has no attribute {name!r}")
        return getattr(import_module(f"capture_cli.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return __all__
