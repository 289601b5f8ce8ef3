"""Threads that compute: how many (`--threads`), and how long they wait for work."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from capture_cli.cli import run
from conftest import CAPTURE, make_images

TRAIN = ["train", "images", "-m", "mlp", "-e", "2", "-b", "8", "-q"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand beside a folder of images; afterwards torch has as many threads as before."""
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


def _threads(records: str) -> int:
    with Path(records).open() as file:
        found: int = json.loads(file.readline())["threads"]
        return found


def test_the_number_is_used_and_recorded(here: Path) -> None:
    """In train, evaluate and predict."""
    assert run([*TRAIN, "-o", "run", "--threads", "1"]) == 0
    assert run(["evaluate", "run", "images", "-q", "-o", "test.jsonl", "--threads", "3"]) == 0
    assert run(["predict", "run", "images", "-q", "--records", "predicted.jsonl", "--threads", "2"]) == 0
    assert [_threads(one) for one in ("run/records.jsonl", "test.jsonl", "predicted.jsonl")] == [1, 3, 2]
    assert torch.get_num_threads() == 2


def test_resume_names_the_option_that_keeps_the_number(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that began with another number of threads resumes with --threads."""
    assert run([*TRAIN, "-o", "run", "--threads", "1"]) == 0
    resume = ["train", "--resume", "run", "-e", "3", "-q"]
    assert run([*resume, "--threads", "2"]) == 2
    message = "results may differ: threads was 1, is 2; --threads 1 computes as the run did; --allow-env-change resumes anyway"
    assert message in capsys.readouterr().err
    assert run([*resume, "--threads", "1"]) == 0


def test_how_long_threads_wait_changes_no_record(here: Path) -> None:
    """Equal bytes for any of the variables of OpenMP."""
    found = set()
    for number, variable in enumerate(("", "GOMP_SPINCOUNT=300000", "OMP_WAIT_POLICY=PASSIVE")):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_WAIT"))}
        env |= dict([variable.split("=")]) if variable else {}
        subprocess.run([*CAPTURE, *TRAIN, "--threads", "2", "-o", f"{number}.jsonl"], env=env, check=True)
        found.add(Path(f"{number}.jsonl").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("", "10000"), ("GOMP_SPINCOUNT=7", "7"), ("OMP_WAIT_POLICY=ACTIVE", "None"), ("KMP_BLOCKTIME=1", "None")],
)
def test_threads_wait_shortly_unless_the_user_decides(variable: str, expected: str) -> None:
    """The variable is set before anything is loaded, and never over the user's own."""
    code = "import os, sys\nfrom capture_cli.__main__ import main\nsys.argv = ['capture', '--version']\ntry:\n    main()\n"
    code += "finally:\n    print(os.environ.get('GOMP_SPINCOUNT'), file=sys.stderr)"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_WAIT", "KMP_"))}
    env |= dict([variable.split("=")]) if variable else {}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == expected
