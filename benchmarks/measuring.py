"""What the measurements share: a command run to its end, and a row of the table."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CAPTURE = [str(Path(sys.executable).with_name("capture"))]


class Row(NamedTuple):
    """One line of the table."""

    what: str
    capture: str
    beside: str
    ratio: str
    wanted: str
    met: bool


class Ran(NamedTuple):
    """One process: how long it took in seconds, its peak resident memory in MB, what it printed."""

    seconds: float
    peak_mb: float
    stdout: str


def ran(command: Sequence[str]) -> Ran:
    """Run a command to its end. Raises CalledProcessError, with what it said, if it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command), stderr=err.read())
        kilobyte = 1 if sys.platform == "darwin" else 1024  # macOS counts ru_maxrss in bytes
        return Ran(seconds, usage.ru_maxrss * kilobyte / 1e6, out.read())
