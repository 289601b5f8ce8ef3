"""A real `mlflow server` in a process of its own, for the tests that send runs to one.

with serving(folder) as server:
    server.client().get_run(...)
    with relay(server) as between:          # through which a run is sent while the test asks the server itself
        between.uri
        between.hang()                      # from now on nothing reaches the server, and nothing is answered
        between.end()                       # from now on nobody is there
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient

from capture_cli.cli.log import log
from recordings import lines

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
os.environ.update(QUIET)
TRAIN = ("-m", "linear", "-b", "4", "--device=cpu", "-q")


@dataclass
class Server:
    """Processes of one group, on a port of this machine."""

    uri: str
    process: subprocess.Popen[bytes]

    def client(self) -> MlflowClient:
        """MLflow's own reader."""
        return MlflowClient(self.uri)

    def kill(self) -> None:
        """At once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def runs(self, folder: Path) -> list[Any]:
        """The runs in MLflow that lead back to a run folder."""
        experiments = [one.experiment_id for one in self.client().search_experiments()]
        return list(self.client().search_runs(experiments, f"tags.`capture.run_folder` = '{folder.absolute()}'"))

    def run(self, folder: Path) -> Any:
        """The one run in MLflow that leads back to a run folder."""
        (run,) = self.runs(folder)
        return run

    def history(self, folder: Path, key: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, by step."""
        metrics = self.client().get_metric_history(self.run(folder).info.run_id, key)
        return sorted((metric.step, metric.value) for metric in metrics)

    def artifacts(self, folder: Path, to: Path) -> dict[str, bytes]:
        """Everything that lies beside the run, by path."""
        to.mkdir(parents=True)
        root = Path(self.client().download_artifacts(self.run(folder).info.run_id, "", str(to)))
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class Relay:
    """Carries bytes between clients and a server, until it hangs or ends."""

    def __init__(self, server: Server) -> None:
        """Listen on a port of its own."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._server = ("127.0.0.1", int(server.uri.rpartition(":")[2]))
        self._hanging = threading.Event()
        self._open: list[socket.socket] = []
        self._asking: set[socket.socket] = set()
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answered(self) -> bool:
        """Return True if no client waits for an answer."""
        return not self._asking

    def hang(self) -> None:
        """Take connections and what is asked, and answer nothing."""
        self._hanging.set()

    def end(self) -> None:
        """Refuse connections. May be called twice."""
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(source, sink, client), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._hanging.is_set():
                    continue
                if source is client:
                    self._asking.add(client)
                sink.sendall(data)
                if source is not client:
                    self._asking.discard(client)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._asking.discard(client)


@contextlib.contextmanager
def relay(server: Server) -> Iterator[Relay]:
    """A way to the server that can be cut while the server goes on."""
    between = Relay(server)
    try:
        yield between
    finally:
        between.end()


def points(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of the training steps in the records."""
    found = lines(run / "records.jsonl" if run.is_dir() else run, "batch")
    return [(batch["step"], batch["loss"]) for batch in found if batch["phase"] == "train"]


def parts(artifacts: dict[str, bytes]) -> bytes:
    """The parts of the records, one after the other."""
    return b"".join(data for name, data in sorted(artifacts.items()) if name.startswith("records/part-"))


def send(run: Path, uri: str) -> None:
    """What `capture log RUN --mlflow URI` does, in this process."""
    assert log(str(run), mlflow=uri) == 0


def sunk(run: Path) -> dict[str, Any]:
    """What events.jsonl says last of the sink."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "sink" and "sent" in event][-1]


def wait(until: Callable[[], object]) -> None:
    """For something to come true; pytest's own timeout ends a wait for what never does."""
    while not until():
        time.sleep(0.05)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(folder: Path, port: int | None = None) -> Iterator[Server]:
    """A server whose database and artifacts are in `folder`; one that was there before is gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--host=127.0.0.1", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/server.db", f"--artifacts-destination={folder}/artifacts"]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        _wait(server, folder / "server.log")
        yield server
    finally:
        server.kill()


def _wait(server: Server, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{server.uri}/health", timeout=5).ok:
                return
        time.sleep(0.1)
    raise AssertionError(f"no server came up:\n{log.read_text()[-2000:]}")
