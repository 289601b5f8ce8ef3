"""The command line: one small file per command, errors caught once, here.

A command parses, makes one library call and one view call. Data goes to stdout, everything for people to stderr. Exit codes:
0 done, 1 failed, 2 wrong usage, 3 no usable images or labels, 4 records damaged or untrue, 130 Ctrl-C, 143 SIGTERM; a closed
pipe (`| head`) ends a command quietly. Nothing heavy is imported here or in a command's module: only when its body runs.
"""

import contextlib
import functools
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from capture_cli import __version__
from capture_cli.errors import CaptureError, UsageError
from capture_cli.views.text import error_line

COMMANDS = ("labels", "train", "evaluate", "inspect", "rows", "diff", "replay", "verify", "cache")
"""Each is a function in the module of its name in this package."""
SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; every failure becomes one line on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the locale cannot show is no reason to fail
    command = args[0] if args and args[0] in COMMANDS else ""
    try:
        if command:  # without the group, and so without the other commands: half of the time it takes to start
            code = one_command(command)(list(args[1:]), prog_name=f"capture {command}", standalone_mode=False)
        else:
            code = all_commands()(list(args), prog_name="capture", standalone_mode=False)
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


def one_command(name: str) -> typer.Typer:
    """The command line of one command alone."""
    app = typer.Typer(add_completion=False, **SETTINGS)
    app.command(name)(_command(name))
    return app


def all_commands() -> typer.Typer:
    """The command line as a whole, for `capture --help` and completion."""
    app = typer.Typer(
        name="capture",
        help="Train an image classifier from a folder and capture every batch: files, inputs, answers, labels, losses.",
        no_args_is_help=True,
        **SETTINGS,
    )
    app.callback()(_options)
    for name in COMMANDS:
        app.command(name)(_command(name))
    return app


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
    options = getattr(getattr(error, "param", None), "opts", [])
    given = [args[i + 1] for i, arg in enumerate(args[:-1]) if arg in options]
    given += [arg.partition("=")[2] for arg in args if arg.partition("=")[0] in options and "=" in arg]
    message = error.format_message().rstrip(".")
    return f"'{given[-1]}': {message}" if given else message


def _quiet_pipe(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command end quietly when whoever reads its output has gone."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered has no reader: the interpreter would complain about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result

    return guarded
