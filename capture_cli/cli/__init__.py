"""The command line: one small file per command. Errors are caught once, here.

A command parses, makes one library call and one view call. Data goes to stdout, everything for people to stderr. Exit codes:
0 done, 1 failed, 2 wrong usage, 3 no usable images or labels, 4 records damaged or untrue, 5 a gate failed, 130 Ctrl-C, 143
SIGTERM. A closed pipe (`| head`) ends a command quietly.

Nothing heavy is imported here or at the top of a command's module, only when its body runs. Help imports no other command.
"""

import functools
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from capture_cli import __version__
from capture_cli.cli.arguments import refuse_empty, with_values
from capture_cli.cli.commands import Command, Group
from capture_cli.cli.streams import StdoutError, open_streams
from capture_cli.errors import CaptureError
from capture_cli.views.terminal.text import error_line

COMMANDS = {
    "labels": "Show what a folder would become: label rule, classes, images per split, skipped files.",
    "train": "Train an image classifier and record every batch: files, inputs, probabilities, labels, losses.",
    "evaluate": "Run a trained model on a labelled folder, record every batch, and print accuracy and loss.",
    "predict": "Predict the classes of images: one line each, with probabilities.",
    "runs": "List runs: model, best accuracy, the options that differ, size, state; or remove some.",
    "inspect": "Show what happened: epochs, classes, confusions, the worst samples.",
    "suspects": "Rank the samples whose label is probably wrong.",
    "rows": "Write one flat row per sample and visit to stdout.",
    "diff": "Compare runs: where they diverge, and which predictions changed.",
    "mcp": "Serve runs to a coding assistant, read-only, over the Model Context Protocol.",
    "replay": "Reproduce captured inputs from the image files and the recorded recipe, and compare their digests.",
    "log": "Send a run to MLflow or TensorBoard.",
    "verify": "Check the sequence, the chain, every record and the end line of runs.",
    "export": "Write a trained model as an ONNX file, checked on up to 64 real images.",
    "cache": "List the cache of decoded pixels, which saves later runs the decoding.",
}
"""Command -> the first line of its docstring. Each is a function in the module of its name in this package."""
SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; every failure becomes one line on stderr."""
    open_streams()
    try:
        code = _run(args)
        sys.stdout.flush()
    except StdoutError as error:
        return _lost(error)
    except SystemExit as leaving:  # Typer's answer to a closed pipe
        if isinstance(leaving.__context__, StdoutError):
            return _lost(leaving.__context__)
        raise
    return code


def _lost(error: StdoutError) -> int:
    """Return the exit code for data that could not be written to stdout: 0 if its reader, a process or a terminal, has gone."""
    # Nothing can take what is still buffered, and the interpreter would complain at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.reader_is_gone:
        return 0
    return fail(CaptureError(f"standard output could not be written: {error.strerror}", "the output is incomplete"))


def _run(args: Sequence[str]) -> int:
    command = args[0] if args and args[0] in COMMANDS else ""
    if args and args[0].strip() and not command and not args[0].startswith("-"):
        from capture_cli.cli.failures import unknown_command

        return fail(unknown_command(args[0], COMMANDS))
    try:
        refuse_empty(args)
        args = with_values(args)
        if command:  # without the other commands, which would double the time to start
            code = one_command(command)(list(args[1:]), prog_name=f"capture {command}", standalone_mode=False)
        else:
            needs_all = "_CAPTURE_COMPLETE" in os.environ or bool(COMMANDS.keys() & set(args))
            code = (all_commands if needs_all else named_commands)()(list(args), prog_name="capture", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except CaptureError as error:
        return fail(error)
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return 2
        from capture_cli.cli.failures import wrong_usage

        return fail(wrong_usage(error, command, args))
    except StdoutError:
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: tracebacks are for CAPTURE_DEBUG
        from capture_cli.cli.failures import explained

        return fail(explained(error))


def one_command(name: str) -> typer.Typer:
    """Build the command line of a single command."""
    app = typer.Typer(add_completion=False, **SETTINGS)
    app.command(name, cls=Command)(_command(name))
    return app


def all_commands() -> typer.Typer:
    """Build the whole command line, for completion and the documentation."""
    app = _group()
    for name, summary in COMMANDS.items():
        app.command(name, cls=Command, short_help=summary)(_command(name))
    return app


def named_commands() -> typer.Typer:
    """Build it without bodies and options, for `capture --help`, in a third of the time."""
    app = _group()
    for name, summary in COMMANDS.items():
        app.command(name, short_help=summary)(lambda: None)
    return app


def _group() -> typer.Typer:
    app = typer.Typer(
        name="capture",
        cls=Group,
        help="Train an image classifier from a folder, record every batch, and find out why it is wrong.",
        no_args_is_help=True,
        **SETTINGS,
    )
    app.callback()(_options)
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


def fail(error: CaptureError) -> int:
    """Print an error as one line on stderr, and return its exit code."""
    if os.environ.get("CAPTURE_DEBUG"):
        traceback.print_exc()
    print(error_line(error), file=sys.stderr)  # noqa: T201
    return error.exit_code


def _quiet_pipe(command: Callable[..., Any]) -> Callable[..., Any]:
    """End a command quietly when the reader of its output, a process or a terminal, has gone."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not gc.isenabled():  # see capture_cli.__main__; what has been imported stays
            gc.freeze()
            gc.enable()
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of records that go to a pipe
            return 0
        return result

    return guarded
