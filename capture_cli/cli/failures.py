"""Errors of the host: the resource that ran out, in words, with the limit that applies and how to raise it.

    raise explained(error)          # MemoryError, "can't start new thread", too many open files, no space left, ...

What is left is a bug in capture, and is called one.
"""

import errno
import os
import re
import resource
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from capture_cli.errors import CaptureError, UsageError, closest, did_you_mean
from capture_cli.resources import control_groups, memory_available
from capture_cli.runs.names import holds_run

_NO_MEMORY = ("allocate memory", "not enough memory", "failed to map segment", "out of memory", "bad_alloc")
_NO_THREAD = ("start new thread", "thread creation failed", "pthread_create")
_LONG = 60
"""Characters of a value that a message shows."""
_SHOWN = 3
"""Commands that are named as those that have an option."""
_OTHER_NAMES = {
    "check": "capture labels FOLDER --check",
    "list": "capture runs",
    "resume": "capture train --resume RUN",
    "show": "capture inspect RUN",
}
"""Words for which the closest command is another one than what is meant."""
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
"""Types by the first word of pydantic's errors, in words."""
_FULL = {errno.ENOSPC, errno.EDQUOT}


def unknown_command(name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a command that there is not, such as the name of a folder."""
    hint = did_you_mean(name, known, "see `capture --help`")
    if name in _OTHER_NAMES:
        hint = f"did you mean `{_OTHER_NAMES[name]}`?"
    if os.path.isdir(name):  # noqa: PTH112
        where = named = shlex.quote(name)
        hint = f"did you mean `capture inspect {where}`?" if holds_run(Path(name)) else f"did you mean `capture train {named}`?"
    return UsageError(f"no such command: '{name}'", hint)


def wrong_usage(error: typer.TyperException, command: str, args: Sequence[str]) -> UsageError:
    """Return the error for arguments that Typer refuses: what is missing, unknown or too many, or the value at fault.

    Without a `command` they are those of `capture` itself.
    """
    message, kind, context = error.format_message(), type(error).__name__, getattr(error, "ctx", None)
    see = f"see `{f'capture {command}'.strip()} --help`"
    if kind == "NoSuchOption":
        return _unknown_option(getattr(error, "option_name", ""), command, see)
    usage = " ".join(["capture", command, *context.command.collect_usage_pieces(context)[1:]]) if context else ""
    if "unexpected extra argument" in message:
        return _extra_arguments(message, args, usage)
    if kind == "MissingParameter":
        metavar = getattr(getattr(error, "param", None), "metavar", "")
        return UsageError(f"missing argument: {metavar}", f"usage: {usage}")
    return _refused(error, message, see)


def _refused(error: typer.TyperException, message: str, see: str) -> UsageError:
    """Return the error for a value that Typer could not convert: the option, the value and what it takes."""
    found: list[Any] = getattr(error.__cause__ or error.__context__, "errors", list)()  # of pydantic
    parameter, context = getattr(error, "param", None), getattr(error, "ctx", None)
    if not found or parameter is None or context is None:
        return UsageError(message.rstrip("."), see)
    one, value = found[0], str(found[0]["input"])
    value = value if len(value) <= _LONG else f"{value[:_LONG]}..."
    kind = one["type"].partition("_")[0]
    bounds = {"greater_than_equal": "{ge} or more", "less_than_equal": "{le} or less"}
    takes = _KINDS.get(kind) or bounds.get(one["type"], one["msg"]).format(**one.get("ctx", {}))
    is_from_file = getattr(context.get_parameter_source(parameter.name), "name", "") == "DEFAULT_MAP"
    option = max(parameter.opts, key=len)
    return UsageError(f"{option} {value}{' in the config file' * is_from_file} is not valid", f"choose {takes}; {see}")


def _unknown_option(name: str, command: str, see: str) -> UsageError:
    """Return the error for an option that `command` does not have: the closest of its own, or the commands that have it."""
    from capture_cli.cli import COMMANDS, one_command

    known = dict[str, list[str]]()
    for one in COMMANDS:
        parameters = typer.main.get_command(one_command(one)).params
        known[one] = [option for one in parameters for option in one.opts if option[0] == "-"]
    own = {one.lstrip("-"): one for one in (*known.get(command, ["--version"]), "--help")}
    having = [other for other, options in known.items() if name in options]
    elsewhere = f"an option of {', '.join(having[:_SHOWN])}; " if having else ""
    close = [own[one] for one in closest(name.lstrip("-"), own)]
    return UsageError(f"no such option: {name}", f"did you mean {close[0]}? {see}" if close else f"{elsewhere}{see}")


def _extra_arguments(message: str, args: Sequence[str], usage: str) -> UsageError:
    """Return the error for more names than a command takes: a pattern that the shell expanded, or a name with spaces.

    `usage` is the command with the names of its arguments.
    """
    rest = _escaped(message.partition(" (")[2].removesuffix(")"))
    extra: list[str] = []
    first = len(args)
    for place, one in enumerate(args):
        written = _escaped(one)
        if rest == written or rest.startswith(f"{written} "):
            extra, first, rest = [*extra, one], min(first, place), rest[len(written) + 1 :]
    shown = ", ".join(f"'{one}'" for one in extra[:2]) + (f" and {len(extra) - 2:,} more" if len(extra) > 2 else "")
    said = f"{len(extra):,} arguments too many: {shown}" if len(extra) > 1 else f"one argument too many: {shown}"
    whole = " ".join([*args[max(0, first - 1) : first], *extra])
    if os.access(whole, os.F_OK):
        return UsageError(said, f"quote a name with spaces: {shlex.quote(whole)}")
    if "FOLDER" in usage and (len(extra) > 1 or os.path.isfile(extra[0])):  # noqa: PTH113
        return UsageError(said, "name the folder instead of its files, and quote a name with spaces")
    return UsageError(said, f"usage: {usage}; quote a name with spaces")


def _escaped(text: str) -> str:
    """Write control characters as Typer does in its messages."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def explained(error: Exception) -> CaptureError:
    """Return the error to show for one that nobody expected."""
    text = str(error).lower()
    code = error.errno if isinstance(error, OSError) else None
    if "cuda" in text and "out of memory" in text:
        return CaptureError("the device is out of memory", "lower --batch-size or --img-size")
    if isinstance(error, MemoryError) or code == errno.ENOMEM or any(one in text for one in _NO_MEMORY):
        return CaptureError(f"out of memory{_memory_limit()}", "lower --batch-size, --img-size or --ram, or raise the limit")
    if code == errno.EAGAIN or any(one in text for one in _NO_THREAD):
        return CaptureError(
            f"no more threads or processes can be started{_thread_limit()}", "raise the limit, or use --workers 0"
        )
    if code in (errno.EMFILE, errno.ENFILE):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return CaptureError(f"too many open files: {_where(error)}the limit is {most}", "raise it with `ulimit -n`")
    if code in _FULL and not _filename(error):
        hint = f"free some space; temporary files go to {tempfile.gettempdir()}, or to TMPDIR"
        return CaptureError(f"a file could not be written: {error.strerror}", hint)  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        return CaptureError(f"{error.strerror or error}{f' ({_filename(error)!r})' if _filename(error) else ''}")
    bug = f"a bug in capture: {type(error).__name__}: {error}"
    return CaptureError(bug, "run it again with CAPTURE_DEBUG=1 for a traceback, and report it")


def _filename(error: Exception) -> object:
    return getattr(error, "filename", None)


def _where(error: Exception) -> str:
    return f"{_filename(error)!r}; " if _filename(error) else ""


def _memory_limit() -> str:
    for kind, option in ((resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d")):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            return f": this process may take {_gb(most)} (`{option}`)"
    return f": {_gb(memory_available())} are left for this process"


def _thread_limit() -> str:
    for group in control_groups("pids"):
        try:
            with open(f"{group}/pids.max", encoding="ascii") as file:  # noqa: PTH123
                most = file.read().strip()
        except OSError:
            continue
        if most.isdigit():
            return f": the control group may have {most}"
    most_processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return "" if most_processes == resource.RLIM_INFINITY else f": this user may have {most_processes} (`ulimit -u`)"


def _gb(size: int) -> str:
    return f"{size / 2**30:.1f} GB"
