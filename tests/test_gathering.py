"""What sinks are told of a run: the worst samples, pictures, the records in parts, histograms, margins."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capture_cli.answers.visits import margins, visit
from capture_cli.errors import RecordsError
from capture_cli.records import Batch, Epoch, RunInfo, Samples
from capture_cli.sinks import parts as module
from capture_cli.sinks.gathering import Gathering, Sample
from capture_cli.sinks.histogram import EDGES, Histogram
from capture_cli.sinks.messages import dumps, loads, sample_from_json, sample_to_json
from capture_cli.sinks.parts import Parts, first_line
from capture_cli.sinks.pictures import caption, png
from runs import ANIMALS, chained, run_records


def gathered(worst: int) -> list[tuple[Epoch, list[Batch], list[object]]]:
    """Each evaluation of a run: its sums, its batches, and what was gathered of it."""
    gathering, batches, found = Gathering(worst=worst), [], []
    for record in run_records(per_class=40, epochs=3):
        if isinstance(record, Batch):
            inputs = (
                np.full((len(record.ids), 3, 8, 8), record.batch, np.float32) + np.arange(len(record.ids))[:, None, None, None]
            )
            gathering.take(record, inputs)
            inputs[:] = -1  # the next step overwrites them
            batches = [*batches, record] if record.phase == "val" else []
        elif isinstance(record, Epoch):
            found.append((record, batches, gathering.evaluated(record)))
    return found


@pytest.mark.parametrize("worst", [1, 5, 1000])
def test_the_worst_are_those_with_the_largest_losses(worst: int) -> None:
    """Of each evaluation, in falling order, with the input as it was; of a training none."""
    for sums, batches, samples in gathered(worst):
        if sums.phase == "train":
            assert samples == []
            continue
        everything = [(float(loss), batch.batch, i) for batch in batches for i, loss in enumerate(batch.losses)]
        everything.sort(key=lambda one: (-one[0], one[1], one[2]))
        assert [(one.batch, one.index) for one in samples] == [(batch, i) for _, batch, i in everything[:worst]]
        for one in samples:
            batch = batches[one.batch]
            assert (one.name, one.label, one.pred) == (batch.files[one.index], batch.labels[one.index], batch.preds[one.index])
            assert np.all(one.image == one.batch + one.index)


def test_a_loss_that_is_no_number_is_the_worst() -> None:
    """NaN comes before every number."""
    batch = next(record for record in run_records() if isinstance(record, Batch) and record.phase == "val")
    losses = batch.losses.copy()
    losses[2] = np.nan
    gathering = Gathering(worst=2)
    gathering.take(replace(batch, losses=losses), None)
    sums = Epoch(phase="val", epoch=0, n=len(losses), loss=0, accuracy=0, captured=len(losses), not_captured=0)
    first, second = gathering.evaluated(sums)
    assert first.index == 2
    assert second.loss == float(str(np.nanmax(losses)))


def test_an_evaluation_that_an_earlier_process_began_shows_none() -> None:
    """The worst of a part are not the worst."""
    records = [record for record in run_records(per_class=40) if getattr(record, "phase", "") == "val" and record.epoch == 0]
    gathering = Gathering(worst=3)
    for record in records[1:-1]:
        gathering.take(record, None)
    assert gathering.evaluated(records[-1]) == []


def test_points_are_handed_over_once() -> None:
    """Every training step comes once, with what the record says."""
    gathering = Gathering(worst=0)
    batches = [record for record in run_records() if isinstance(record, Batch)]
    for batch in batches:
        gathering.take(batch, None)
    points = [(point.step, point.loss, point.lr) for point in gathering.points()]
    assert points == [(batch.step, batch.loss, batch.lr) for batch in batches if batch.phase == "train"]
    assert gathering.points() == []


@pytest.mark.parametrize("top_k", [None, 2])
def test_margins_of_a_batch_are_those_of_its_rows(top_k: int | None) -> None:
    """The same definition as in `capture rows`, for all samples at once."""
    records = list(run_records(top_k=top_k, per_class=30))
    run = next(record for record in records if isinstance(record, RunInfo))
    for batch in (record for record in records if isinstance(record, Batch)):
        rows = [visit(batch, i, run).margin for i in range(len(batch.labels))]
        assert np.allclose(margins(batch), [np.nan if one is None else one for one in rows], atol=1e-6, equal_nan=True)


def test_where_no_other_class_is_known_there_is_no_margin() -> None:
    """One kept probability, of the label: NaN; of another class: a margin."""
    batch = next(record for record in run_records(top_k=1, per_class=30) if isinstance(record, Batch))
    assert np.array_equal(np.isnan(margins(batch)), batch.preds == batch.labels)


def test_a_histogram_counts_every_number_once() -> None:
    """Each in the bin whose right end is the first that is not below it; sums are those of the numbers."""
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(0, 3, 1000), draw.normal(0, 0.01, 100), [0.0, -103.3, 103.3, EDGES[5]]])
    histogram = Histogram()
    for some in np.array_split(values, 7):
        histogram.add(some)
    histogram.add(np.array([np.nan, np.inf, -np.inf]))
    wanted = np.histogram(-values, -EDGES[::-1])[0][::-1]  # turned round: its bins have their left ends in them
    assert np.array_equal(histogram.counts[1:], wanted)
    assert histogram.n == histogram.counts.sum() == len(values)
    assert histogram.total == pytest.approx(values.sum())
    assert (histogram.least, histogram.greatest) == (values.min(), values.max())


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
        """0 to 1, -1 to 1, or from the least to the greatest; what is no number is no crash."""
        with Image.open(io.BytesIO(png(np.array([[values]], np.float32), {}))) as image:
            assert np.asarray(image).tolist() == [pixels]
        png(np.full((1, 2, 2), np.nan, np.float32), {})

    def test_a_name_from_anywhere_makes_a_harmless_file_name(self) -> None:
        """Slashes, control characters and bytes that are no UTF-8 do not get into it."""
        name = caption(3, {"file": "../a/\x1b[31m\udcff.png", "label": "cat/..", "pred": "-rf"})
        assert name == "03-.._a_31m_.png-cat_..-as--rf.png"
        assert len(caption(0, {"file": "x" * 1000})) < 130


class TestParts:
    """The records in parts."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_PART_BYTES", 5000)
        monkeypatch.setattr(module, "_BLOCK_BYTES", 700)  # less than a line

    def test_they_are_the_file_in_whole_lines(self, tmp_path: Path) -> None:
        """Cut in several goes, one after the other they are the records, and each ends with a line."""
        data = b"".join(chained(run_records(epochs=4)))
        parts, found = Parts(lambda offset, count: data[offset : offset + min(count, 333)], tmp_path), []
        middle = data.index(b"\n", len(data) // 2) + 1
        for until in (middle, middle, len(data)):
            found += [(path.name, path.read_bytes()) for path in parts.cut(until)]
        assert b"".join(part for _, part in found) == data
        assert [name for name, _ in found] == [f"part-{number:05d}.jsonl" for number in range(len(found))]
        assert len(found) > 4
        assert all(part.endswith(b"\n") for _, part in found)
        assert not list(tmp_path.glob("part-*"))

    def test_it_goes_on_behind_those_that_are_there(self, tmp_path: Path) -> None:
        """What was passed over is in the table of labels, and in no part."""
        data = b"".join(chained(run_records()))
        samples = [record for record in run_records() if isinstance(record, Samples)]
        middle = data.index(b"\n", len(data) // 2) + 1
        parts = Parts(lambda offset, count: data[offset : offset + count], tmp_path)
        parts.pass_over(middle, 3)
        cut = [(path.name, path.read_bytes()) for path in parts.cut(len(data))]
        assert b"".join(part for _, part in cut) == data[middle:]
        assert cut[0][0] == "part-00003.jsonl"
        with parts.table.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == [file for one in samples for file in one.files]
        assert {row["label"] for row in rows} == set(ANIMALS)

    def test_a_file_that_was_cut_meanwhile_is_an_error(self, tmp_path: Path) -> None:
        """It is not waited for, and no part is made of what is not there."""
        data = b"".join(chained(run_records()))
        parts = Parts(lambda offset, count: data[offset : offset + count], tmp_path)
        with pytest.raises(RecordsError, match="ended before they should"):
            list(parts.cut(len(data) + 10))

    def test_the_first_line_is_found_however_it_comes(self) -> None:
        """Read in pieces; where it is not all there, that is an error."""
        data = b"".join(chained(run_records()))
        assert first_line(lambda offset, count: data[offset : offset + min(count, 7)]) == data.split(b"\n")[0]
        with pytest.raises(RecordsError):
            first_line(lambda offset, _: b"half a line"[offset:])


class TestMessages:
    """What a run tells the process of its sinks."""

    def test_samples_come_back_as_they_were(self) -> None:
        """Images of any type, names that are not UTF-8, losses that are no numbers."""
        for image in (None, np.random.default_rng(0).random((3, 4, 5), np.float32), np.full((1, 2, 2), np.nan, np.float16)):
            sample = Sample(name="a\udcff", label=1, pred=None, p_pred=0.1, loss=float("inf"), batch=2, index=3, image=image)
            (body,) = loads(dumps({"worst": [sample_to_json(sample)]}))["worst"]
            again = sample_from_json(body)
            assert replace(again, image=None) == replace(sample, image=None)
            if image is not None:
                assert again.image.dtype == image.dtype
                assert np.array_equal(again.image, image, equal_nan=True)

    def test_a_message_is_one_line(self) -> None:
        """Whatever is in it; what JSON does not know comes as text."""
        line = dumps({"a": "\n", "b": Path("x"), "c": np.float32(0.5), "d": float("nan")})
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        again = loads(line)
        assert (again["a"], again["b"], again["c"]) == ("\n", "x", 0.5)
        assert np.isnan(again["d"])

    def test_a_histogram_comes_back(self) -> None:
        """With what was counted."""
        histogram = Histogram()
        histogram.add(np.array([-1.0, 0.5, 2.0]))
        again = Histogram.from_dict(loads(dumps(histogram.to_dict())))
        assert np.array_equal(again.counts, histogram.counts)
        assert again.to_dict() == histogram.to_dict()
