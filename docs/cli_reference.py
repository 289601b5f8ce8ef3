"""Generate the command reference in docs/cli.md from the commands themselves.

python docs/cli_reference.py            # rewrites the page below its mark
reference()                             # the text, for the test that compares the two
"""

import inspect
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, ParameterInfo

from capture_cli.cli import all_commands

PAGE = Path(__file__).parent / "cli.md"
BEGIN = "<!-- from here to the end: written by `make docs` -->\n"


def reference() -> str:
    """Return Markdown: one section per command, with its help, its arguments and one table per options panel."""
    commands = all_commands().registered_commands
    return "".join(_command(str(command.name), command.callback) for command in commands if command.callback)


def rewritten(page: str) -> str:
    """Return `page` with everything below the mark replaced by the reference."""
    before, mark, _ = page.partition(BEGIN)
    if not mark:
        raise SystemExit(f"docs/cli.md has lost its mark: {BEGIN.strip()}")
    return before + mark + reference()


def _command(name: str, function: Callable[..., Any]) -> str:
    hints = get_type_hints(function, include_extras=True)
    usage = [f"capture {name} [OPTIONS]"]
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if hints[parameter.name] is typer.Context:
            continue
        kind, info = _parameter(hints[parameter.name])
        if isinstance(info, ArgumentInfo):
            called = info.metavar or parameter.name.upper()
            usage.append(called if parameter.default is parameter.empty else f"[{called}]")
            panels.setdefault("Arguments", []).append((f"`{called}`", info.help or ""))
        else:
            panels.setdefault(info.rich_help_panel or "Options", []).append(_option(parameter, kind, info))
    text = f"\n### capture {name}\n\n{_prose(inspect.getdoc(function))}\n\n```text\n{' '.join(usage)}\n```\n"
    for panel, rows in panels.items():
        text += f"\n| {panel} | |\n| --- | --- |\n"
        text += "".join(f"| {_cell(left)} | {_cell(right)} |\n" for left, right in rows)
    return text


def _parameter(hint: Any) -> tuple[Any, ParameterInfo]:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"a command parameter needs typer.Option or typer.Argument: {hint}")
    kind, info = get_args(hint)[:2]
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(member for member in get_args(kind) if member is not type(None))
    return kind, info


def _option(parameter: inspect.Parameter, kind: Any, info: ParameterInfo) -> tuple[str, str]:
    # Inside Annotated, Typer stores the first option name in `default`.
    names = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    names = sorted(names, key=len) or [f"--{parameter.name.replace('_', '-')}"]
    left = ", ".join(f"`{name}`" for name in names)
    if kind is not bool:
        left += f" {info.metavar or {int: 'N', float: 'X'}.get(kind, 'TEXT')}"
    default = parameter.default
    shown = "" if default is None or default is False else f" Default: `{default}`."
    return left, f"{info.help or ''}{shown}".strip()


def _prose(text: str | None) -> str:
    return re.sub(r"<(?=\w)", r"\<", text or "")  # or a browser takes <time> for a tag


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
