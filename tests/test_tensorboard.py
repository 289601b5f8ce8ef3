"""TensorBoard: event files that its own reader reads, with what the records say."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from capture_cli import TensorBoardSink
from capture_cli.answers.visits import margins
from capture_cli.errors import UsageError
from capture_cli.records import Batch
from capture_cli.runs import open_run
from test_recorder import give, lines, recording

Capture = Callable[..., subprocess.CompletedProcess[str]]
TRAIN = ("-m", "linear", "-b", "4", "--device=cpu", "-q", "--tensorboard")


def events(folder: Path) -> EventAccumulator:
    """All that TensorBoard reads of a run."""
    found = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0))
    found.Reload()
    return found


def scalars(run: Path, tag: str) -> list[tuple[int, np.float32]]:
    """(step, value), which TensorBoard keeps as float32."""
    return [(event.step, np.float32(event.value)) for event in events(run / "tensorboard").Scalars(tag)]


def steps(run: Path, name: str) -> list[tuple[int, np.float32]]:
    """The same of the training steps in the records."""
    found = [batch for batch in lines(run / "records.jsonl") if batch["phase"] == "train"]
    return [(batch["step"], np.float32(batch[name])) for batch in found]


def test_a_run_is_there_as_the_records_say(capture: Capture, images: Path, tmp_path: Path) -> None:
    """Scalars, the worst samples with the pixels of their files, and every margin in a histogram."""
    run = tmp_path / "run"
    done = capture("train", images, *TRAIN, "-e", "2", "-o", run)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in ("loss", "lr"):
        assert scalars(run, name) == steps(run, name)
    updates = len(steps(run, "loss")) // 2
    for phase in ("train", "val"):
        sums = [record for record in lines(run / "records.jsonl", "epoch") if record["phase"] == phase]
        for name in ("loss", "accuracy"):
            wanted = [(updates * one["epoch"], np.float32(one[name])) for one in sums]
            assert scalars(run, f"{phase}/{name}") == wanted
    _compare_worst(run, images, updates)
    _compare_margins(run)


def _compare_worst(run: Path, images: Path, updates: int) -> None:
    found = events(run / "tensorboard")
    for epoch in (1, 2):
        batches = [one for one in lines(run / "records.jsonl") if (one["phase"], one["epoch"]) == ("val", epoch)]
        losses = {file: loss for one in batches for file, loss in zip(one["files"], one["losses"], strict=True)}
        worst = sorted(losses, key=lambda file: -losses[file])[:8]
        text = found.Tensors("val/worst/list")[epoch - 1].tensor_proto.string_val[0].decode()
        assert [row.split("|")[1].strip().replace("\\", "") for row in text.splitlines()[2:]] == worst
        for rank, file in enumerate(worst):
            event = found.Images(f"val/worst/{rank}")[epoch - 1]
            assert event.step == updates * epoch
            with Image.open(io.BytesIO(event.encoded_image_string)) as seen, Image.open(images / file) as original:
                assert np.array_equal(np.asarray(seen), np.asarray(original))


def _compare_margins(run: Path) -> None:
    with open_run(run) as reading:
        records = [line.record() for line in reading.lines() if line.kind == "batch"]
    values = [margins(one) for one in records if isinstance(one, Batch) and (one.phase, one.epoch) == ("val", 2)]
    histogram = events(run / "tensorboard").Histograms("val/margins in nats")[1].histogram_value
    every = np.concatenate(values)
    assert histogram.num == len(every) == sum(histogram.bucket)
    assert histogram.sum == pytest.approx(every.sum())
    below = sum(count for limit, count in zip(histogram.bucket_limit, histogram.bucket, strict=True) if limit <= 0)
    assert below == (every <= 0).sum()


def test_a_run_that_goes_on_has_every_step_once(capture: Capture, images: Path, tmp_path: Path) -> None:
    """Steps behind the checkpoint that are computed again replace those that were there."""
    run = tmp_path / "run"
    assert capture("train", images, *TRAIN, "-e", "1", "-o", run).returncode == 0
    done = capture("train", "--resume", run, "-e", "3", "-q", "--tensorboard")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert scalars(run, "loss") == steps(run, "loss")
    with recording(tmp_path / "other", sinks=[TensorBoardSink(run / "tensorboard")]) as recorder:
        give(recorder)
    assert [step for step, _ in scalars(run, "loss")] == [0]


def test_force_takes_the_old_events_away(capture: Capture, images: Path, tmp_path: Path) -> None:
    """A run in place of another has its own events alone, or none."""
    run = tmp_path / "run"
    assert capture("train", images, *TRAIN, "-e", "1", "-o", run).returncode == 0
    assert capture("train", images, *TRAIN[:-1], "-e", "1", "-o", run, "--force").returncode == 0
    assert not (run / "tensorboard").exists()


def test_an_evaluation_is_there_too(capture: Capture, images: Path, tmp_path: Path) -> None:
    """`capture evaluate --tensorboard`: its sums, its worst samples and its margins, of the phase `test`."""
    capture("train", images, "-m", "linear", "-e", "1", "-q", "--device=cpu", "-o", "run")
    done = capture("evaluate", "run", images, "-q", "--device=cpu", "--tensorboard", "-o", "test")
    assert (done.returncode, done.stderr) == (0, "")
    (sums,) = lines(tmp_path / "test/records.jsonl", "epoch")
    for name in ("loss", "accuracy"):
        assert scalars(tmp_path / "test", f"test/{name}") == [(0, np.float32(sums[name]))]
    found = events(tmp_path / "test" / "tensorboard")
    assert {"test/worst/0", "test/worst/7"} <= set(found.Tags()["images"])
    assert sum(found.Histograms("test/margins in nats")[0].histogram_value.bucket) == sums["n"]
    done = capture("evaluate", "run", images, "-q", "--tensorboard", "-o", "-")
    assert done.returncode == 2
    assert "run folder" in done.stderr


def test_it_needs_a_folder(capture: Capture, images: Path, tmp_path: Path) -> None:
    """Records in a file or a pipe have none: wrong usage, before anything is written."""
    done = capture("train", images, *TRAIN, "-o", "run.jsonl")
    assert done.returncode == 2
    assert "--tensorboard needs a run folder" in done.stderr
    assert not (tmp_path / "run.jsonl").exists()
    sink = TensorBoardSink()
    with pytest.raises(UsageError, match="event files need a folder"):
        recording(tmp_path / "own.jsonl", sinks=[sink])
    sink.close()


def test_a_loop_of_anything(tmp_path: Path) -> None:
    """A folder of its own, names that are markup, a loss that is no number; counts are in events.jsonl."""
    with recording(
        tmp_path / "run", sinks=[TensorBoardSink(tmp_path / "tb", worst=2)], classes=["a|b", "*c*", "d"]
    ) as recorder:
        give(recorder, nan=True)
        give(recorder, phase="val")
    found = events(tmp_path / "tb")
    assert np.isnan(found.Scalars("loss")[0].value)
    assert r"a\|b" in found.Tensors("val/worst/list")[0].tensor_proto.string_val[0].decode()
    said = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert said[-1]["sink"] == "tensorboard"
    assert said[-1]["sent"] == {"steps": 1, "evaluations": 2}


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    """The run goes on, and its records are whole."""
    (tmp_path / "tb").write_text("a file")
    with pytest.warns(UserWarning, match="tensorboard: FileExistsError: .* the run goes on without it") as heard:
        _record_two(tmp_path)
    assert len(heard) == 1
    assert len(lines(tmp_path / "run" / "records.jsonl")) == 2


def _record_two(folder: Path) -> None:
    with recording(folder / "run", sinks=[TensorBoardSink(folder / "tb")]) as recorder:
        give(recorder)
        give(recorder, phase="val")


def test_neither_tensorflow_nor_torch_is_imported() -> None:
    """What writes the files needs neither."""
    code = """
import sys
from pathlib import Path
from capture_cli.records import Epoch
from capture_cli.sinks.events import EventFile
from capture_cli.sinks.gathering import Point
events = EventFile(Path(sys.argv[1]))
events.points([Point(0, 0, 1.0, 0.1)])
events.close()
print(*{"tensorflow", "torch"} & set(sys.modules))
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
        assert [event.value for event in events(Path(folder)).Scalars("loss")] == [1.0]
