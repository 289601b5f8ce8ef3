"""Errors of the host are named: the resource, the limit, the file; none of them is called a bug."""

import errno
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capture_cli.cli import run as command
from capture_cli.cli.failures import explained
from conftest import CAPTURE

Capture = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: "),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "out of memory: ",
        ),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory: "),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: "),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "the device is out of memory; lower --batch-size"),
        (RuntimeError("can't start new thread"), "no more threads or processes can be started"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads or processes can be started"),
        (OSError(errno.EMFILE, "Too many open files", "a.png"), "too many open files: 'a.png'; the limit is "),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "a file could not be written: No space left on device; free some space",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), "No space left on device ('x/y')"),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), "Permission denied ('secret')"),
        (ZeroDivisionError("division by zero"), "a bug in capture: ZeroDivisionError: division by zero; run it again"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_an_error_of_the_host_names_the_resource(error: Exception, said: str) -> None:
    """A bug is called one, and nothing else is."""
    assert str(explained(error)).startswith(said)


def test_a_limit_of_address_space_is_named(images: Path) -> None:
    """`ulimit -v` below what torch needs."""
    line = f"ulimit -v 1500000; {shlex.join(CAPTURE)} train images -m linear -e 1 -q -o run"
    done = subprocess.run(["bash", "-c", line], cwd=images.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("capture: out of memory: this process may take 1.4 GB (`ulimit -v`); lower --batch-size")


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A control group with a limit of processes and threads."""
    for top in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = top / f"capture-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / "pids.max").write_text("5")
            break
        except OSError:
            if group.is_dir():
                group.rmdir()
    else:
        pytest.skip("no control group can be made here")
    yield group
    group.rmdir()


def test_a_limit_of_threads_is_named(few_processes: Path, images: Path) -> None:
    """The limit of the control group, and the way out."""
    line = f"echo $$ > {few_processes}/cgroup.procs; {shlex.join(CAPTURE)} train images -m linear -e 1 -q -o run; true"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    (few_processes / "pids.max").write_text("2")
    done = subprocess.run(
        ["bash", "-c", line], cwd=images.parent, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert "capture: no more threads or processes can be started: the control group may have 2; raise" in done.stderr


def test_memory_that_runs_out_while_training_is_in_the_events(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the records are sealed as failed."""
    monkeypatch.chdir(images.parent)
    Path("net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    calls = 0\n"
        "    def forward(self, x):\n"
        "        self.calls += 1\n"
        "        if self.calls == 3: raise MemoryError\n"
        "        return super().forward(x.flatten(1))\n"
        "def make(classes, channels, height, width): return Net(channels * height * width, classes)\n"
    )
    assert command(["train", "images", "-m", "net.py:make", "-e", "1", "-b", "4", "-q", "-o", "run"]) == 1
    assert capsys.readouterr().err.startswith("capture: out of memory: ")
    assert '"error":"MemoryError"' in Path("run/events.jsonl").read_text().splitlines()[-1]
    assert '"status":"failed"' in Path("run/records.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize("option", ["--png", "--npy"])
def test_a_full_disk_behind_replay_is_named(capture: Capture, images: Path, tmp_path: Path, option: str) -> None:
    """The folder of pictures is at fault, not standard output."""
    assert capture("train", images, "-m", "linear", "-e", "1", "-q", "-o", "run").returncode == 0
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        done = capture("replay", "run", option, disk / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 1
    assert re.fullmatch(
        r"capture: '.*disk/out.*' could not be written: No space left on device; choose another path\n", done.stderr
    )
