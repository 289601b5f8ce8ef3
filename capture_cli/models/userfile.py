"""A model from a user's own file: `FILE.py:FACTORY`.

    def build(classes, channels, height, width):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, classes))

FACTORY is any callable in that file. All of the file is run, with the rights of the user; `notice` says so. Its folder does not
become importable, and no bytecode is written beside it or read from there.
"""

import re
import sys
import traceback
from collections.abc import Sequence
from hashlib import blake2b
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from capture_cli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

# Stays in sys.modules while the model lives: dataclasses, pickle and torch.compile look up a class's module there.
MODULE_NAME = "capture_model_file"


_MADE = r"import\s*\*|globals|locals|vars|__dict__|__getattr__|setattr|sys\.modules|exec|eval"
"""Text of files whose names are known only once they have run."""


def parse(spec: str) -> tuple[Path, str] | None:
    """Split `FILE.py:FACTORY` into the path and the name of the factory; None if `spec` has another form."""
    file, colon, factory = spec.rpartition(":")
    return (Path(file), factory) if colon and file.endswith(".py") else None


def check(spec: str) -> None:
    """Raise UsageError if `spec` cannot name a factory in an existing file, which has to contain its name. Runs nothing."""
    parsed = parse(spec)
    if parsed is None:
        raise UsageError(f"the model {spec} names no function in that file", f"name the function: {spec}:build")
    path, factory = parsed
    if not factory.isidentifier():
        raise UsageError(f"the model {spec}: {factory!r} is not a function name", f"write {path}:NAME, such as {path}:build")
    if not path.is_file():
        raise UsageError(f"the model {spec}: there is no file {path}", "give a path relative to the current folder")
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"the model {spec}: {path} cannot be read: {error.strerror}") from error
    if not re.search(rf"\b{factory}\b|{_MADE}", text):
        defined = re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE)
        raise UsageError(f"{path} has no function {factory}", _nearest(factory, defined))


def notice(spec: str) -> str:
    """Return the sentence to show before `build` runs the file."""
    path, factory = parse(spec) or (Path(spec), "")
    return f"the model comes from {path}: capture runs the code in that file, then calls {factory}()"


def digest(path: Path) -> str | None:
    """Return BLAKE2b (16 bytes, hex) of the file, not of what it imports; None if it cannot be read."""
    try:
        return blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return None


def build(spec: str, *, classes: int, channels: int, height: int, width: int) -> "nn.Module":
    """Run the file and call its factory. Raises UsageError, naming file, function and line, for whatever goes wrong."""
    from torch import nn

    check(spec)
    path, factory = parse(spec) or (Path(spec), "")
    module = _run(path)
    found = getattr(module, factory, None)
    if not callable(found):
        raise UsageError(f"{path} has no function {factory}", _nearest(factory, _own(module)))
    call = f"{factory}(classes={classes}, channels={channels}, height={height}, width={width})"
    try:
        model = found(classes=classes, channels=channels, height=height, width=width)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{call} in {path} failed{_where(error, path)}", "fix that file") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{call} in {path} returned {type(model).__name__}, not a torch.nn.Module", "return the model itself")
    return model


class _SourceOnly(SourceFileLoader):
    """A loader of source code: without a time stamp Python neither reads nor writes a .pyc."""

    def path_stats(self, path: str) -> dict[str, float]:
        raise OSError(f"{path}: bytecode is not used")


def _run(path: Path) -> ModuleType:
    loader = _SourceOnly(MODULE_NAME, str(path))
    module_spec = spec_from_file_location(MODULE_NAME, path, loader=loader)
    if module_spec is None:
        raise UsageError(f"{path} cannot be loaded as Python code", "give a file that ends in .py")
    module = module_from_spec(module_spec)
    before = sys.modules.get(MODULE_NAME)
    sys.modules[MODULE_NAME] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[MODULE_NAME]
        else:
            sys.modules[MODULE_NAME] = before
        missing = isinstance(error, ModuleNotFoundError)
        hint = "install it, or add its folder to PYTHONPATH" if missing else "run it with python to see more"
        raise UsageError(f"{path} could not be run{_where(error, path)}", hint) from error
    return module


def _own(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == MODULE_NAME]


def _nearest(factory: str, own: Sequence[str]) -> str:
    listed = f"it has {', '.join(own[:3])}{', ...' if own[3:] else ''}"
    no_other = "define it there, with the parameters classes, channels, height, width"
    return did_you_mean(factory, own, listed if own else no_other)


def _where(error: BaseException, path: Path) -> str:
    """Describe an error in one line: ` at line N: Kind: text`, by the last line of that file that it passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = frames[-1].lineno if frames else None
    text = next(iter(str(error.msg if isinstance(error, SyntaxError) else error).splitlines()), "")
    kind = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f" at line {line}: {kind}" if line else f": {kind}"
