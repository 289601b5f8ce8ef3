"""Typer's commands, made lighter: help is plain text without Rich, and values that have their type need no pydantic.

app = typer.Typer(cls=Group, rich_markup_mode=None)
app.command("train", cls=Command)(train)
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from capture_cli.errors import UsageError

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

_NAMES = re.compile(r"(?<!\S)--?\w[\w-]*")
_DEFAULT = re.compile(r"(?<=\[default: )\(([^()]*)\)(?=[;\]])")
"""Typer puts a default that is told in words in parentheses."""
_LEFT_CELLS = 24
"""Longer names have their text on the next line."""

Row = tuple[str, str]
"""An argument, option or command, and the text about it."""


class Command(TyperCommand):
    """A command. Its help has a section for every panel of options, in the order of the command line."""

    def get_params(self, ctx: Context) -> list[Any]:
        """Return arguments and options, that of help included."""
        found: list[Any] = super().get_params(ctx)
        for one in found:
            if getattr(one, "_runtime_param", one) is None:  # a private name of Typer
                one._runtime_param = _Typed(one)
        return found

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the command line. Raises UsageError for a long option with one dash, which Typer reads as `-e pochs`."""
        known = {name for one in self.get_params(ctx) for name in one.opts if name.startswith("--")}
        for arg in takewhile(lambda one: one != "--", args):
            if (meant := f"-{arg.partition('=')[0]}") in known:
                raise UsageError(f"no such option: {arg}", f"did you mean {meant}?")
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def format_help_text(self, _ctx: Context, formatter: HelpFormatter) -> None:
        """Write the docstring."""
        for paragraph in cleandoc(self.help or "").split("\n\n"):
            formatter.write(f"\n{_fill(paragraph, formatter.width, '  ')}\n")

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments and the options."""
        panels: dict[str, list[Row]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                name, text = record
                panels.setdefault(panel, []).append((_bare(name) if is_argument else name, _DEFAULT.sub(r"\1", text)))
        for panel, rows in panels.items():
            formatter.write(_section(panel, rows, formatter.width))

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return the names of the arguments as they are used: brackets mean optional."""
        return [_bare(piece) for piece in super().collect_usage_pieces(ctx)]


class _Typed:
    """The conversion of a parameter's value, left to Typer only where there is one: texts and defaults are what they are.

    Typer converts with pydantic, whose import takes a third of the time in which `capture` starts.
    """

    def __init__(self, parameter: Any) -> None:
        self._parameter = parameter

    def coerce(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the value, converted if it has to be. Raises what Typer raises."""
        parameter, wanted = self._parameter, self._parameter.type_descriptor.annotation
        if parameter.nargs == -1 or parameter.multiple:
            if value is None or (wanted == list[str] and all(type(one) is str for one in value)):
                return () if value is None else list(value)
        elif value is parameter.default or (type(value) is str and wanted is str):
            return value
        parameter._runtime_param = None  # Typer makes its own
        return parameter.get_runtime_param().coerce(value, *args, **kwargs)


class Group(TyperGroup):
    """All commands, listed with the whole first line of each."""

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the options and the commands."""
        rows = [record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))]
        formatter.write(_section("Options", rows, formatter.width))
        commands = [(name, command.short_help or "") for name, command in self.commands.items()]
        formatter.write(_section("Commands", commands, formatter.width))


def _bare(metavar: str) -> str:
    """Without the braces that Typer puts around what is required, its second dots and the type; in capitals."""
    name = re.sub(r"\{([^{}]*)\}", r"\1", metavar.partition(" <")[0])
    return name.replace("......", "...").replace("folder", "FOLDER")


def _section(heading: str, rows: Sequence[Row], width: int) -> str:
    return "\n".join(["", typer.style(f"{heading}:", bold=True), *_lines(rows, width), ""])


def _lines(rows: Sequence[Row], width: int) -> Iterator[str]:
    """Two columns, filled."""
    indent = " " * (4 + min(_LEFT_CELLS, max(len(name) for name, _ in rows)))
    color = None if os.environ.get("NO_COLOR") else "cyan"
    for name, text in rows:
        right = _fill(text, width, indent)
        left = f"  {_NAMES.sub(lambda found: typer.style(found[0], fg=color), name)}"
        fits = len(name) + 4 <= len(indent)
        yield left + right[len(name) + 2 :] if fits else f"{left}\n{right}"


def _fill(text: str, width: int, indent: str) -> str:
    """Fill lines; names such as --val-split stay whole."""
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
