"""Both sinks after kills: what TensorBoard's and MLflow's own readers find there is every recorded step, once."""

import random
import sys
from pathlib import Path

from benchmarks.reliability.world import CONFIG, RECORDS, Result, capture, ended, kill, make_images, start, warm
from capture_cli.runs import open_run

MODEL = '''"""A model that takes a hundredth of a second a batch."""
import time
from torch import nn


class Net(nn.Linear):
    def forward(self, x):
        time.sleep(0.01)
        return super().forward(x.flatten(1))


def net(classes, channels, height, width):
    """Logits [B, classes]."""
    return Net(channels * height * width, classes)
'''
OPTIONS = ("images", "-m", "net.py:net", "-e", "20", "-b", "2", "--device=cpu", "--checkpoint-every=7")
SINKS = ("--tensorboard", "--mlflow=sqlite:///mlflow.db")
KILLS_EACH = 5


def figure(place: Path, result: Result, *, large: bool) -> None:
    """20 kills, or 2, of the process group or of the training alone; then the run is resumed and read back."""
    for package in ("mlflow", "tensorboard"):
        try:
            __import__(package)
        except ImportError:
            result.missing = f"{package} is not installed"
            return
    warm()
    make_images(place / "images", count=24)
    (place / "net.py").write_text(MODEL)
    draw, wanted, runs = random.Random(6), 20 if large else 2, 0
    while result.tried < wanted:
        run = f"run-{runs}"
        for _ in range(min(KILLS_EACH, wanted - result.tried)):
            pid = start(_command(run, place), place)
            _wait_for_lines(place / run / RECORDS, draw.randint(1, 60), pid, place)
            kill(pid, place)
            result.tried += 1
        done = capture(_command(run, place), place)
        result.expect(done.code == 0, f"{run}: {done}")
        _read_back(place, run, result)
        runs += 1
    result.note = f"SIGKILL of {runs} runs with both sinks, up to {KILLS_EACH} each, resumed and read back"


def _command(run: str, place: Path) -> list[str]:
    if (place / run / CONFIG).exists():
        return ["train", "--resume", run, "-q", "--checkpoint-every=7", *SINKS]
    return ["train", *OPTIONS, "-o", run, "-q", "--force", *SINKS]


def _wait_for_lines(records: Path, more: int, pid: int, place: Path) -> None:
    """Wait until the run has written so many lines more, or has ended."""
    lines = records.read_bytes().count(b"\n") if records.exists() else 0
    for _ in range(1200):
        now = records.read_bytes().count(b"\n") if records.exists() else 0
        if now >= lines + more or ended(pid, place, seconds=0.05):
            return


def _read_back(place: Path, run: str, result: Result) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_run(place / run) as reading:
        batches = [one for one in reading.records() if one.kind == "batch" and one.phase == "train"]  # type: ignore[union-attr]
    recorded = [(one.step, round(float(one.loss), 5)) for one in batches]  # type: ignore[union-attr]
    events = EventAccumulator(str(place / run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = [(one.step, round(one.value, 5)) for one in events.Scalars("loss")]
    result.expect(shown == recorded, f"{run}: TensorBoard shows {len(shown)} steps, {len(recorded)} are recorded")
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("capture")
    assert experiment
    found = [one for one in client.search_runs([experiment.experiment_id]) if one.info.run_name == run]
    result.expect(len(found) == 1, f"{run}: MLflow has it {len(found)} times")
    if len(found) == 1:
        history = client.get_metric_history(found[0].info.run_id, "loss")
        sent = sorted((one.step, round(one.value, 5)) for one in history)
        result.expect(sent == recorded, f"{run}: MLflow has {len(sent)} steps, {len(recorded)} are recorded")
        result.expect(found[0].info.status == "FINISHED", f"{run}: MLflow calls it {found[0].info.status}")
    sys.stdout.flush()
