"""The figures of docs/reliability.md in their small size: nothing that is done to a run there may fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIGURES = sorted(path.stem for path in (ROOT / "benchmarks" / "reliability").glob("*.py") if "def figure(" in path.read_text())


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_failed(figure: str) -> None:
    """Exit code 0 and `0 in N`; what this machine cannot do (mounting a small disk) is said."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability", "--size", "ci", "--only", figure],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name, failed, *_, remark = (cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|"))
    assert name == figure
    if failed == "0 in 0":
        pytest.skip(remark)
    assert failed.startswith("0 in "), done.stdout


def test_every_figure_is_run_and_told_of() -> None:
    """The runner knows each module, and the page has a row for it."""
    from benchmarks.reliability.__main__ import FIGURES as run

    page = (ROOT / "docs" / "reliability.md").read_text()
    assert sorted(run) == FIGURES
    assert [name for name in FIGURES if f"| `{name}` |" not in page] == []
