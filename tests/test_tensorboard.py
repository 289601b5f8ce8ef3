"""TensorBoard: event files that its own reader reads, with what the records say."""

import gc
import io
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from capture_cli import TensorBoardSink
from capture_cli.cli.log import log
from capture_cli.errors import UsageError
from capture_cli.records import Batch
from capture_cli.runs import open_run
from conftest import CAPTURE, make_images
from holding import held, held_at, held_model, let_go
from recordings import give, lines, recording
from runs import chained, run_records, write_run

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
        values = [visits["margin"] for visits in reading.visits(phase="val", epochs=[2])]
    histogram = events(run / "tensorboard").Histograms("val/margins in nats")[1].histogram_value
    every = np.concatenate(values)
    assert histogram.num == len(every) == sum(histogram.bucket)
    assert histogram.sum == pytest.approx(every.sum())
    below = sum(count for limit, count in zip(histogram.bucket_limit, histogram.bucket, strict=True) if limit <= 0)
    assert below == (every <= 0).sum()


def check(run: Path, *, texts: bool = True) -> None:
    """TensorBoard sees every step, every phase and every list of the records once, in order."""
    for name in ("loss", "lr"):
        assert scalars(run, name) == steps(run, name)
    batches = [record for record in lines(run / "records.jsonl") if record["phase"] == "train"]
    for phase in ("train", "val"):
        sums = [record for record in lines(run / "records.jsonl", "epoch") if record["phase"] == phase]
        updates = [1 + max(batch["step"] for batch in batches if batch["epoch"] == one["epoch"]) for one in sums]
        for name in ("loss", "accuracy"):
            wanted = [(step, np.float32(one[name])) for step, one in zip(updates, sums, strict=True)]
            assert scalars(run, f"{phase}/{name}") == wanted
    if updates and texts:
        assert [event.step for event in events(run / "tensorboard").Tensors("val/worst/list")] == updates


def test_a_run_with_more_epochs_keeps_the_last_one_before_them(capture: Capture, images: Path, tmp_path: Path) -> None:
    """What is there is not written again, and nothing of it is forgotten: the pictures neither."""
    run = tmp_path / "run"
    assert capture("train", images, *TRAIN, "-e", "2", "-o", run).returncode == 0
    done = capture("train", "--resume", run, "-e", "3", "-q", "--tensorboard")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the learning rate goes on as in")
    assert done.stderr.count("\n") == 1
    assert len(list((run / "tensorboard").iterdir())) == 2
    check(run)
    assert len(events(run / "tensorboard").Images("val/worst/0")) == 3
    assert capture("log", run, "--tensorboard").stderr == "sent to TensorBoard: nothing, all of it was there\n"
    assert len(list((run / "tensorboard").iterdir())) == 2


def test_a_run_that_is_killed_and_resumed_is_there_once(tmp_path: Path) -> None:
    """`kill -9` of trainings without and with the sink: the steps that it had not written come from the records."""
    make_images(tmp_path / "images", each=40)
    options = ["-m", held_model(tmp_path), *TRAIN[2:-1], "-e", "100", "-o", "run", "--checkpoint-every", "50"]
    command = [*CAPTURE, "train", "images", *options]
    for signum in (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path, env=held_at(130)) as process:
            held(tmp_path, process)
            process.send_signal(signum)
            let_go(tmp_path)
        assert process.returncode == (143 if signum == signal.SIGTERM else -signum)
        command = [*CAPTURE, "train", "--resume", "run", "-q", "--tensorboard"]
    check(tmp_path / "run")


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from capture_cli.cli.log import log
from capture_cli.sinks.event_files import EventFiles

def last(left, flushed, put=EventFiles._put_message):
    def put_or_die(self, **fields):
        nonlocal left
        put(self, **fields)
        left -= 1
        if not left:
            self._file.flush() if flushed else None  # else without what is in the buffer, in the middle of an event
            os.kill(os.getpid(), signal.SIGKILL)
    return put_or_die

run, draw = Path(sys.argv[1]), np.random.default_rng(0)
records = Path(sys.argv[2]).read_bytes().splitlines(keepends=True)
for have in np.linspace(len(records) // 4, len(records) - 5, 20).astype(int):
    (run / "records.jsonl").write_bytes(b"".join(records[:have]) + records[have][:9])
    at, flushed = int(draw.integers(1, 25)), draw.random() < 0.5
    if os.fork() == 0:
        EventFiles._put_message = last(at, flushed)
        log(str(run), tensorboard=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_writing_that_is_killed_over_and_over(tmp_path: Path) -> None:
    """While the run grows `capture log` is killed at any event, 20 times; in the end every value is there once."""
    records = chained(run_records(per_class=40, epochs=60))
    run, whole = write_run(tmp_path / "run", []), tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join(records))
    done = subprocess.run([sys.executable, "-c", KILLED, str(run), str(whole)], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([str(-signal.SIGKILL)] * 20, "")
    (run / "records.jsonl").write_bytes(b"".join(records))
    assert log(str(run), tensorboard=True) == 0
    check(run)


def test_events_of_other_records_are_forgotten(tmp_path: Path) -> None:
    """From the first step at which they differ; TensorBoard then shows what the records say."""
    records = list(run_records(epochs=3))
    run = write_run(tmp_path / "run", records)
    log(str(run), tensorboard=True)
    place = next(i for i, one in enumerate(records) if isinstance(one, Batch) and one.epoch == 1 and one.batch == 2)
    changed = [replace(one, loss=9.0) if i == place else one for i, one in enumerate(records[:-1])]
    for other in (changed, records[: place + 4]):  # the second is shorter: what it does not have is forgotten too
        (run / "records.jsonl").write_bytes(b"".join(chained(other)))
        log(str(run), tensorboard=True)
        check(run, texts=False)  # which TensorBoard never forgets
    with recording(tmp_path / "other", sinks=[TensorBoardSink(run / "tensorboard")]) as recorder:
        give(recorder)
    assert [step for step, _ in scalars(run, "loss")] == [0]


def test_a_damaged_event_file_is_read_as_far_as_tensorboard_reads_it(tmp_path: Path) -> None:
    """What lies behind the damage is written again."""
    run = write_run(tmp_path / "run")
    log(str(run), tensorboard=True)
    (file,) = (run / "tensorboard").iterdir()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:24], b"", whole + b"\xff" * 40):
        for other in (run / "tensorboard").iterdir():
            other.unlink()
        file.write_bytes(damaged)
        log(str(run), tensorboard=True)
        check(run)


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
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: the model was trained on ")
    assert done.stderr.count("\n") == 1
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
    """Records in a file or a pipe have none: wrong usage, before anything is written. No process is left behind."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", ResourceWarning)
        done = capture("train", images, *TRAIN, "-o", "run.jsonl")
        gc.collect()
    assert not [one for one in heard if "still running" in str(one.message)]
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
    assert said[-1]["sent"] == {"steps": 1, "phases": 2}


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


def test_neither_tensorflow_nor_torch_is_imported(tmp_path: Path) -> None:
    """What writes the files needs neither."""
    code = """
import sys
from capture_cli.cli.log import log
log(sys.argv[1], tensorboard=True)
print(*{"tensorflow", "torch"} & set(sys.modules))
"""
    run = write_run(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
    check(run)
