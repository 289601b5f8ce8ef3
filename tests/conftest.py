"""Shared by the tests: real folders of small images, and the command line, inside the test's process or in its own."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from calling import Caller, called
from capture_cli.resources import processors

SAMPLE_DATA = Path(__file__).parent.parent / "sample_data"
if TYPE_CHECKING:
    from mlflow_server import Server

Capture = Callable[..., subprocess.CompletedProcess[str]]
CAPTURE = [sys.executable, "-m", "capture_cli"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`: a process for every processor that a container or an affinity leaves, at most 8 as each takes memory."""
    return min(processors(), 8)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let every process of `-n` compute with one thread, unless the environment says more."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With `-n`: while a test marked `alone` runs, no other does."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with (
        (item.config.rootpath / "pyproject.toml").open("rb") as turn,
        (item.config.rootpath / "Makefile").open("rb") as machine,
    ):
        fcntl.flock(turn, fcntl.LOCK_EX)  # nobody overtakes a test that waits until it is alone
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(machine, fcntl.LOCK_UN)  # closing it is not enough where the test has forked


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests a cache of decoded pixels of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_width() -> Iterator[None]:
    """Let terminals of tests have their own size; pytest-xdist names one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _hears_signals() -> Iterator[None]:
    """Handle SIGINT and SIGHUP, which a shell lets the tests ignore if it starts them in the background or by nohup."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def command(*args: object, cwd: Path, env: dict[str, str] | None = None, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run `capture ARGS...` in a process of its own; `env` is added to the environment, other keywords as in subprocess.run."""
    options: dict[str, object] = {"capture_output": True, "text": True, "cwd": cwd, **kwargs}
    return subprocess.run([*CAPTURE, *map(str, args)], env={**os.environ, **(env or {})}, **options)


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    """Run `capture ARGS...` in the test's folder, or in `cwd`.

    It runs inside the test's process unless keywords of subprocess.run or variables that are read at a start need another.
    """

    def run(
        *args: object, env: dict[str, str] | None = None, cwd: Path = tmp_path, **kwargs: object
    ) -> subprocess.CompletedProcess[str]:
        if kwargs or any(name.startswith(("PYTHON", "OMP_")) for name in env or {}):
            return command(*args, env=env, cwd=cwd, **kwargs)
        return called(*args, env=env, cwd=cwd)

    return run


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    """Call `capture ARGS...` in the test's folder, inside its process."""
    return Caller(tmp_path, monkeypatch, capsys)


def make_images(folder: Path, *, classes: int = 3, each: int = 8, size: tuple[int, int] = (8, 8), colour: bool = False) -> Path:
    """Make a folder of noisy PNG files `<class>_<number>.png` whose brightness shows the class: learnable in a few steps."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    names = ["ant", "bee", "cat", "dog", "eel"]
    for label in range(classes):
        for number in range(each):
            shape = (size[1], size[0], 3) if colour else (size[1], size[0])
            pixels = draw.normal(40 + 70 * label, 20, shape).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{names[label]}_{number:03d}.png")
    return folder


def train_networks(place: Path, *networks: str) -> Path:
    """Make `images` in colour in a folder, and `runs/NETWORK` of each of these networks on them."""
    from capture_cli.cli import run

    images = make_images(place / "images", each=12, colour=True, size=(12, 10))
    for model in networks:
        args = ["-m", model, "-e", "2", "--lr", "0.01", "--img-size", "8", "-q", "-o", str(place / "runs" / model)]
        assert run(["train", str(images), *args]) == 0
    return place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with `images` and two runs for the replay tests, `whole` and `grown`, see replay_runs; read-only."""
    from replay_runs import train_runs

    return train_runs(tmp_path_factory.mktemp("replay"))


@pytest.fixture
def here(place: Path, tmp_path: Path) -> Path:
    """Copy that folder, to be changed."""
    return shutil.copytree(place, tmp_path / "here")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """Start one MLflow server for all tests that do not end it."""
    from mlflow_server import serving

    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture
def own_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test writes where the environment says, and what MLflow puts there is gone with the test."""
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make 24 grey 8x8 images of 3 classes."""
    return make_images(tmp_path / "images")
