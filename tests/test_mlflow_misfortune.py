"""A server that goes away or hangs, a training or a sink that is killed: the run is what it was.

Against a real server in a process of its own, read back with MLflow's own client.
"""

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from capture_cli import MlflowSink, Recorder
from capture_cli.sinks.follower import WAIT_SECONDS
from capture_cli.sinks.uri import CONNECT_SECONDS
from conftest import CAPTURE, Capture
from holding import held, held_at, held_model, let_go
from mlflow_server import TRAIN, Server, parts, points, relay, send, sunk, wait
from recordings import give, lines, recording
from runs import chained, run_records, write_run

pytestmark = pytest.mark.usefixtures("own_uri")

KILLED = """
import os, signal, sys
from pathlib import Path
import mlflow, requests
from capture_cli.cli.log import log

def last(left, answered, ask=requests.Session.send):
    def ask_or_die(*args, **kwargs):
        nonlocal left
        left -= 1
        if left or answered:
            answer = ask(*args, **kwargs)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return ask_or_die

run, uri = Path(sys.argv[1]), sys.argv[3]
records = Path(sys.argv[2]).read_bytes().splitlines(keepends=True)
for number, requests_made in enumerate((3, 9, 7, 11, 8, 10)):
    have = len(records) * (number + 3) // 9
    (run / "records.jsonl").write_bytes(b"".join(records[:have]) + records[have][:9])
    if os.fork() == 0:
        requests.Session.send = last(requests_made, number % 2)
        log(str(run), mlflow=uri)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def timed(call: Callable[..., object], *args: object) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call(*args)
    return time.perf_counter() - began


def test_a_server_that_is_killed(server: Server, tmp_path: Path) -> None:
    """The loop goes on to its end; afterwards the same server gets what it has not, and nothing twice."""
    run = tmp_path / "run"
    with relay(server) as between, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        sink = MlflowSink(between.uri)
        with recording(run, sinks=[sink]) as recorder:
            for _ in range(3):
                give(recorder)
            wait(lambda: sink.run_id and len(server.history(run, "loss")) == 3 and between.answered())
            between.end()
            for _ in range(20):
                give(recorder)
    ours = [str(one.message) for one in heard if "mlflow" in str(one.message)]
    assert len(ours) == 1
    assert ours[0].startswith(f"mlflow: no server at {between.uri}; the run goes on without it; `capture log")
    counts = sunk(run)
    assert counts["error"] == f"no server at {between.uri}"
    assert counts["sent"] == {"metrics": 3, "evaluations": 0, "parts": 0}
    assert len(points(run)) == 23
    assert server.run(run).info.status in ("RUNNING", "KILLED")
    send(run, server.uri)
    assert server.run(run).info.run_id == counts["run_id"]
    assert server.history(run, "loss") == points(run)
    assert server.run(run).info.status == "FINISHED"
    assert parts(server.artifacts(run, tmp_path / "all")) == (run / "records.jsonl").read_bytes()


def test_a_server_that_hangs(server: Server, tmp_path: Path) -> None:
    """No step waits for it, the end waits as long as it was told to, and afterwards the rest is sent."""
    with relay(server) as between:
        run, sink = tmp_path / "run", MlflowSink(between.uri, wait_seconds=1.0)
        recorder = recording(run, sinks=[sink])
        give(recorder)
        wait(lambda: sink.run_id and server.history(run, "loss") == points(run) and between.answered())
        between.hang()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            slowest = max(timed(give, recorder) for _ in range(200))
            waited = timed(recorder.close)
    (warning,) = (str(one.message) for one in heard if "mlflow" in str(one.message))
    end = "not everything was sent within 1 seconds"
    silence = (
        f"the server at {between.uri} takes connections, but does not answer within 20 seconds"  # if the steps took as long
    )
    assert warning.startswith((f"mlflow: {end}; the run goes", f"mlflow: {silence}; the run goes"))
    assert "`capture log" in warning
    assert slowest < CONNECT_SECONDS  # for which whoever asks the server waits
    assert waited < WAIT_SECONDS / 2
    assert sunk(run)["error"] in (end, silence)
    send(run, server.uri)
    assert server.history(run, "loss") == points(run)
    assert len(points(run)) == 201


def test_the_exit_code_is_that_of_the_run(server: Server, capture: Capture, images: Path, tmp_path: Path) -> None:
    """`capture train` whose server dies warns once, exits with 0, and its records are those of a run without it."""
    options = ["train", images.name, "-m", held_model(tmp_path), *TRAIN[2:], "-e", "3"]
    assert capture(*options, "-o", "plain").returncode == 0
    with relay(server) as between:
        started = [*CAPTURE, *options, "-o", "run", "--mlflow", between.uri]
        with subprocess.Popen(started, cwd=tmp_path, env=held_at(8), stderr=subprocess.PIPE, text=True) as process:
            held(tmp_path, process)
            between.end()
            let_go(tmp_path)
            _, said = process.communicate()
    assert process.returncode == 0
    (line,) = said.splitlines()
    assert line.startswith("warning: mlflow: ")
    assert line.endswith(f"; `capture log run --mlflow {between.uri} --model` sends the rest")
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == (tmp_path / "plain" / "records.jsonl").read_bytes()


def test_the_advice_sends_the_model_too(server: Server, capture: Capture, images: Path, tmp_path: Path) -> None:
    """A server that dies leaves MLflow without the model: `--model` is in the advice, and without it the model is told of."""
    with relay(server) as between:
        options = ["-m", held_model(tmp_path), *TRAIN[2:], "-e", "1", "-o", "run", "--mlflow", between.uri]
        started = [*CAPTURE, "train", images.name, *options]
        with subprocess.Popen(started, cwd=tmp_path, env=held_at(2), stderr=subprocess.DEVNULL) as process:
            held(tmp_path, process)
            between.end()
            let_go(tmp_path)
    told = [capture("log", "run", "--mlflow", server.uri, *more).stderr for more in ([], [], ["--model"], ["--model"], [])]
    assert told[0].endswith(" 1 parts; the model is not there, --model sends it\n")
    assert told[1] == f"sent to {server.uri}: nothing, all but the model was there; --model sends it\n"
    assert told[2] == f"sent to {server.uri}: 1 model\n"
    assert told[3] == told[4] == f"sent to {server.uri}: nothing, all of it was there\n"
    assert len(server.run(tmp_path / "run").outputs.model_outputs) == 1


def test_a_run_that_is_killed_and_resumed_has_every_step_once(server: Server, images: Path, tmp_path: Path) -> None:
    """After `kill -9` the process of the sink sends what is there, and that the run was killed; resuming sends the rest."""
    run, options = tmp_path / "run", ["-m", held_model(tmp_path), *TRAIN[2:], "-e", "9", "-o", "run"]
    started = [*CAPTURE, "train", images.name, *options, "--mlflow", server.uri]
    with subprocess.Popen(started, cwd=tmp_path, env=held_at(16), stderr=subprocess.DEVNULL) as process:
        held(tmp_path, process)
        wait(lambda: server.runs(run))
        process.kill()
        let_go(tmp_path)
    wait(lambda: server.run(run).info.status == "KILLED")
    whole = (run / "records.jsonl").read_bytes()
    assert whole.endswith(b"\n")
    assert parts(server.artifacts(run, tmp_path / "killed")) == whole
    before = len(points(run))
    resumed = [*CAPTURE, "train", "--resume", "run", "-q", "--mlflow", server.uri]
    with subprocess.Popen(resumed, cwd=tmp_path, env=held_at(30)) as process:
        held(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        let_go(tmp_path)
    assert len(points(run)) > before + 5
    assert server.history(run, "loss") == points(run)
    assert parts(server.artifacts(run, tmp_path / "resumed")) == (run / "records.jsonl").read_bytes()
    artifacts = server.artifacts(run, tmp_path / "again")
    listed = {name: json.loads(data) for name, data in artifacts.items() if name.endswith("/worst.json")}
    epochs = [one["epoch"] for one in lines(run / "records.jsonl", "epoch") if one["phase"] == "val"]
    assert len(epochs) > 2
    assert list(listed) == [f"worst/val-epoch-{epoch:04d}/worst.json" for epoch in epochs]
    incomplete = [name for name, worst in listed.items() if not all("picture" in one for one in worst)]
    assert len(incomplete) <= 1  # that during which it was killed: an earlier process saw a part of it


def test_sending_that_is_killed_over_and_over(server: Server, tmp_path: Path) -> None:
    """While the run grows `capture log` is killed before and after requests; in the end every value is there once."""
    records = chained(run_records(epochs=12))
    run, whole = write_run(tmp_path / "run", []), tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join(records))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), str(whole), server.uri], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 6, done.stderr
    (run / "records.jsonl").write_bytes(b"".join(records))
    send(run, server.uri)
    assert server.history(run, "loss") == points(run)
    epochs = [(one["epoch"], one["loss"]) for one in lines(run / "records.jsonl", "epoch") if one["phase"] == "val"]
    assert server.history(run, "val/loss") == epochs
    assert parts(server.artifacts(run, tmp_path / "all")) == b"".join(records)


def test_another_process_that_sends_the_same_run_is_waited_for(server: Server, tmp_path: Path) -> None:
    """Two that compare and send at once would both send."""
    write_run(tmp_path / "run")
    (tmp_path / "run" / "events.jsonl").touch()
    command = [*CAPTURE, "log", str(tmp_path / "run"), "--mlflow", server.uri]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as one, subprocess.Popen(command) as other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert server.history(tmp_path / "run", "loss") == points(tmp_path / "run")


def test_the_training_is_gone(server: Server, tmp_path: Path) -> None:
    """Nobody is there for a report; MLflow is told all the same."""
    run, sink = tmp_path / "run", MlflowSink(server.uri)
    recorder = recording(run, sinks=[sink])
    give(recorder)
    wait(lambda: sink.run_id)
    process = sink._follower._process
    process.stdin.close()
    assert process.wait() == 0
    assert server.run(run).info.status == "KILLED"
    assert server.history(run, "loss") == points(run)
    recorder.close()


def test_a_sink_that_no_run_took_leaves_no_process(server: Server) -> None:
    """It can be closed all the same."""
    sink = MlflowSink(server.uri)
    sink.close()
    assert sink._follower._process.poll() is not None


def _end(recorder: Recorder) -> None:
    give(recorder)
    recorder.close()


def test_the_process_of_the_sink_is_killed(server: Server, tmp_path: Path) -> None:
    """One warning, and the rest can be sent; nothing waits for it, and it leaves nothing behind."""
    run, sink = tmp_path / "run", MlflowSink(server.uri)
    recorder = recording(run, sinks=[sink])
    give(recorder)
    wait(lambda: sink.run_id and server.history(run, "loss") == points(run))
    sink._follower._process.kill()
    with pytest.warns(UserWarning, match="mlflow: its process has ended; the run goes on without it; `capture log"):
        _end(recorder)
    assert not sink._follower.spool.folder.exists()
    send(run, server.uri)
    assert server.history(run, "loss") == points(run)
