"""The rooms of the package and the doors between them: who may import whom, and who may import what from outside.

A new module needs a row here; a new arrow is a decision about the design, and this is where it is taken.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent.parent / "capture_cli"

ROOMS: dict[str, set[str]] = {
    # both halves
    "errors": set(),
    "records": {"errors"},
    "journal": {"errors", "records"},
}
"""Room -> the rooms it may import from. A sub-package is one room; its files may import each other."""

WALLS: dict[str, set[str]] = {
    "torch": set(),
}
"""Package from outside -> the rooms that may import it, at the top or inside a function. What is not named is free."""

FREE = {"*"}


class Import(NamedTuple):
    """`room` imports `module` in `where` (file:line)."""

    room: str
    module: str
    where: str


def imports(package: Path) -> Iterator[Import]:
    """Every import in the package, wherever it stands: at the top, in a function, for types alone."""
    for file in sorted(package.rglob("*.py")):
        inside = file.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for module in _imported(node, package.name, inside):
                yield Import(room, module, f"{inside}:{node.lineno}")  # type: ignore[attr-defined]


def _imported(node: ast.AST, package: str, inside: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            base = [package, *inside.parent.parts]
            base = base[: len(base) - node.level + 1]
            module = ".".join([*base, *([node.module] if node.module else [])])
        else:
            module = node.module or ""
        # `from capture_cli import models` imports the room, not something out of the package's own door.
        return [f"{module}.{alias.name}" for alias in node.names] if module == package else [module]
    return []


def offences(package: Path, rooms: Mapping[str, set[str]], walls: Mapping[str, set[str]]) -> list[str]:
    """Everything that the tables do not allow, a sentence each."""
    found = []
    for room, module, where in imports(package):
        outer, _, rest = module.partition(".")
        if outer == package.name:
            other = rest.split(".")[0]
            known = other in rooms
            if room not in rooms:
                found.append(f"{where}: the room '{room}' is not in the table")
            elif known and other != room and other not in rooms[room] and rooms[room] != FREE:
                found.append(f"{where}: {room} may not import {other}")
        elif outer in walls and room not in walls[outer]:
            found.append(f"{where}: {room} may not import {outer}")
    return found
