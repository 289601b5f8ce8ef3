"""MLflow: what it holds of a run is what the records say, and whatever becomes of it the records are the same.

Against a real server in a process of its own, read back with MLflow's own client.
"""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from capture_cli import MlflowSink
from capture_cli.cli.log import log
from capture_cli.errors import UsageError
from capture_cli.sinks.evaluations import WORST
from conftest import CAPTURE, make_images
from mlflow_server import QUIET, Server, free_port, serving
from runs import chained, run_records, write_run
from test_recorder import give, lines, recording

Capture = Callable[..., subprocess.CompletedProcess[str]]
TRAIN = ("-m", "linear", "-b", "4", "--device=cpu", "-q")
os.environ.update(QUIET)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that do not end it."""
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture(scope="module")
def run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder beside its images, trained with `--mlflow`."""
    folder = tmp_path_factory.mktemp("here")
    make_images(folder / "images", colour=True)
    command = [*CAPTURE, "train", "images", *TRAIN, "-e", "2", "-o", "run", "--mlflow", server.uri]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder / "run"


@pytest.fixture(autouse=True)
def _own_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test writes where the environment says, and what MLflow puts there is gone with the test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    yield
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


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


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    """For something to come true. Raises AssertionError if it does not."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


def timed(call: Callable[..., object], *args: object) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call(*args)
    return time.perf_counter() - began


class TestOneRun:
    """Trained with `--mlflow`, and read back."""

    def test_parameters_are_the_run_record(self, server: Server, run: Path) -> None:
        """Every option, the model, the versions and the device are parameters."""
        (record,) = lines(run / "records.jsonl", "run")
        params = server.run(run).data.params
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in record["config"].items()}
        assert texts.items() <= {**params, "device": texts["device"]}.items()
        assert params["model.parameters"] == str(record["model"]["parameters"])
        assert {name: params[f"versions.{name}"] for name in record["versions"]} == record["versions"]
        assert params["device"] == record["device"] == "cpu"

    def test_metrics_are_those_of_the_records(self, server: Server, run: Path) -> None:
        """Loss and learning rate of every step, loss and accuracy of every phase, to the last digit."""
        assert server.history(run, "loss") == points(run)
        batches = [batch for batch in lines(run / "records.jsonl") if batch["phase"] == "train"]
        assert server.history(run, "lr") == [(batch["step"], batch["lr"]) for batch in batches]
        for phase in ("train", "val"):
            epochs = [epoch for epoch in lines(run / "records.jsonl", "epoch") if epoch["phase"] == phase]
            for name in ("loss", "accuracy"):
                assert server.history(run, f"{phase}/{name}") == [(epoch["epoch"], epoch[name]) for epoch in epochs]

    def test_the_parts_are_the_records(self, server: Server, run: Path, tmp_path: Path) -> None:
        """One after the other they are records.jsonl, byte for byte."""
        assert parts(server.artifacts(run, tmp_path / "all")) == (run / "records.jsonl").read_bytes()

    def test_classes_and_labels_are_there(self, server: Server, run: Path, tmp_path: Path) -> None:
        """A row for each file, with its class by name and its split."""
        artifacts = server.artifacts(run, tmp_path / "all")
        (record,) = lines(run / "records.jsonl", "run")
        assert json.loads(artifacts["classes.json"]) == record["classes"] == ["ant", "bee", "cat"]
        rows = list(csv.reader(io.StringIO(artifacts["labels.csv"].decode())))
        samples = lines(run / "records.jsonl", "samples")
        wanted = [
            [file, record["classes"][label], split]
            for one in samples
            for file, label, split in zip(one["files"], one["labels"], one["splits"], strict=True)
        ]
        assert rows == [["file", "label", "split"], *wanted]
        assert len(wanted) == 24

    def test_the_worst_samples_are_shown_as_they_are(self, server: Server, run: Path, tmp_path: Path) -> None:
        """Those of an evaluation with the largest losses, named in the list; their pictures have the pixels of the files."""
        artifacts = server.artifacts(run, tmp_path / "all")
        for epoch in (1, 2):
            batches = [one for one in lines(run / "records.jsonl") if (one["phase"], one["epoch"]) == ("val", epoch)]
            losses = {file: loss for one in batches for file, loss in zip(one["files"], one["losses"], strict=True)}
            listed = json.loads(artifacts[f"worst/val-epoch-{epoch:04d}/worst.json"])
            assert [(one["file"], one["loss"]) for one in listed] == sorted(losses.items(), key=lambda one: -one[1])[:8]
            for one in listed:
                picture = artifacts[f"worst/val-epoch-{epoch:04d}/{one['picture']}"]
                with Image.open(io.BytesIO(picture)) as seen, Image.open(run.parent / "images" / one["file"]) as file:
                    assert np.array_equal(np.asarray(seen), np.asarray(file))
                assert f"{one['file']}-{one['label']}-as-{one['pred']}" in one["picture"]

    def test_tags_lead_back(self, server: Server, run: Path) -> None:
        """From MLflow one finds the run folder, and whether it still is what was sent."""
        (end,) = lines(run / "records.jsonl", "end")
        found = server.run(run)
        assert found.info.status == "FINISHED"
        assert found.info.run_name == "run"
        assert found.data.tags["capture.records"] == str(run / "records.jsonl")
        assert found.data.tags["capture.chain"] == end["chain"]
        assert found.data.tags["capture.status"] == "completed"

    def test_the_model_has_a_signature_and_answers_alike(self, server: Server, run: Path) -> None:
        """It takes batches of any size, has no pickle in it, and gives what the weights in the run folder give."""
        from capture_cli.training.loading import read_trained

        mlflow.set_tracking_uri(server.uri)
        uri = f"runs:/{server.run(run).info.run_id}/model"
        info = mlflow.models.get_model_info(uri)
        assert "float32" in str(info.signature.inputs)
        assert str(info.signature.outputs.inputs[0].shape) == "(-1, 3)"
        names = [file.path for file in mlflow.artifacts.list_artifacts(f"{uri}/data")]
        assert [Path(name).name for name in names] == ["model.pt2"]
        inputs = torch.rand(5, 3, 8, 8)
        model = read_trained(run).build()
        assert torch.allclose(mlflow.pytorch.load_model(uri)(inputs), model.eval()(inputs), atol=1e-6)

    def test_nothing_of_it_is_in_the_records_or_options(self, run: Path, capture: Capture) -> None:
        """The records are those of a run without a sink, and `--config` does not send anybody's run anywhere."""
        done = capture("train", "images", *TRAIN, "-e", "2", "-o", "plain", cwd=run.parent)
        assert done.returncode == 0
        for name in ("records.jsonl", "config.toml"):
            assert (run.parent / "plain" / name).read_bytes() == (run / name).read_bytes()

    def test_sending_it_again_sends_nothing(self, server: Server, run: Path, capture: Capture) -> None:
        """`capture log` of a run that is all there finds that out, and makes no second run."""
        before = server.run(run)
        done = capture("log", "run", "--mlflow", server.uri, cwd=run.parent)
        assert done.returncode == 0
        assert done.stdout == before.info.run_id + "\n"
        assert done.stderr == f"sent to {server.uri}: nothing, all of it was there\n"
        assert server.history(run, "loss") == points(run)
        assert server.run(run).info.status == "FINISHED"


def test_a_run_that_goes_on_is_the_same_run_in_mlflow(server: Server, capture: Capture, images: Path, tmp_path: Path) -> None:
    """`--resume --mlflow` continues it: every step once, the parts are the whole file, new options are told."""
    run = tmp_path / "run"
    assert capture("train", images, *TRAIN, "-e", "1", "-o", run, "--mlflow", server.uri).returncode == 0
    first = server.run(run).info.run_id
    done = capture("train", "--resume", run, "-e", "3", "-q", "--mlflow", server.uri)
    assert (done.returncode, done.stderr) == (0, "")
    found = server.run(run)
    assert found.info.run_id == first
    assert found.data.tags["capture.now.epochs"] == "3"
    assert server.history(run, "loss") == points(run)
    assert parts(server.artifacts(run, tmp_path / "all")) == (run / "records.jsonl").read_bytes()


def test_an_evaluation_is_a_run_too(server: Server, run: Path, tmp_path: Path) -> None:
    """`capture evaluate --mlflow`: its sums, its worst samples with pictures, its records; no model a second time."""
    command = [*CAPTURE, "evaluate", str(run), "images", "-q", "-o", str(tmp_path / "test"), "--mlflow", server.uri]
    done = subprocess.run(command, cwd=run.parent, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    (sums,) = lines(tmp_path / "test" / "records.jsonl", "epoch")
    found = server.run(tmp_path / "test")
    assert found.info.status == "FINISHED"
    assert {name: found.data.metrics[f"test/{name}"] for name in ("loss", "accuracy")} == {
        name: sums[name] for name in ("loss", "accuracy")
    }
    artifacts = server.artifacts(tmp_path / "test", tmp_path / "artifacts")
    assert parts(artifacts) == (tmp_path / "test" / "records.jsonl").read_bytes()
    assert len([name for name in artifacts if name.startswith("worst/test-epoch-0001/") and name.endswith(".png")]) == WORST
    assert not found.outputs or not found.outputs.model_outputs


def test_a_run_that_was_stopped_says_so_and_is_completed(server: Server, capture: Capture, tmp_path: Path) -> None:
    """Ctrl-C: the status is KILLED; gone on with, it is FINISHED, and the end that was taken back is in no part."""
    run = tmp_path / "run"
    images = make_images(tmp_path / "images", each=40)
    command = [*CAPTURE, "train", str(images), *TRAIN, "-e", "1000", "-o", str(run), "--mlflow", server.uri]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait(lambda: (run / "records.jsonl").exists() and len(points(run)) > 40)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    found = server.run(run)
    assert found.info.status == "KILLED"
    assert found.data.tags["capture.status"] == "interrupted"
    assert parts(server.artifacts(run, tmp_path / "first")) == (run / "records.jsonl").read_bytes()
    done = subprocess.Popen([*CAPTURE, "train", "--resume", str(run), "-q", "--mlflow", server.uri])
    before = len(points(run))
    wait(lambda: len(points(run)) > before + 40)
    done.send_signal(signal.SIGTERM)
    assert done.wait(timeout=60) == 143
    assert server.run(run).info.run_id == found.info.run_id
    assert server.history(run, "loss") == points(run)
    assert parts(server.artifacts(run, tmp_path / "second")) == (run / "records.jsonl").read_bytes()


def test_a_failed_run_says_so(server: Server, tmp_path: Path) -> None:
    """A loop that ends with an error leaves a run that is FAILED, with everything up to there."""
    run = tmp_path / "run"

    def loop() -> None:
        with recording(run, sinks=[MlflowSink(server.uri)]) as recorder:
            give(recorder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert server.run(run).info.status == "FAILED"
    assert server.history(run, "loss") == points(run)


def test_anyones_loop_leaves_the_same(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a loop without files, options or model: steps, sums, labels of the first epoch, the worst by id; nan is nan."""
    run = tmp_path / "run"
    with recording(run, sinks=[MlflowSink(server.uri, experiment="loops", run_name="mine", worst=2)]) as recorder:
        for epoch in range(2):
            give(recorder, epoch=epoch, nan=epoch == 1)
            give(recorder, epoch=epoch, phase="val")
    assert server.run(run).info.run_name == "mine"
    (first, second) = server.history(run, "loss")
    assert first == points(run)[0]
    assert second[0] == 1
    assert np.isnan(second[1])
    artifacts = server.artifacts(run, tmp_path / "all")
    assert artifacts["labels.csv"].decode().splitlines()[1:] == [
        f"cat_{i}.png,{i % 3},{phase}" for phase in ("train", "val") for i in range(4)
    ]
    listed = json.loads(artifacts["worst/val-epoch-0001/worst.json"])
    assert len(listed) == 2
    assert {f"worst/val-epoch-0001/{one['picture']}" for one in listed} < set(artifacts)
    assert sunk(run)["sent"] == {"metrics": 2 + 6 * 2, "evaluations": 2, "parts": 1}
    assert sunk(run)["lines"] == len((run / "records.jsonl").read_bytes().splitlines())
    send(run, server.uri)
    assert sunk(run)["run_id"] == server.run(run).info.run_id
    send(run, server.uri)
    assert "nothing, all of it was there" in capsys.readouterr().err


class TestNobodyThere:
    """A URI at which there is nothing to log to is found out before anything is written."""

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("http://127.0.0.1:9", "no server at http"),
            ("http://user:secret@127.0.0.1:9/", "no server at http://127.0.0.1:9/"),
            ("sqlite:///nowhere/at/all/mlflow.db", "cannot be written"),
            ("postgresql://user:secret@127.0.0.1:9/db", "no server at postgresql://127.0.0.1"),
            ("gopher://here", "MLflow cannot log to gopher://here"),
        ],
    )
    def test_it_is_wrong_usage(self, uri: str, message: str, capture: Capture, images: Path, tmp_path: Path) -> None:
        """One line that names the URI, without its password; exit code 2; no run folder; soon."""
        began = time.monotonic()
        done = capture("train", images, *TRAIN, "-o", "run", "--mlflow", uri)
        assert done.returncode == 2
        assert message in done.stderr
        assert "secret" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "run").exists()
        assert time.monotonic() - began < 30

    def test_a_server_that_hangs_is_none(self, server: Server) -> None:
        """It takes the connection and says nothing: an error after a few seconds."""
        server.stop()
        try:
            with pytest.raises(UsageError, match="does not answer within 5 seconds"):
                MlflowSink(server.uri)
        finally:
            server.go_on()

    def test_without_the_package_it_says_how_to_install_it(self, capture: Capture, images: Path, tmp_path: Path) -> None:
        """An error that names the extra; nothing is written."""
        for name in ("mlflow", "tensorboard"):
            (tmp_path / "trap" / name).mkdir(parents=True)
            (tmp_path / "trap" / name / "__init__.py").write_text("raise ModuleNotFoundError('no such package')")
        path = os.pathsep.join(filter(None, [str(tmp_path / "trap"), os.environ.get("PYTHONPATH")]))
        for option in ("mlflow", "tensorboard"):
            done = capture("train", images, *TRAIN, "-o", "run", f"--{option}", env={"PYTHONPATH": path})
            assert done.returncode == 2
            assert done.stderr == f"capture: the package {option} is missing; pip install 'capture-cli[{option}]'\n"
            assert not (tmp_path / "run").exists()
        (tmp_path / "trap" / "mlflow" / "__init__.py").write_text("__version__ = '3.9.1rc0'")
        done = capture("train", images, *TRAIN, "-o", "run", "--mlflow", env={"PYTHONPATH": path})
        assert (done.returncode, (tmp_path / "run").exists()) == (2, False)
        assert done.stderr == "capture: mlflow 3.9.1rc0 is too old; pip install --upgrade 'capture-cli[mlflow]'\n"


class TestMisfortune:
    """A server that goes away or hangs: the run is what it was, one warning is heard, and the rest can be sent later."""

    def test_a_server_that_is_killed(self, tmp_path: Path) -> None:
        """The loop goes on to its end; afterwards the same server, started anew, gets what it has not, and nothing twice."""
        run, port = tmp_path / "run", free_port()
        with serving(tmp_path / "server", port) as server, warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            sink = MlflowSink(server.uri)
            with recording(run, sinks=[sink]) as recorder:
                for _ in range(3):
                    give(recorder)
                wait(lambda: sink.run_id and len(server.history(run, "loss")) == 3)
                server.kill()
                for _ in range(20):
                    give(recorder)
                    time.sleep(0.02)
        ours = [str(one.message) for one in heard if "mlflow" in str(one.message)]
        assert len(ours) == 1
        assert ours[0].startswith(f"mlflow: no server at {server.uri}; the run goes on without it; `capture log")
        counts = sunk(run)
        assert counts["error"] == f"no server at {server.uri}"
        assert counts["sent"] == {"metrics": 3, "evaluations": 0, "parts": 0}
        assert len(points(run)) == 23
        with serving(tmp_path / "server", port) as server:
            assert server.run(run).info.status in ("RUNNING", "KILLED")
            send(run, server.uri)
            assert server.run(run).info.run_id == counts["run_id"]
            assert server.history(run, "loss") == points(run)
            assert server.run(run).info.status == "FINISHED"
            assert parts(server.artifacts(run, tmp_path / "all")) == (run / "records.jsonl").read_bytes()

    def test_a_server_that_hangs(self, server: Server, tmp_path: Path) -> None:
        """No step waits for it, the end waits as long as it was told to, and afterwards the rest is sent."""
        run, sink = tmp_path / "run", MlflowSink(server.uri, wait_seconds=1.0)
        recorder = recording(run, sinks=[sink])
        give(recorder)
        wait(lambda: sink.run_id)
        server.stop()
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                slowest = max(timed(give, recorder) for _ in range(200))
                waited = timed(recorder.close)
        finally:
            server.go_on()
        (warning,) = (str(one.message) for one in heard if "mlflow" in str(one.message))
        end = "not everything was sent within 1 seconds"
        silence = f"the server at {server.uri} does not answer within 5 seconds"  # if the steps took as long
        assert warning.startswith((f"mlflow: {end}; the run goes", f"mlflow: {silence}; the run goes"))
        assert "`capture log" in warning
        assert slowest < 0.5
        assert waited < 8
        assert sunk(run)["error"] in (end, silence)
        time.sleep(2)  # what it had taken before it hung is done by now
        send(run, server.uri)
        assert server.history(run, "loss") == points(run)
        assert len(points(run)) == 201

    def test_the_exit_code_is_that_of_the_run(self, capture: Capture, tmp_path: Path) -> None:
        """`capture train` whose server dies warns once, exits with 0, and its records are those of a run without it."""
        images = make_images(tmp_path / "images", each=40)
        assert capture("train", images, *TRAIN, "-e", "10", "-o", "plain").returncode == 0
        with serving(tmp_path / "server") as server:
            command = [*CAPTURE, "train", str(images), *TRAIN, "-e", "10", "-o", "run", "--mlflow", server.uri]
            with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
                while not (tmp_path / "run" / "records.jsonl").exists() and process.poll() is None:
                    time.sleep(0.02)
                server.kill()
                _, said = process.communicate(timeout=120)
        assert process.returncode == 0
        (line,) = said.splitlines()
        assert line.startswith("warning: mlflow: ")
        assert f"capture log run --mlflow {server.uri}" in line
        assert (tmp_path / "run" / "records.jsonl").read_bytes() == (tmp_path / "plain" / "records.jsonl").read_bytes()

    def test_a_run_that_is_killed_and_resumed_has_every_step_once(self, server: Server, tmp_path: Path) -> None:
        """After `kill -9` the process of the sink sends what is there, and that the run was killed; resuming sends the rest."""
        images, run = make_images(tmp_path / "images", each=40), tmp_path / "run"
        command = [*CAPTURE, "train", str(images), *TRAIN, "-e", "1000", "-o", str(run), "--mlflow", server.uri]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait(lambda: (run / "events.jsonl").exists() and b'"sink"' in (run / "events.jsonl").read_bytes())
            process.kill()
        wait(lambda: server.run(run).info.status == "KILLED")
        whole = (run / "records.jsonl").read_bytes().rpartition(b"\n")[0] + b"\n"
        assert parts(server.artifacts(run, tmp_path / "killed")) == whole
        with subprocess.Popen([*CAPTURE, "train", "--resume", str(run), "-q", "--mlflow", server.uri]) as process:
            before = len(points(run))
            wait(lambda: len(points(run)) > before + 40)
            process.send_signal(signal.SIGTERM)
        assert server.history(run, "loss") == points(run)
        assert parts(server.artifacts(run, tmp_path / "resumed")) == (run / "records.jsonl").read_bytes()
        artifacts = server.artifacts(run, tmp_path / "again")
        listed = {name: json.loads(data) for name, data in artifacts.items() if name.endswith("/worst.json")}
        epochs = [one["epoch"] for one in lines(run / "records.jsonl", "epoch") if one["phase"] == "val"]
        assert list(listed) == [f"worst/val-epoch-{epoch:04d}/worst.json" for epoch in epochs]
        incomplete = [name for name, worst in listed.items() if not all("picture" in one for one in worst)]
        assert len(incomplete) <= 1  # that during which it was killed: an earlier process saw a part of it

    def test_sending_that_is_killed_over_and_over(self, server: Server, tmp_path: Path, capture: Capture) -> None:
        """While the run grows `capture log` is killed at any moment; in the end every value is there once."""
        records = chained(run_records(epochs=12))
        run, draw = write_run(tmp_path / "run", []), np.random.default_rng(0)
        for have in (len(records) // 3, len(records) // 2, len(records) - 5):
            (run / "records.jsonl").write_bytes(b"".join(records[:have]) + records[have][:9])
            with subprocess.Popen([*CAPTURE, "log", str(run), "--mlflow", server.uri], stderr=subprocess.DEVNULL) as process:
                try:
                    process.wait(2 + 4 * draw.random())
                except subprocess.TimeoutExpired:
                    process.kill()
        (run / "records.jsonl").write_bytes(b"".join(records))
        assert capture("log", run, "--mlflow", server.uri).returncode == 0
        assert server.history(run, "loss") == points(run)
        epochs = [(one["epoch"], one["loss"]) for one in lines(run / "records.jsonl", "epoch") if one["phase"] == "val"]
        assert server.history(run, "val/loss") == epochs
        assert parts(server.artifacts(run, tmp_path / "all")) == b"".join(records)

    def test_another_process_that_sends_the_same_run_is_waited_for(self, server: Server, tmp_path: Path) -> None:
        """Two that compare and send at once would both send."""
        write_run(tmp_path / "run")
        (tmp_path / "run" / "events.jsonl").touch()
        command = [*CAPTURE, "log", str(tmp_path / "run"), "--mlflow", server.uri]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as one, subprocess.Popen(command) as other:
            assert (one.wait(120), other.wait(120)) == (0, 0)
        assert server.history(tmp_path / "run", "loss") == points(tmp_path / "run")

    def test_the_training_is_gone(self, server: Server, tmp_path: Path) -> None:
        """Nobody is there for a report; MLflow is told all the same."""
        run, sink = tmp_path / "run", MlflowSink(server.uri)
        recorder = recording(run, sinks=[sink])
        give(recorder)
        wait(lambda: sink.run_id)
        process = sink._follower._process
        process.stdin.close()
        assert process.wait(60) == 0
        assert server.run(run).info.status == "KILLED"
        assert server.history(run, "loss") == points(run)
        recorder.close()

    def test_a_sink_that_no_run_took_leaves_no_process(self, server: Server) -> None:
        """It can be closed all the same."""
        sink = MlflowSink(server.uri)
        sink.close()
        assert sink._follower._process.poll() == 0

    def test_the_process_of_the_sink_is_killed(self, server: Server, tmp_path: Path) -> None:
        """One warning, and the rest can be sent; nothing waits for it, and it leaves nothing behind."""
        run, sink = tmp_path / "run", MlflowSink(server.uri)
        recorder = recording(run, sinks=[sink])
        give(recorder)
        sink._follower._process.kill()
        with pytest.warns(UserWarning, match="mlflow: its process has ended; the run goes on without it; `capture log"):
            recorder.close()
        assert not sink._follower.spool.folder.exists()
        send(run, server.uri)
        assert server.history(run, "loss") == points(run)


def test_a_run_into_a_pipe_is_sent_too(server: Server, tmp_path: Path) -> None:
    """`-o -`: numbers and worst samples with pictures are those of the records; the copy that was followed is gone."""
    images = make_images(tmp_path / "images", colour=True)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    name = tmp_path.name
    command = [*CAPTURE, "train", str(images), *TRAIN, "-e", "2", "-o", "-", "--mlflow", server.uri]
    environment = {**os.environ, "TMPDIR": str(temporary), "MLFLOW_EXPERIMENT_NAME": name}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "piped.jsonl").write_bytes(done.stdout)
    client = server.client()
    (found,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == points(tmp_path / "piped.jsonl")
    assert found.info.status == "FINISHED"
    pictures = [file.path for file in client.list_artifacts(found.info.run_id, "worst/val-epoch-0002") if ".png" in file.path]
    val = [one for one in lines(tmp_path / "piped.jsonl", "epoch") if one["phase"] == "val"]
    assert len(pictures) == min(WORST, val[-1]["n"]) > 0
    assert not list(temporary.glob("capture-*"))


def test_a_password_is_nowhere(server: Server, tmp_path: Path) -> None:
    """Not in the run folder, in messages, in MLflow, or in the arguments of another process than the one it was given to."""
    uri = server.uri.replace("://", "://someone:pa55word@")
    make_images(tmp_path / "images")
    seen = []
    with subprocess.Popen(
        [*CAPTURE, "train", "images", *TRAIN[:-1], "-e", "2", "-o", "run", "--mlflow", uri],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen += [path.read_bytes()] if path.parent.name != str(process.pid) else []
            time.sleep(0.05)
        said = b"".join(process.communicate())
    assert process.returncode == 0
    assert any(b"capture_cli.sinks.process" in arguments for arguments in seen)
    found = server.run(tmp_path / "run")
    again = subprocess.run([*CAPTURE, "log", "run", "--mlflow", uri], cwd=tmp_path, capture_output=True, timeout=120)
    assert b"nothing, all of it was there" in again.stderr
    texts = [said, again.stdout, again.stderr, *seen, repr(found.to_dictionary()).encode()]
    texts += [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    texts += server.artifacts(tmp_path / "run", tmp_path / "all").values()
    assert not [text for text in texts if b"pa55word" in text]
