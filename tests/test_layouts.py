"""Folders of public data sets are understood, or refused with a command that goes on."""

import contextlib
import io
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from capture_cli.cli import run
from layout import Layout
from layouts import LAYOUTS


def make(folder: Path, layout: Layout) -> Path:
    """Empty files: a scan opens none. Tables hold their text."""
    for name in layout.files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in layout.tables.items():
        (folder / name).write_text(text)
    return folder


def typed(*args: str) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(args))
    return code, out.getvalue(), err.getvalue()


def classes(found: dict[str, Any]) -> list[str]:
    return sorted(one["name"] for one in found["classes"])


def is_right(found: dict[str, Any], layout: Layout) -> bool:
    if isinstance(layout.classes, int):
        return len(found["classes"]) == layout.classes
    return classes(found) == sorted(layout.classes or ())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.name)
def test_a_layout_is_right_or_refused_with_a_command_that_is(layout: Layout, tmp_path: Path) -> None:
    """Never silently wrong: the right classes, or an error whose commands run and find them."""
    folder = make(tmp_path / "data", layout)
    code, out, err = typed("labels", str(folder), "--json")
    if not layout.refused:
        assert code == 0, err
        found = json.loads(out)
        assert is_right(found, layout), (classes(found), err)
        assert set(layout.skipped) <= set(found["skipped"]), found["skipped"]
        assert bool(found["warnings"]) == layout.warned, found["warnings"]
        return
    assert code == 3, out
    commands = re.findall(r"`capture (labels [^`]+)`", err)
    assert commands, err
    results = []
    for command in commands:
        args = shlex.split(command.partition(" > ")[0])
        done = typed(*args, *([] if "--files" in args else ["--json"]))
        assert done[0] == 0, (command, done[2])
        if "--files" not in args:
            results.append(json.loads(done[1]))
    if layout.classes is not None:
        assert any(is_right(one, layout) for one in results), err


def test_there_are_enough_layouts() -> None:
    """At least sixty, each with a name of its own."""
    assert len(LAYOUTS) >= 60
    assert Counter(one.name for one in LAYOUTS).most_common(1)[0][1] == 1
