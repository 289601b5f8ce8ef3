"""Help as plain text: options by panel, headings and names set off on a terminal. Writing it needs no Rich.

app = typer.Typer(cls=Group, rich_markup_mode=None)
app.command("train", cls=Command)(train)
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

_NAMES = re.compile(r"(?<!\S)--?\w[\w-]*")
_LEFT_CELLS = 24
"""Longer names have their text on the next line."""

Row = tuple[str, str]
"""An argument, option or command, and the text about it."""


class Command(TyperCommand):
    """A command whose help has a section for every panel of options, in the order of the command line."""

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
                panels.setdefault(panel, []).append(record)
        for panel, rows in panels.items():
            formatter.write(_section(panel, rows, formatter.width))


class Group(TyperGroup):
    """All commands, listed with the whole first line of each."""

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the options and the commands."""
        rows = [record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))]
        formatter.write(_section("Options", rows, formatter.width))
        commands = [(name, command.short_help or "") for name, command in self.commands.items()]
        formatter.write(_section("Commands", commands, formatter.width))


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
