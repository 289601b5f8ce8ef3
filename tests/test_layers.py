"""The rooms of the package and the doors between them: who may import whom, and who may import what from outside.

A new module needs a row here; a new arrow is a decision about the design, and this is where it is taken.
"""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "capture_cli"

ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "stopping": set(),
    "files": set(),
    "resources": {"errors"},
    # what both halves share
    "records": {"errors"},
    "journal": {"errors", "files", "records"},
    # folder -> labels and splits -> pixels -> inputs: no torch but where a batch becomes a tensor
    "sources": {"errors"},
    "labels": {"errors", "sources"},
    "keyed_random": {"errors"},
    "pixels": {"errors", "files", "keyed_random", "resources", "sources"},
    "augmentation": {"keyed_random"},
    "normalisation": set(),
    "preprocessing": {"augmentation", "errors", "keyed_random", "normalisation", "pixels"},
    "models": {"errors"},
    "config": {"augmentation", "errors", "pixels"},  # what the options of pixels may be
    "mixing": {"errors"},
    "objective": {"errors"},
    "check": {"errors", "labels", "pixels", "resources"},
    "plan": {
        *{"augmentation", "config", "errors", "labels", "models", "normalisation", "pixels", "preprocessing", "records"},
        "sources",
    },
    # the writing half: it knows torch
    "runtime": {"__init__", "errors", "pixels", "resources"},
    "runfolder": {"errors", "files", "journal"},
    "writer": {"config", "errors", "files", "journal", "preprocessing", "records", "runfolder"},
    "recorder": {"config", "errors", "files", "journal", "records", "runfolder", "runtime", "writer"},
    "integrations": {"errors", "recorder"},
    "checkpoint": {"errors", "files", "runfolder"},
    "training": {
        *{
            "answers",
            "checkpoint",
            "config",
            "errors",
            "files",
            "journal",
            "labels",
            "models",
            "pixels",
            "plan",
            "preprocessing",
        },
        *{"keyed_random", "mixing", "objective", "records", "resources", "runfolder", "runs", "runtime", "sources", "writer"},
    },
    # the reading half: it does not
    "runs": {"errors", "records", "sources"},
    "answers": {"errors", "mixing", "records", "runs"},
    "tables": {"answers", "errors", "records", "runs"},
    "replay": {"augmentation", "errors", "keyed_random", "mixing", "pixels", "preprocessing", "records", "runs", "sources"},
    "replay.outputs": {
        *{"checkpoint", "config", "errors", "journal", "models", "objective", "records", "replay", "runfolder"},
        *{"runtime", "writer"},
    },
    "sinks": {"__init__", "answers", "errors", "files", "preprocessing", "records", "replay", "runfolder", "runs"},
    "views": {"answers", "errors", "labels", "pixels", "preprocessing", "records", "replay", "runs"},
    "assistant": {"__init__", "answers", "errors", "runs", "tables", "views"},
    # on top
    "cli": {"*"},
    "__main__": {"cli"},
}
"""Room -> the rooms that it may import from. A sub-package is one room, whose files may import each other, unless one of them
has a row of its own."""

WALLS: dict[str, set[str]] = {
    "torch": {
        *{"augmentation", "checkpoint", "integrations", "models", "objective", "preprocessing", "recorder"},
        *{"replay.outputs", "runtime", "training", "writer"},
    },
    "torchvision": {"augmentation", "models"},
    "timm": {"models"},
    "transformers": {"integrations"},
    "safetensors": {"checkpoint", "models", "replay.outputs"},
    "pillow_heif": {"pixels"},
    "PIL": {"assistant", "pixels", "replay", "sinks"},
    "backports": {"runs"},
    "compression": {"runs"},
    "duckdb": {"tables"},
    "mlflow": {"sinks"},
    "requests": {"sinks"},
    "tensorboard": {"sinks"},
    "google": {"sinks"},
    "typer": {"cli"},
    "rich": {"views"},
    "natsort": {"labels"},
    "onnx": {"training"},
    "onnxruntime": {"training"},
    "onnxscript": {"training"},
    "tomli_w": {"cli", "runfolder"},
    "mcp": {"assistant"},
    "mcp_types": {"assistant"},
    "orjson": {"answers", "cli", "records", "replay", "runfolder", "runs", "tables"},
    "xxhash": {"keyed_random", "mixing", "pixels", "preprocessing", "replay", "runtime"},
    "pandas": {"answers", "runs"},
    "pyarrow": {"runs"},
    "numpy": {
        *{"answers", "assistant", "augmentation", "cli", "keyed_random", "mixing", "normalisation", "pixels", "preprocessing"},
        *{"recorder", "records", "replay", "replay.outputs", "runs", "runtime", "sinks", "tables", "training"},
        *{"views", "writer"},
    },
}
"""Package from outside -> the rooms that may import it, in whatever way. Any other may not be imported at all."""

LIGHT = {
    *{"answers", "config", "journal", "labels", "pixels", "plan", "records", "replay", "resources", "runs", "sinks", "sources"},
    *{"tables", "views"},
}
"""Rooms that must not reach torch, whatever they import imports."""
LAZY = {"augmentation", "models", "preprocessing"}
"""Rooms that import torch, but only inside the functions that need it: to import these loads none."""


class Import(NamedTuple):
    """`room` imports `module` in `where` (file:line)."""

    room: str
    module: str
    where: str


def imports(package: Path, rooms: Collection[str]) -> Iterator[Import]:
    """Every import in the package, wherever it stands: at the top, in a function, for types alone."""
    for file in sorted(package.rglob("*.py")):
        inside = file.relative_to(package)
        room = room_of(".".join(inside.with_suffix("").parts), rooms)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for module in _imported(node, package.name, inside):
                yield Import(room, module, f"{inside}:{node.lineno}")  # type: ignore[attr-defined]


def room_of(module: str, rooms: Collection[str]) -> str:
    """The room of a module, `views.terminal.text`: that of the longest beginning which has a row, else its first part."""
    parts = module.removesuffix(".__init__").split(".")
    beginnings = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((one for one in beginnings if one in rooms), parts[0])


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
    for room, module, where in imports(package, rooms):
        outer, _, rest = module.partition(".")
        if room not in rooms:
            found.append(f"{where}: the room '{room}' is not in the table")
        elif outer == package.name:
            other = room_of(rest, rooms)
            if other not in rooms:
                other = "__init__"  # a name that the package itself defines
            if other != room and other not in rooms[room] and "*" not in rooms[room]:
                found.append(f"{where}: {room} may not import {other}")
        elif outer not in sys.stdlib_module_names and room not in walls.get(outer, ()):
            found.append(f"{where}: {room} may not import {outer}")
    return found


def reached(rooms: Mapping[str, set[str]], start: str) -> set[str]:
    """The rooms that can be reached from one, itself included only if there is a way back to it."""
    found: set[str] = set()
    ahead = list(rooms[start])
    while ahead:
        room = ahead.pop()
        if room not in found:
            found.add(room)
            ahead += rooms.get(room, ())
    return found


def test_nobody_imports_past_the_table() -> None:
    """Every import of the package is one that the tables allow."""
    assert not offences(PACKAGE, ROOMS, WALLS)


def test_the_table_has_no_room_that_is_not_there() -> None:
    """The tables speak of this package, not of one that was."""
    files = [file.relative_to(PACKAGE).with_suffix("") for file in PACKAGE.rglob("*.py")]
    there = {room_of(".".join(file.parts), ROOMS) for file in files}
    assert set(ROOMS) == there
    assert set().union(*WALLS.values()) <= there
    assert there >= LIGHT | LAZY


def test_no_room_leads_back_to_itself() -> None:
    """The arrows have one direction: there is no circle."""
    assert [room for room in ROOMS if room in reached(ROOMS, room)] == []


def test_the_light_rooms_do_not_reach_torch() -> None:
    """What reads folders and records can be imported, and used, without torch."""
    for room in LIGHT:
        assert not (reached(ROOMS, room) | {room}) & WALLS["torch"] - LAZY, room


def test_the_lazy_rooms_load_torch_only_when_asked() -> None:
    """`preprocessing` and `models` import torch nowhere but inside a function or for types."""
    for room in LAZY:
        files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).glob("*.py"))
        for file in [
            one for one in files if one.name != "nets.py"
        ]:  # the networks themselves, which nothing imports at its top
            top = [node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
            modules = {module for node in top for module in _imported(node, PACKAGE.name, file.relative_to(PACKAGE))}
            assert not {module for module in modules if module.split(".")[0] in ("torch", "torchvision", "safetensors")}, file


PLANTED = {
    "import planted.views": "reader may not import views",
    "import planted.views.text as t": "reader may not import views",
    "from planted import views": "reader may not import views",
    "from planted.views.text import safe": "reader may not import views",
    "from . import views": "reader may not import views",
    "from .views import text": "reader may not import views",
    "def f():\n    from planted import views": "reader may not import views",
    "if TYPE_CHECKING:\n    from planted.views import text": "reader may not import views",
    "import torch": "reader may not import torch",
    "def f():\n    import torch.nn as nn": "reader may not import torch",
    "from torch.nn import functional": "reader may not import torch",
    "import requests": "reader may not import requests",
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_offence_is_found(code: str, tmp_path: Path) -> None:
    """The tests above can fail: an arrow that is not in the table is found in whatever way it is written."""
    package = tmp_path / "planted"
    (package / "views").mkdir(parents=True)
    (package / "reader.py").write_text("import json\nfrom planted import errors, records\n\n" + code + "\n")
    rooms = {"reader": {"errors", "records"}, "errors": set(), "records": set(), "views": set()}
    (offence,) = offences(package, rooms, {"torch": {"training"}})
    assert offence.endswith(PLANTED[code])


def test_a_room_without_a_row_and_a_circle_are_found(tmp_path: Path) -> None:
    """A new module needs a row, and a table that runs in a circle is seen to."""
    package = tmp_path / "planted"
    package.mkdir()
    (package / "new.py").write_text("import json\n")
    assert offences(package, {}, {}) == ["new.py:1: the room 'new' is not in the table"]
    assert "a" in reached({"a": {"b"}, "b": {"c"}, "c": {"a"}}, "a")


def test_an_allowed_import_is_no_offence(tmp_path: Path) -> None:
    """What the tables allow passes, and so do the standard library and a room's own files."""
    package = tmp_path / "planted"
    (package / "views").mkdir(parents=True)
    (package / "views" / "page.py").write_text(
        "import os.path\nimport rich.table\nfrom . import text\nfrom ..errors import E\n"
    )
    assert offences(package, {"views": {"errors"}, "errors": set()}, {"rich": {"views"}}) == []
