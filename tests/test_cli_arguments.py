"""Arguments that several commands share."""

import os
import pty
import subprocess

import pytest

from conftest import CAPTURE


@pytest.mark.parametrize("args", ["inspect -", "rows -", "verify -", "replay -", "diff - ."])
def test_a_terminal_is_no_run(args: str) -> None:
    """`capture rows -` without a pipe does not wait for somebody to type records."""
    parent, child = pty.openpty()
    done = subprocess.run([*CAPTURE, *args.split()], stdin=child, capture_output=True, text=True, timeout=60, check=False)
    os.close(parent)
    os.close(child)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stdin is a terminal, not records; pipe a run into it" in done.stderr.replace("\n", " ")
