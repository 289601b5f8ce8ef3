"""`capture log`: a run that is there goes to MLflow as a whole, once; `--mlflow` takes a URI or none."""

import gzip
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from capture_cli.cli.arguments import with_values
from capture_cli.journal import Journal
from capture_cli.records import RunInfo
from conftest import make_images
from mlflow_server import parts, points
from runs import chained, run_records, write_run

Capture = Callable[..., subprocess.CompletedProcess[str]]
URI = "sqlite:///here.db"
"""As it is given to the command, from the test's own folder."""


@pytest.fixture(autouse=True)
def _own_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test writes where the environment says; relative URIs are of its folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.chdir(tmp_path)


def client(name: str = "here.db") -> MlflowClient:
    """MLflow's own reader, of a database in the test's own folder."""
    return MlflowClient(f"sqlite:///{Path.cwd()}/{name}")


def artifacts(run_id: str, to: Path) -> dict[str, bytes]:
    """Everything that lies beside a run in MLflow, by path."""
    to.mkdir()
    root = Path(client().download_artifacts(run_id, "", str(to)))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_finished_run_is_sent_as_if_it_had_been_all_along(capture: Capture, tmp_path: Path) -> None:
    """Trained without a sink: what MLflow gets afterwards is what `--mlflow` sends, pictures and model too."""
    make_images(tmp_path / "images")
    options = ("images", "-m", "linear", "-b", "4", "-e", "2", "--device=cpu", "-q")
    assert capture("train", *options, "-o", "then", "--mlflow", URI).returncode == 0
    assert capture("train", *options, "-o", "after").returncode == 0
    done = capture("log", "after", "--model", "--mlflow", URI)
    assert done.returncode == 0
    then, after = client().search_runs(["1"], order_by=["attributes.start_time"])
    assert done.stdout == after.info.run_id + "\n"
    assert done.stderr == f"sent to sqlite:///{tmp_path}/here.db: {2 * (10 + 6 + 5)} metrics, 2 evaluations, 1 parts, 1 model\n"
    assert after.data.params == then.data.params
    assert after.data.metrics == then.data.metrics
    assert artifacts(after.info.run_id, tmp_path / "a") == artifacts(then.info.run_id, tmp_path / "b")
    assert after.info.status == then.info.status == "FINISHED"
    assert len(after.outputs.model_outputs) == len(then.outputs.model_outputs) == 1
    again = capture("log", "after", "--model", "--mlflow", URI)
    assert again.stdout == done.stdout
    assert again.stderr == f"sent to sqlite:///{tmp_path}/here.db: nothing, all of it was there\n"


def test_a_run_that_was_cut_off_is_sent_as_far_as_it_goes(capture: Capture, tmp_path: Path) -> None:
    """No end line, and half a line behind: what verifies is sent, and the rest once it has come."""
    whole = chained(run_records())
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    path.write_bytes(b"".join(whole[:8]) + whole[8][:20])
    first = capture("log", "run", "--mlflow", URI)
    assert first.returncode == 0
    assert "some worst samples have no picture" not in first.stderr  # no evaluation has ended
    (run,) = client().search_runs(["1"])
    assert run.info.status == "KILLED"
    assert run.data.tags["capture.status"] == "unsealed"
    assert parts(artifacts(run.info.run_id, tmp_path / "a")) == b"".join(whole[:8])
    path.write_bytes(b"".join(whole))
    second = capture("log", "run", "--mlflow", URI)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "some worst samples have no picture: " in second.stderr  # its images never were
    (run,) = client().search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert parts(artifacts(run.info.run_id, tmp_path / "b")) == b"".join(whole)
    history = client().get_metric_history(run.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == points(tmp_path / "run")


def test_of_damaged_records_those_before_are_sent(capture: Capture, tmp_path: Path) -> None:
    """Exit code 4 names the line; what does not verify is not passed on."""
    whole = chained(run_records())
    write_run(tmp_path / "run")
    broken = b"".join(whole[:7]) + whole[7].replace(b'"epoch":0', b'"epoch":1') + b"".join(whole[8:])
    (tmp_path / "run" / "records.jsonl").write_bytes(broken)
    done = capture("log", "run", "--mlflow", URI)
    assert done.returncode == 4
    assert "line 8 is not what was written" in done.stderr
    assert parts(artifacts(done.stdout.strip(), tmp_path / "a")) == b"".join(whole[:7])


def test_a_run_that_goes_on_is_left_alone(capture: Capture, tmp_path: Path) -> None:
    """Whoever writes it sends it, or it is sent when it has ended."""
    with Journal.create(tmp_path / "run.jsonl") as journal:
        journal.append(next(record for record in run_records() if isinstance(record, RunInfo)))
        done = capture("log", "run.jsonl", "--mlflow", URI)
    assert (done.returncode, done.stderr) == (2, "capture: 'run.jsonl' is still being written; send it once it has ended\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "nothing says where to send the run; add --mlflow [URI] or --tensorboard"),
        (["nowhere", "--mlflow", URI], "no such run: 'nowhere'"),
        (["-", "--mlflow", URI], "stdin cannot be sent"),
        (["empty.jsonl", "--mlflow", URI], "empty.jsonl: no records"),
        (["run", "--mlflow", "http://127.0.0.1:9"], "no server at http://127.0.0.1:9"),
        (["run.jsonl.gz", "--mlflow", URI], "the records of 'run.jsonl.gz' are compressed; decompress them first"),
        (["gzipped", "--tensorboard"], "the records of 'gzipped' are compressed; decompress them first"),
        (["ranks", "--mlflow", URI], "'ranks' has records of several processes; send one of its files: ranks/records.jsonl"),
        (["run.jsonl", "--tensorboard"], "event files need a folder, and the records go to run.jsonl; give a run folder"),
        (["run", "--tensorboard", "--model"], "nothing says where to send the run; add --mlflow [URI]"),
        (["run.jsonl", "--model", "--mlflow", URI], "'run.jsonl' is a file of records, without a model; give a run folder"),
        (
            ["early", "--model", "--mlflow", URI],
            "'early' has no model yet: it was interrupted after 0 of 3 epochs; `capture train --resume early` continues it; "
            "without --model all else is sent",
        ),
    ],
)
def test_what_cannot_be_sent(args: list[str], message: str, capture: Capture, tmp_path: Path) -> None:
    """One line that says what, and no run in MLflow."""
    records = (write_run(tmp_path / "run") / "records.jsonl").read_bytes()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "run.jsonl").write_bytes(records)
    (tmp_path / "run.jsonl.gz").write_bytes(gzip.compress(records))
    for name, rank in (("gzipped", "records.jsonl.gz"), ("ranks", "records-rank1.jsonl")):
        write_run(tmp_path / name)
        (tmp_path / name / rank).write_bytes(gzip.compress(records) if rank.endswith(".gz") else records)
    (tmp_path / "gzipped" / "records.jsonl").unlink()
    early = run_records(epochs=0, status="interrupted")
    write_run(tmp_path / "early", (replace(one, config={"epochs": 3}) if isinstance(one, RunInfo) else one for one in early))
    done = capture("log", *args)
    assert done.returncode in (2, 4)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert "--model" not in args or not (tmp_path / "here.db").exists()


@pytest.mark.parametrize(
    ("args", "taken"),
    [
        ("train images", "train images"),
        ("train --mlflow images", "train --mlflow= images"),
        ("train images --mlflow", "train images --mlflow="),
        ("train --mlflow http://host:5000 images", "train --mlflow=http://host:5000 images"),
        ("train images --mlflow sqlite:///a.db -q", "train images --mlflow=sqlite:///a.db -q"),
        ("train --mlflow=databricks images", "train --mlflow=databricks images"),
        ("train --mlflow -q images", "train --mlflow= -q images"),
        ("train -- --mlflow", "train -- --mlflow"),
    ],
)
def test_the_uri_may_be_left_out(args: str, taken: str) -> None:
    """What follows `--mlflow` is its value where that is a URI, and else is what it would have been."""
    assert with_values(args.split()) == taken.split()


def test_without_a_uri_it_is_logged_where_mlflow_would(capture: Capture, images: Path, tmp_path: Path) -> None:
    """MLFLOW_TRACKING_URI, else a database in the current folder."""
    options = ("train", images, "--mlflow", "-m", "linear", "-e", "1", "--device=cpu", "-q")
    assert capture(*options, "-o", "a").returncode == 0
    assert capture(*options, "-o", "b", env={"MLFLOW_TRACKING_URI": URI, "MLFLOW_EXPERIMENT_NAME": "other"}).returncode == 0
    for database, name, experiment in (("mlflow.db", "a", "capture"), ("here.db", "b", "other")):
        found = client(database)
        (run,) = found.search_runs([found.get_experiment_by_name(experiment).experiment_id])
        assert run.info.run_name == name
