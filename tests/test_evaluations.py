"""What trackers show of a run: training steps, worst samples, margins, pictures, and the spool that carries their inputs."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capture_cli.records import Batch, Epoch, Record
from capture_cli.runs import Visits, open_run
from capture_cli.sinks.evaluations import BatchStep, EvaluationCollector, Largest, PhaseResult, steps_of
from capture_cli.sinks.event_files import EDGES, _histogram
from capture_cli.sinks.pictures import Spool, picture_name, png
from runs import ANIMALS, run_records, task_records, write_run


def finished(folder: Path, records: list[Record], worst: int = 8) -> tuple[list[BatchStep], list[PhaseResult]]:
    """Training steps and finished phases of a run with these records."""
    phases, steps, results = EvaluationCollector(worst=worst), list[BatchStep](), list[PhaseResult]()
    with open_run(write_run(folder, records)) as run:
        for block in run.follow():
            if isinstance(block, Visits):
                found = phases.update(block)
                steps += found if block.phase == "train" else []
            elif isinstance(block, Epoch):
                results.append(phases.finish(block))
    return steps, results


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_the_largest_values_are_kept_in_order(count: int) -> None:
    """As sorting all of them would, and of equal values the earlier one comes first; NaN comes before every number."""
    draw = np.random.default_rng(count)
    batches = [draw.integers(0, 20, 16).astype(np.float32) for _ in range(10)]
    batches[3][5] = np.nan
    largest = Largest[tuple[int, int]](count)
    for number, batch in enumerate(batches):
        largest.add(batch, lambda index, number=number: (number, index))
    every = [(-np.inf if np.isnan(v) else -v, b, i) for b, batch in enumerate(batches) for i, v in enumerate(batch)]
    assert [note for _, note in largest.falling] == [(b, i) for _, b, i in sorted(every)][:count]
    assert largest.falling[0] == (np.inf, (3, 5))


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_worst_samples_are_those_with_the_largest_losses(tmp_path: Path, top_k: int | None) -> None:
    """Of each evaluation, with prediction and position; of a training none."""
    records = list(run_records(per_class=40, epochs=3, top_k=top_k))
    _, results = finished(tmp_path / "run", records)
    assert [one.sums for one in results] == [record for record in records if isinstance(record, Epoch)]
    for result in results:
        batches = [one for one in records if isinstance(one, Batch) and one.phase == "val" and one.epoch == result.sums.epoch]
        if result.sums.phase == "train":
            assert list(result.worst) == []
            continue
        every = sorted((-loss, one.batch, i) for one in batches for i, loss in enumerate(one.losses.tolist()))
        assert [(one.visit.batch, one.index) for one in result.worst] == [(batch, i) for _, batch, i in every[:8]]
        for one in result.worst:
            batch, i = batches[one.visit.batch], one.index
            p_pred = batch.probs[i, 0] if top_k else batch.probs[i, batch.preds[i]]
            assert one.to_json() == {
                "file": batch.files[i],
                "label": ANIMALS[batch.labels[i]],
                "pred": ANIMALS[batch.preds[i]],
                "p_pred": float(str(p_pred)),
                "loss": float(str(batch.losses[i])),
            }


def test_the_step_of_a_phase_is_the_number_of_updates_before_its_end(tmp_path: Path) -> None:
    """So that an evaluation stands behind the training that led to it."""
    steps, results = finished(tmp_path / "run", list(run_records(epochs=2)))
    half = len(steps) // 2
    assert [(one.sums.phase, one.step) for one in results] == [
        ("train", half),
        ("val", half),
        ("train", 2 * half),
        ("val", 2 * half),
    ]


def test_steps_are_those_of_the_records(tmp_path: Path) -> None:
    """Step, loss and learning rate of every training batch, also where a loss is not a number."""
    records: list[Any] = []
    for record in run_records():
        if isinstance(record, Batch) and record.step in (2, 3):
            record = replace(record, loss=float("nan") if record.step == 2 else float("inf"))
        records.append(record)
    steps, _ = finished(tmp_path / "run", records)
    wanted = [(one.step, str(one.loss), one.lr) for one in records if isinstance(one, Batch) and one.phase == "train"]
    assert [(one.step, str(one.loss), one.lr) for one in steps] == wanted
    assert {"nan", "inf"} <= {str(one.loss) for one in steps}
    with open_run(tmp_path / "run") as run:
        (first, *_) = run.visits(phase="train")
        assert not first._columns, steps_of(first)  # no column was parsed


@pytest.mark.parametrize("task", ["sequence", "multilabel", "regression"])
def test_other_tasks_have_what_they_can_have(tmp_path: Path, task: str) -> None:
    """Targets that are numbers: worst samples by their losses, without classes. Sequences: margins, and no worst samples."""
    _, results = finished(tmp_path / "run", list(task_records(task)), worst=3)
    (result, *_) = [one for one in results if one.sums.phase == "val"]
    if task == "sequence":
        assert (list(result.worst), sum(map(len, result.margins))) == ([], result.sums.n)
    else:
        assert [set(one.to_json()) for one in result.worst] == [{"file", "loss"}] * 3
        assert not result.margins


def test_a_histogram_counts_every_margin_once() -> None:
    """Each in the bin whose right end is the first that is not below it; sums are those of the numbers."""
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(0, 3, 1000), draw.normal(0, 0.01, 100), [0.0, -103.3, 103.3, EDGES[5]]])
    found = _histogram(np.concatenate([values, [np.nan, np.inf, -np.inf]]))
    first = np.searchsorted(EDGES, found["bucket_limit"][0])
    edges = np.concatenate([[-np.inf], EDGES])
    wanted = [((values > low) & (values <= high)).sum() for low, high in pairwise(edges)]
    assert found["bucket"] == wanted[first : first + len(found["bucket"])]
    assert found["num"] == sum(found["bucket"]) == len(values)
    assert found["sum"] == pytest.approx(values.sum())
    assert found["sum_squares"] == pytest.approx(np.square(values).sum())
    assert (found["min"], found["max"]) == (values.min(), values.max())


class TestPictures:
    """An input as PNG bytes."""

    @pytest.mark.parametrize("channels", [1, 3])
    def test_with_the_recipe_they_are_the_pixels(self, channels: int) -> None:
        """Every value of a pixel comes back exactly from the input that was made of it."""
        pixels = np.arange(256 * channels, dtype=np.uint8).reshape(channels, 16, 16)
        inputs = (pixels.astype(np.float32) - np.float32(127.5)) * np.float32(1 / 127.5)
        with Image.open(io.BytesIO(png(inputs, {"centre": 127.5, "scale": 1 / 127.5}))) as image:
            seen = np.asarray(image)
        assert np.array_equal(seen if channels == 1 else seen.transpose(2, 0, 1), pixels[0] if channels == 1 else pixels)

    @pytest.mark.parametrize(
        ("values", "pixels"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([-1.0, 0.0, 1.0], [0, 128, 255]),
            ([-2.0, 0.0, 2.0], [0, 128, 255]),
            ([7, 7, 7], [0, 0, 0]),
        ],
    )
    def test_without_one_the_range_is_guessed(self, values: list[float], pixels: list[int]) -> None:
        """0 to 1, -1 to 1, or from the least to the greatest; what is not a number is no crash."""
        with Image.open(io.BytesIO(png(np.array([[values]], np.float32), {}))) as image:
            assert np.asarray(image).tolist() == [pixels]
        png(np.full((1, 2, 2), np.nan, np.float32), {})

    def test_any_name_makes_a_harmless_file_name(self) -> None:
        """Slashes, control characters and bytes that are not UTF-8 do not get into it."""
        name = picture_name(3, {"file": "../a/\x1b[31m\udcff.png", "label": "cat/..", "pred": "-rf"})
        assert name == "03-.._a_31m_.png-cat_..-as--rf.png"
        assert len(picture_name(0, {"file": "x" * 1000})) < 130


class TestSpool:
    """Inputs on their way to a sink process."""

    def test_inputs_come_back_as_they_were_once(self, tmp_path: Path) -> None:
        """Of any type, by evaluation and position; nothing is left on disk."""
        spool = Spool(tmp_path)
        images = {
            (0, 3): np.random.default_rng(0).random((3, 4, 5), np.float32),
            (2, 1): np.full((1, 2, 2), np.nan, np.float16),
        }
        spool.announce("val", 1)
        for (batch, index), image in images.items():
            spool.add("val", 1, batch=batch, index=index, image=image)
        spool.complete("val", 1)
        found = spool.take("val", 1)
        assert found.keys() == images.keys()
        for place, image in images.items():
            assert found[place].dtype == image.dtype
            assert np.array_equal(found[place], image, equal_nan=True)
        assert spool.take("val", 1) == {}
        assert list(tmp_path.iterdir()) == []

    def test_announced_inputs_are_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The record that ends an evaluation may be read before they are written; if they never come, it goes on without."""
        spool, image = Spool(tmp_path), np.zeros((1, 2, 2), np.float32)
        spool.announce("val", 1)
        looks = 0

        def late(_seconds: float) -> None:
            nonlocal looks
            looks += 1
            if looks == 5:
                spool.add("val", 1, batch=0, index=0, image=image)
            elif looks == 10:
                spool.complete("val", 1)

        with monkeypatch.context() as patch:
            patch.setattr("capture_cli.sinks.pictures.time.sleep", late)
            assert list(spool.take("val", 1)) == [(0, 0)]
        assert looks == 10
        monkeypatch.setattr("capture_cli.sinks.pictures.WAIT_SECONDS", 0.1)
        spool.announce("val", 2)
        assert spool.take("val", 2) == {}
