"""A real `mlflow server` in a process of its own, for the tests that send runs to one.

with serving(folder) as server:
    server.client().get_run(...)
    server.stop(); server.go_on()           # as one that hangs
    server.kill()
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass
class Server:
    """Processes of one group, on a port of this machine."""

    uri: str
    process: subprocess.Popen[bytes]

    def client(self) -> MlflowClient:
        """MLflow's own reader."""
        return MlflowClient(self.uri)

    def stop(self) -> None:
        """Let it hang: connections are taken and never answered."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop`."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """At once. May be called twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def run(self, folder: Path) -> Any:
        """The one run in MLflow that leads back to a run folder."""
        experiments = [one.experiment_id for one in self.client().search_experiments()]
        (run,) = self.client().search_runs(experiments, f"tags.`capture.run_folder` = '{folder.absolute()}'")
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
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **QUIET}, stdout=log, stderr=log, start_new_session=True
        )
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
