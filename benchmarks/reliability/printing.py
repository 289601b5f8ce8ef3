"""User code that prints from everywhere: stdout holds the data of the command and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.world import Done, Result, capture, make_images, warm

PLACES = {
    "import": "print({0!r})",
    "build": "",
    "forward": "",
    "descriptor": "os.write(1, b'{0}')",
    "first stdout": "sys.__stdout__.write({0!r})",
    "another process": "subprocess.run(['printf', {0!r}], check=True)",
    "C": "ctypes.CDLL(None).printf(b'{0}')",
    "a thread": "threading.Thread(target=print, args=({0!r},)).start()",
    "logging": "logging.basicConfig(stream=sys.stdout); logging.error({0!r})",
}
"""Place from which a model prints -> code that does it while the file is imported."""
NOISE = "noise of the model"
MODEL = """
import ctypes, logging, os, subprocess, sys, threading
from torch import nn
{imported}

class Net(nn.Linear):
    def forward(self, x):
        {forward}
        return super().forward(x.flatten(1))

def net(classes, channels, height, width):
    {build}
    return Net(channels * height * width, classes)
"""
NAMED = """
from pathlib import Path

exec(Path(__file__).with_name("noisy.py").read_text())
"""
"""The file that `--model` names, the same for every place: its digest is recorded."""
TRAIN = ("train", "images", "-m", "net.py:net", "-e", "2", "-b", "4", "--device=cpu", "-q")
COMMANDS = {
    "train -o -": (*TRAIN, "-o", "-"),
    "evaluate --json": ("evaluate", "run", "images", "--json", "-q", "--device=cpu", "-o", "again", "--force"),
    "evaluate -o -": ("evaluate", "run", "images", "-q", "--device=cpu", "-o", "-"),
    "replay --outputs --json": ("replay", "run", "--outputs", "--model", "net.py:net", "--json"),
}


def figure(place: Path, result: Result, *, large: bool) -> None:
    """Every command with every place, or each place once."""
    warm()
    make_images(place / "images", count=16)
    _write_model(place, "")
    assert capture([*TRAIN, "-o", "run"], place).code == 0
    silent = {name: _output(place, args)[0] for name, args in COMMANDS.items()}
    cases = [(name, where) for name in COMMANDS for where in PLACES]
    for name, where in cases if large else cases[::4]:
        _write_model(place, where)
        data, done = _output(place, COMMANDS[name])
        result.tried += 1
        result.expect(done.code == 0, f"{name}, printing from {where}: {done}")
        result.expect(
            data == silent[name], f"{name}, printing from {where}: stdout is {data[:200]!r}, not {silent[name][:200]!r}"
        )
        result.expect(NOISE in done.stderr, f"{name}, printing from {where}: it is not on stderr either")
    result.all_there_are = large
    result.note = f"a model that prints from {len(PLACES)} places, {len(COMMANDS)} commands with data on stdout"


def _write_model(place: Path, where: str) -> None:
    printing = f"print({NOISE!r})"
    (place / "net.py").write_text(NAMED)
    (place / "noisy.py").write_text(
        MODEL.format(
            imported=PLACES.get(where, "").format(NOISE),
            build=printing if where == "build" else "pass",
            forward=printing if where == "forward" else "pass",
        )
    )


def _output(place: Path, args: tuple[str, ...]) -> tuple[bytes, Done]:
    """Run a command in a child; return what it wrote to stdout."""
    path = place / "stdout"

    def redirect() -> None:
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)

    before: Callable[[], object] = redirect
    done = capture(args, place, before=before)
    return path.read_bytes(), done
