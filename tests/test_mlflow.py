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
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from calling import called
from capture_cli import MlflowSink
from capture_cli.errors import UsageError
from capture_cli.sinks.evaluations import WORST
from conftest import CAPTURE, Capture, command, make_images
from holding import held, held_at, held_model, let_go
from mlflow_server import TRAIN, Server, parts, points, relay, send, sunk
from recordings import give, lines, recording

pytestmark = pytest.mark.usefixtures("own_uri")
WORSE = """
import torch

class Net(torch.nn.Linear):
    def forward(self, x):
        logits = super().forward(x.flatten(1))
        return logits if self.training else -logits

def make(classes, channels, height, width):
    return Net(channels * height * width, classes)
"""
"""A network whose validation loss rises while it learns."""


@pytest.fixture(scope="module")
def run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder beside its images, trained with `--mlflow`."""
    folder = tmp_path_factory.mktemp("here")
    make_images(folder / "images", colour=True)
    done = command("train", "images", *TRAIN, "-e", "2", "-o", "run", "--mlflow", server.uri, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder / "run"


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


def test_the_model_is_that_of_the_best_epoch(server: Server, capture: Capture, images: Path, tmp_path: Path) -> None:
    """As `capture log --model` sends it: not the weights of the last step, which are all there is of a run into a pipe."""
    from capture_cli.training.loading import read_trained

    run = tmp_path / "run"
    (tmp_path / "net.py").write_text(WORSE)
    options = ("-m", "net.py:make", *TRAIN[2:], "-e", "3", "--best", "val_loss", "--mlflow", server.uri, "-o")
    done = capture("train", images, *options, run)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = server.run(run).data.metrics
    losses = dict(server.history(run, "val/loss"))
    assert (metrics["best/epoch"], metrics["best/val/loss"], metrics["val/loss"]) == (1, losses[1], losses[3])
    assert metrics["best/val/loss"] < metrics["val/loss"]
    assert server.history(run, "best/epoch") == [(1, 1.0)]
    best, last = read_trained(run), read_trained(run, last=True)
    assert (best.header.epoch, last.header.epoch) == (1, 3)
    mlflow.set_tracking_uri(server.uri)
    logged = mlflow.pytorch.load_model(f"runs:/{server.run(run).info.run_id}/model").state_dict()
    assert all(torch.equal(logged[name], tensor) for name, tensor in best.weights.items())
    assert not all(torch.equal(logged[name], tensor) for name, tensor in last.weights.items())
    environment = {"MLFLOW_EXPERIMENT_NAME": tmp_path.name}
    assert command("train", images, *options, "-", cwd=tmp_path, env=environment).returncode == 0
    (piped,) = server.client().search_runs([server.client().get_experiment_by_name(tmp_path.name).experiment_id])
    logged = mlflow.pytorch.load_model(f"runs:/{piped.info.run_id}/model").state_dict()
    assert all(torch.equal(logged[name], tensor) for name, tensor in last.weights.items())


def test_a_run_that_goes_on_is_the_same_run_in_mlflow(server: Server, capture: Capture, images: Path, tmp_path: Path) -> None:
    """`--resume --mlflow` continues it: every step once, the parts are the whole file, new options are told."""
    run = tmp_path / "run"
    options = (*TRAIN, "--sched", "constant", "-e", "1", "-o", run, "--mlflow", server.uri)
    assert capture("train", images, *options).returncode == 0
    first = server.run(run).info.run_id
    done = capture("train", "--resume", run, "-e", "3", "-q", "--mlflow", server.uri)
    assert (done.returncode, done.stderr) == (0, "")
    found = server.run(run)
    assert found.info.run_id == first
    assert found.data.tags["capture.now.epochs"] == "3"
    assert server.history(run, "loss") == points(run)
    assert parts(server.artifacts(run, tmp_path / "all")) == (run / "records.jsonl").read_bytes()


def test_an_evaluation_is_a_run_too(server: Server, capture: Capture, run: Path, tmp_path: Path) -> None:
    """`capture evaluate --mlflow`: its sums, its worst samples with pictures, its records; no model a second time."""
    done = capture("evaluate", run, "images", "-q", "-o", tmp_path / "test", "--mlflow", server.uri, cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: the model was trained on 19 of these 24 images: the accuracy is too high\n"
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


def test_a_run_that_was_stopped_says_so_and_is_completed(server: Server, images: Path, tmp_path: Path) -> None:
    """Ctrl-C: the status is KILLED; gone on with, it is FINISHED, and the end that was taken back is in no part."""
    run = tmp_path / "run"
    options = ["-m", held_model(tmp_path), *TRAIN[2:], "-e", "9", "-o", "run"]
    started = [*CAPTURE, "train", images.name, *options, "--mlflow", server.uri]
    with subprocess.Popen(started, cwd=tmp_path, env=held_at(16), stderr=subprocess.DEVNULL) as process:
        held(tmp_path, process)
        process.send_signal(signal.SIGINT)
        let_go(tmp_path)
    assert process.returncode == 130
    found = server.run(run)
    assert found.info.status == "KILLED"
    assert found.data.tags["capture.status"] == "interrupted"
    assert parts(server.artifacts(run, tmp_path / "first")) == (run / "records.jsonl").read_bytes()
    before = len(points(run))
    assert before > 5
    resumed = [*CAPTURE, "train", "--resume", "run", "-q", "--mlflow", server.uri]
    with subprocess.Popen(resumed, cwd=tmp_path, env=held_at(16)) as process:
        held(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        let_go(tmp_path)
    assert process.returncode == 143
    assert len(points(run)) > before + 5
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
    assert sunk(run)["sent"] == {"metrics": 2 + (6 + 5) * 2, "evaluations": 2, "parts": 1}
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
        assert time.monotonic() - began < 120  # MLflow itself tries for four minutes

    def test_a_store_that_mlflow_refuses(self, tmp_path: Path) -> None:
        """What MLflow says of it is quoted up to the end of a sentence."""
        with pytest.raises(UsageError, match=r"not receive further updates; give another URI, such as sqlite:///mlflow.db$"):
            MlflowSink(f"file://{tmp_path}/store")

    def test_a_server_that_hangs_is_none(self, server: Server) -> None:
        """It takes the connection and says nothing: it has longer than one that takes none, and then is an error."""
        with relay(server) as between:
            between.hang()
            with pytest.raises(UsageError, match="takes connections, but does not answer within 20 seconds"):
                MlflowSink(between.uri)

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


def test_a_run_into_a_pipe_is_sent_too(server: Server, tmp_path: Path) -> None:
    """`-o -`: numbers and worst samples with pictures are those of the records; the copy that was followed is gone."""
    images = make_images(tmp_path / "images", colour=True)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    name = tmp_path.name
    options = [*TRAIN, "-e", "1", "-o", "-", "--mlflow", server.uri]
    environment = {"TMPDIR": str(temporary), "MLFLOW_EXPERIMENT_NAME": name}
    done = command("train", images, *options, cwd=tmp_path, env=environment, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "piped.jsonl").write_bytes(done.stdout)
    client = server.client()
    (found,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == points(tmp_path / "piped.jsonl")
    assert found.info.status == "FINISHED"
    pictures = [file.path for file in client.list_artifacts(found.info.run_id, "worst/val-epoch-0001") if ".png" in file.path]
    val = [one for one in lines(tmp_path / "piped.jsonl", "epoch") if one["phase"] == "val"]
    assert len(pictures) == min(WORST, val[-1]["n"]) > 0
    assert not list(temporary.glob("capture-*"))


def test_a_password_is_nowhere(server: Server, tmp_path: Path) -> None:
    """Not in the run folder, in messages, in MLflow, or in the arguments of another process than the one it was given to."""
    uri = server.uri.replace("://", "://someone:pa55word@")
    make_images(tmp_path / "images")
    given = [*CAPTURE, "train", "images", *TRAIN[:-1], "-e", "1", "-o", "run", "--mlflow", uri]
    seen = set()
    with subprocess.Popen(given, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None:  # its output fits into the pipes
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes())
            time.sleep(0.05)
        said = b"".join(process.communicate())
    assert process.returncode == 0
    seen.discard(b"".join(word.encode() + b"\0" for word in given))  # also of a process that it forks, until that is another
    assert any(b"capture_cli.sinks.process" in arguments for arguments in seen)
    found = server.run(tmp_path / "run")
    again = called("log", "run", "--mlflow", uri, cwd=tmp_path)
    assert "nothing, all of it was there" in again.stderr
    texts = [said, again.stdout.encode(), again.stderr.encode(), *seen, repr(found.to_dictionary()).encode()]
    texts += [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    texts += server.artifacts(tmp_path / "run", tmp_path / "all").values()
    assert not [text for text in texts if b"pa55word" in text]
