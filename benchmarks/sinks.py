"""The cost of a sink per training step, beside a training without it and beside logging to MLflow by hand.

    python benchmarks/sinks.py [--repeats 3] [--epochs 6]

Fashion-MNIST's 10,000 test images and the model of plain_loop.py, as in bench.py. Trainings take turns, each in a process of
its own: `capture train` as it is, with `--mlflow` to SQLite, with `--mlflow` to a server, with `--tensorboard`; and
plain_loop.py with and without what people log by hand (one metric and three `log_text` of the first two samples, every batch).
The time of a step is that of the epochs' loops without the first, which reads the files. A ratio is the median of the ratios
of the turns, since the machine may be slower in one turn than in the next. The server runs niced beside the training, since it
usually has a machine of its own.

Prints a Markdown table as bench.py does.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from fashion import folder_of
from measuring import CAPTURE, DATA, HERE, PEER_OPTIONS, NotMeasuredError, Row, machine, ran, table

WANTED = 1.05
"""A step with the MLflow sink takes at most so many times as long as one without."""


def captured(folder: Path, epochs: int, *options: str) -> list[float]:
    """Train with capture: seconds per step of each epoch. Raises RuntimeError where a sink did not send everything."""
    with tempfile.TemporaryDirectory() as out:
        with contextlib.chdir(out):  # MLflow puts the artifacts of a database into the current folder
            ran([*CAPTURE, "train", str(folder), *PEER_OPTIONS, "-e", str(epochs), "-q", "-o", "run", *options])
        events = [json.loads(line) for line in Path(out, "run", "events.jsonl").read_text().splitlines()]
    for event in events:
        if event.get("error"):
            raise RuntimeError(f"not everything was sent: {event}")
    return [event["seconds"] / event["steps"] for event in events if event["event"] == "epoch"][1:]


def by_hand(folder: Path, epochs: int, *options: str) -> list[float]:
    """The loop that people write: seconds per step of each epoch."""
    lines = ran([sys.executable, str(HERE / "plain_loop.py"), str(folder), "--epochs", str(epochs), *options]).stdout
    return [epoch["seconds"] / epoch["steps"] for epoch in map(json.loads, lines.splitlines())]


@contextlib.contextmanager
def server(folder: str) -> Iterator[str]:
    """A `mlflow server` on a free port of this machine; its URI."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-m",
        "mlflow",
        "server",
        f"--port={port}",
        "--host=127.0.0.1",
        "--workers=1",
    ]
    command += [f"--backend-store-uri=sqlite:///{folder}/server.db", f"--artifacts-destination={folder}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310 - http
                break
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def sinks(repeats: int, epochs: int = 8, *, hand: bool = True) -> Iterator[Row]:
    """The rows; `hand` is what people log by hand, which takes longest. Raises NotMeasuredError where a tracker is missing."""
    for package in ("mlflow", "tensorboard"):
        if not find_spec(package):
            raise NotMeasuredError(f"{package} is not installed beside capture")
    data = folder_of("fashion10k", DATA)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as here, server(here) as uri:
        ways = {
            "plain": lambda: captured(data, epochs),
            "sqlite": lambda: captured(data, epochs, f"--mlflow=sqlite:///{here}/mlflow.db"),
            "server": lambda: captured(data, epochs, f"--mlflow={uri}"),
            "tensorboard": lambda: captured(data, epochs, "--tensorboard"),
        }
        if hand:
            ways["hand"] = lambda: by_hand(data, 1)
            ways["hand with mlflow"] = lambda: by_hand(data, 1, "--mlflow")
        for _ in range(repeats):
            for name, way in ways.items():
                times.setdefault(name, []).append(median(way()))
    yield from _rows(times)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--skip-hand", action="store_true", help="leave out plain_loop.py, which takes longest")
    options = parser.parse_args()
    rows = list(sinks(options.repeats, options.epochs, hand=not options.skip_hand))
    print(f"{machine()}\n\n{table(rows)}")
    return 0


def _rows(times: dict[str, list[float]]) -> Iterator[Row]:
    ms = {name: median(values) * 1e3 for name, values in times.items()}
    for name, what in (("sqlite", "--mlflow to SQLite"), ("server", "--mlflow to a server"), ("tensorboard", "--tensorboard")):
        ratio = median(one / plain for one, plain in zip(times[name], times["plain"], strict=True))
        shown = (f"{ms[name]:.2f} ms", f"{ms['plain']:.2f} ms")
        yield Row(f"a step with {what}, beside one without", *shown, f"{ratio:.3f}", f"at most {WANTED}", ratio <= WANTED)
    if "hand" in ms:
        cost, hand = (
            1e3 * median(one - other for one, other in zip(times[more], times[less], strict=True))
            for more, less in (("sqlite", "plain"), ("hand with mlflow", "hand"))
        )
        share = f"{cost / hand:.3f}"
        yield Row("what MLflow adds to a step, beside logging by hand", f"{cost:.2f} ms", f"{hand:.2f} ms", share, "-", True)


if __name__ == "__main__":
    sys.exit(main())
