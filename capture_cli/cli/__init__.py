"""The command line: one small file per command, errors caught once, here.

A command parses, makes one library call and one view call. Data goes to stdout, everything for people to stderr. Exit codes:
0 done, 1 failed, 2 wrong usage, 3 no usable images or labels, 4 records damaged or untrue, 130 Ctrl-C, 143 SIGTERM; a closed
pipe (`| head`) ends a command quietly. Nothing heavy is imported here or in a command's module: only when its body runs. And
where help is all that is wanted, no other command is imported, and nothing of Rich that is not needed.
"""

import contextlib
import errno
import functools
import gc
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer

from capture_cli import __version__
from capture_cli.cli.arguments import with_values
from capture_cli.errors import CaptureError, UsageError
from capture_cli.views.terminal.text import error_line

COMMANDS = {
    "labels": "Show what a folder would become: label rule, classes, images per split, skipped files.",
    "train": "Train an image classifier and write one record for every batch: files, inputs, probabilities, labels, losses.",
    "evaluate": "Run a trained model over a folder, capture every batch (phase `test`), and print accuracy and loss.",
    "inspect": "Show what happened: epochs, classes, confusions, the worst samples.",
    "suspects": "Rank the samples whose label is probably wrong.",
    "rows": "Write one flat row per sample and visit to stdout.",
    "diff": "Compare two runs: where they diverge, and which predictions changed.",
    "replay": "Make captured inputs again, from the image files and the recipe in the records, and compare their digests.",
    "log": "Send a run to MLflow or TensorBoard.",
    "verify": "Check the sequence, the chain, every record and the end line of a run.",
    "cache": "List the decoded pixels that `capture train` and `capture evaluate` keep, so that the next run need not decode.",
}
"""Each is a function in the module of its name in this package; this is the first line of what it says of itself."""
HELP = {"-h", "--help"}
_CANNOT_BE_WRITTEN = {errno.EPIPE, errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors that name no file and that only writing has: they are of standard output."""
SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; every failure becomes one line on stderr."""
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the locale cannot show is no reason to fail
    args = with_values(args)
    command = args[0] if args and args[0] in COMMANDS else ""
    try:
        if not args or HELP & set(args):
            _import_help()
        if command:  # without the group, and so without the other commands: half of the time it takes to start
            code = one_command(command)(list(args[1:]), prog_name=f"capture {command}", standalone_mode=False)
        else:
            asked = "_CAPTURE_COMPLETE" in os.environ or bool(COMMANDS.keys() & set(args))
            code = (all_commands if asked else named_commands)()(list(args), prog_name="capture", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except CaptureError as error:
        return _fail(error)
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return 2
        return _fail(UsageError(_what_was_wrong(error, args), f"see `{f'capture {command}'.strip()} --help`"))
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        return _fail(CaptureError(f"{error.strerror or error}{where}"))
    except Exception as error:  # noqa: BLE001 - the last door: a traceback is for whoever asks for it
        fault = f"a fault in capture: {type(error).__name__}: {error}"
        return _fail(CaptureError(fault, "set CAPTURE_DEBUG=1 to see where, and report it"))


def _open_streams() -> None:
    """Put something in the place of standard streams that are closed, so that no file gets their numbers.

    Reading gives nothing, what is for people goes nowhere, and writing data fails, as it should: nobody would have it.
    """
    modes = {"stdin": ("r", os.O_RDONLY), "stdout": ("w", os.O_RDONLY), "stderr": ("w", os.O_WRONLY)}
    for number, (name, (mode, flags)) in enumerate(modes.items()):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def one_command(name: str) -> typer.Typer:
    """The command line of one command alone."""
    app = typer.Typer(add_completion=False, **SETTINGS)
    app.command(name)(_command(name))
    return app


def all_commands() -> typer.Typer:
    """The command line as a whole, for completion and the pages."""
    app = _group()
    for name in COMMANDS:
        app.command(name)(_command(name))
    return app


def named_commands() -> typer.Typer:
    """The same without what the commands do and take, for `capture --help`: a third of the time."""
    app = _group()
    for name, summary in COMMANDS.items():
        app.command(name, help=summary)(lambda: None)
    return app


def _group() -> typer.Typer:
    app = typer.Typer(
        name="capture",
        help="Train an image classifier from a folder and capture every batch: files, inputs, answers, labels, losses.",
        no_args_is_help=True,
        **SETTINGS,
    )
    app.callback()(_options)
    return app


def _import_help() -> None:
    """Import what Typer writes help with, but not Rich's Markdown and tracebacks: imported there, and not used for it.

    They bring a parser and a highlighter, which take as long as everything else together.
    """
    spared = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
    for module, name in spared.items():
        stand_in = sys.modules.setdefault(module, ModuleType(module))
        vars(stand_in).setdefault(name, type(name, (), {}))
    try:
        import typer.rich_utils  # noqa: F401
    finally:
        for module in spared:
            if sys.modules[module].__spec__ is None:
                del sys.modules[module]


def _command(name: str) -> Callable[..., Any]:
    return _quiet_pipe(getattr(importlib.import_module(f"{__name__}.{name}"), name))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"capture {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _fail(error: CaptureError) -> int:
    if os.environ.get("CAPTURE_DEBUG"):
        traceback.print_exc()
    with contextlib.suppress(OSError):  # stderr may be gone as well
        print(error_line(error), file=sys.stderr)  # noqa: T201
    return error.exit_code


def _what_was_wrong(error: typer.TyperException, args: Sequence[str]) -> str:
    """Typer's message, and the value that it leaves out of it."""
    parameter = getattr(error, "param", None)
    options = getattr(parameter, "opts", [])
    given = [args[i + 1] for i, arg in enumerate(args[:-1]) if arg in options]
    given += [arg.partition("=")[2] for arg in args if arg.partition("=")[0] in options and "=" in arg]
    message = error.format_message().rstrip(".")
    if given:
        return f"'{given[-1]}': {message}"
    values = getattr(getattr(error, "ctx", None), "default_map", None) or {}
    name = getattr(parameter, "name", None)
    return f"{values[name]!r} in the config file: {message}" if name in values else message


def _quiet_pipe(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command end quietly when whoever reads its output has gone."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        gc.freeze()  # what has been imported stays
        gc.enable()  # see capture_cli.__main__
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
        except OSError as error:
            if error.filename is not None or error.errno not in _CANNOT_BE_WRITTEN:
                raise
            # What is still buffered can go nowhere: the interpreter would complain about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                return 0
            raise CaptureError(
                f"standard output could not be written: {error.strerror}", "what was written is not all"
            ) from error
        return result

    return guarded
