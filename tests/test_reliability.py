"""The figures of docs/reliability.md in their small size: nothing that is done to a run there may fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIGURES = sorted(path.stem for path in (ROOT / "benchmarks" / "reliability").glob("*.py") if "def figure(" in path.read_text())
PAGE = ROOT / "docs" / "reliability.md"

pytestmark = pytest.mark.timeout(900)  # a minute on a quiet machine with two processors


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """All figures, in one process."""
    command = [sys.executable, "-m", "benchmarks.reliability", "--size", "ci"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=880)


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_failed(done: subprocess.CompletedProcess[str], figure: str) -> None:
    """`0 in N`; a figure that this machine cannot have (a small disk cannot be mounted) is skipped with its reason."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    found = [row for row in rows if row[0] == f"`{figure}`"]
    assert len(found) == 1, done.stdout + done.stderr
    failed, remark = found[0][1], found[0][-1]
    if failed == "0 in 0":
        pytest.skip(remark)
    assert failed.startswith("0 in "), done.stderr


def test_the_exit_code_says_whether_anything_failed(done: subprocess.CompletedProcess[str]) -> None:
    """0, since nothing did."""
    assert done.returncode == 0, done.stderr


def test_every_figure_is_told_of() -> None:
    """The page has a row for each."""
    assert [name for name in FIGURES if f"| `{name}` |" not in PAGE.read_text()] == []
