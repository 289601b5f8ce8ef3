"""The command line: one small file per command, errors caught once, here.

A command parses, makes one library call and one view call. Data goes to stdout, everything for people to stderr. Exit codes:
0 done, 1 failed, 2 wrong usage, 3 no usable images or labels, 4 records damaged or untrue, 130 Ctrl-C, 143 SIGTERM; a closed
pipe (`| head`) ends a command quietly. Nothing heavy is imported here or in a command's module: only when its body runs.
"""

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from capture_cli import __version__
from capture_cli.cli import diff, evaluate, inspect, labels, replay, rows, train, verify
from capture_cli.errors import CaptureError, UsageError
from capture_cli.views.text import error_line

app = typer.Typer(
    name="capture",
    help="Train an image classifier from a folder and capture every batch: files, inputs, answers, labels, losses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; every failure becomes one line on stderr."""
    try:
        code = app(list(args), prog_name="capture", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except CaptureError as error:
        return _fail(error)
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return 2
        return _fail(UsageError(_what_was_wrong(error, args), _help_hint(args)))
    except OSError as error:
        where = f" ({error.filename!r})" if error.filename else ""
        return _fail(CaptureError(f"{error.strerror or error}{where}"))
    except Exception as error:  # noqa: BLE001 - the last door: a traceback is for whoever asks for it
        return _fail(
            CaptureError(
                f"a fault in capture: {type(error).__name__}: {error}", "set CAPTURE_DEBUG=1 to see where, and report it"
            )
        )


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


def _help_hint(args: Sequence[str]) -> str:
    command = args[0] if args and args[0] in _COMMANDS else ""
    return f"see `capture {command} --help`" if command else "see `capture --help`"


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


_COMMANDS: dict[str, Callable[..., int | None]] = {
    "labels": labels.labels,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "inspect": inspect.inspect,
    "rows": rows.rows,
    "diff": diff.diff,
    "replay": replay.replay,
    "verify": verify.verify,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_quiet_pipe(_command))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"capture {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
