"""A comparison finds where two runs diverge, matches images by path, and uses only lines that verify."""

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capture_cli.answers import phases
from capture_cli.answers.diff import Diff, ValueDifference, compare
from capture_cli.records import Batch, End, Epoch, Record, RunInfo, Samples, Skip
from capture_cli.records.comparing import changes
from capture_cli.runs import open_run
from capture_cli.runs import reading as reader
from runs import chained, run_records, write_run


def compared(folder: Path, a: Iterable[Record], b: Iterable[Record], *, limit: int = 10) -> Diff:
    """Compare two runs of these records."""
    return compared_files(folder, chained(a), chained(b), limit=limit)


def compared_files(folder: Path, a: Iterable[bytes], b: Iterable[bytes], *, limit: int = 10) -> Diff:
    """Compare two files of these lines."""
    for name, lines in (("a", a), ("b", b)):
        (folder / f"{name}.jsonl").write_bytes(b"".join(lines))
    with open_run(folder / "a.jsonl") as one, open_run(folder / "b.jsonl") as other:
        return compare(one, other, limit=limit)


def with_run(**fields: Any) -> Iterator[Record]:
    """The usual run with another run record."""
    for record in run_records():
        yield replace(record, **fields) if isinstance(record, RunInfo) else record


def with_batch(phase: str, epoch: int, number: int, change: Callable[[Batch], Batch]) -> Iterator[Record]:
    """The usual run with one batch changed."""
    for record in run_records():
        hit = isinstance(record, Batch) and (record.phase, record.epoch, record.batch) == (phase, epoch, number)
        yield change(record) if hit and isinstance(record, Batch) else record


def with_predictions(predictions: dict[str, tuple[int, float]]) -> Iterator[Record]:
    """The usual run with other predictions for some files: file -> (class, p(label)), in every batch."""
    for record in run_records():
        if isinstance(record, Batch):
            preds, probs = record.preds.copy(), record.probs.copy()
            for i, file in enumerate(record.files):
                if file in predictions:
                    preds[i], probs[i, record.labels[i]] = predictions[file]
            record = replace(record, preds=preds, probs=probs)
        yield record


class TestVerdict:
    """The relation of two runs."""

    def test_equal_runs_are_equal(self, tmp_path: Path) -> None:
        """No difference is reported."""
        diff = compared(tmp_path, run_records(), run_records())
        assert (diff.relation, diff.first, diff.first_batch, diff.changes, diff.epochs) == ("equal", None, None, (), ())
        assert diff.measures()["flips"] == 0
        assert diff.common == diff.a.ending.lines == diff.b.ending.lines
        assert diff.a.ending.chain == diff.b.ending.chain
        assert (diff.error, diff.a.is_finished) == (None, True)

    def test_unfinished_runs_can_be_equal_so_far(self, tmp_path: Path) -> None:
        """Runs without an end line can be equal, but are not finished. A torn last line is not compared."""
        lines = chained(run_records(status=None))
        diff = compared_files(tmp_path, lines, [*lines, b'{"seq":99,"ki'])
        assert (diff.relation, diff.a.is_finished, diff.b.is_finished, diff.b.ending.state) == ("equal", False, False, "torn")

    @pytest.mark.parametrize("status", [None, "interrupted"])
    def test_a_run_that_was_cut_off_is_a_prefix(self, tmp_path: Path, status: str | None) -> None:
        """An end line that does not say completed is no difference to a run that continued, in either order."""
        whole = list(run_records())
        cut = [*whole[:9], *([End(status=status, counts=counts_of(whole[:9]))] if status else [])]
        diff = compared(tmp_path, cut, whole)
        assert (diff.relation, diff.common, diff.first) == ("a_is_prefix", 9, None)
        diff = compared(tmp_path, whole, cut)
        assert (diff.relation, diff.common, diff.first) == ("b_is_prefix", 9, None)

    def test_a_run_interrupted_after_the_last_record_is_a_prefix_too(self, tmp_path: Path) -> None:
        """The records are the same, but only one of the runs was completed."""
        assert compared(tmp_path, run_records(status="interrupted"), run_records()).relation == "a_is_prefix"
        assert compared(tmp_path, run_records(status="interrupted"), run_records(status=None)).relation == "b_is_prefix"

    def test_two_different_ends_differ(self, tmp_path: Path) -> None:
        """Neither run continues the other, so their end lines are the difference."""
        diff = compared(tmp_path, run_records(status="interrupted"), run_records(status="failed"))
        assert diff.relation == "differ"
        assert diff.first
        assert (diff.first.a.kind, diff.first.fields) == ("end", ("status",))

    def test_a_completed_run_is_a_prefix_of_itself_with_more_epochs(self, tmp_path: Path) -> None:
        """Appended epochs are no difference. The new run record shows what was set for them."""
        before = list(run_records(epochs=1))
        more = replace(before[0], config={"epochs": 2})  # type: ignore[call-overload]
        diff = compared(tmp_path, before, [*before, more])
        assert (diff.relation, diff.error) == ("a_is_prefix", None)
        assert ("config.epochs", 1, 2) in diff.changes


def counts_of(records: Iterable[Record]) -> dict[str, int]:
    kinds = [record.kind for record in records]
    return {kind: kinds.count(kind) for kind in kinds}


class TestFirstDifference:
    """The first record that differs."""

    def test_one_changed_loss_is_found(self, tmp_path: Path) -> None:
        """The record, its field, the image and both values are named, and the inputs were the same."""

        def change(batch: Batch) -> Batch:
            losses = batch.losses.copy()
            losses[2] = np.nextafter(losses[2], np.float32(9))
            return replace(batch, losses=losses)

        batch = next(r for r in run_records() if isinstance(r, Batch) and (r.phase, r.epoch, r.batch) == ("train", 1, 1))
        first = compared(tmp_path, run_records(), with_batch("train", 1, 1, change)).first
        assert first
        assert first.a == first.b
        assert (first.a.kind, first.a.phase, first.a.epoch, first.a.batch) == ("batch", "train", 1, 1)
        assert (first.fields, first.same_inputs) == (("losses",), True)
        now = float(str(change(batch).losses[2]))
        (found,) = first.files.first
        assert found == ValueDifference(file=batch.files[2], field="losses", a=float(str(batch.losses[2])), b=now)

    def test_the_index_in_a_column_of_many_values_is_named(self, tmp_path: Path) -> None:
        """A difference in one probability is named `probs[1]`."""

        def change(batch: Batch) -> Batch:
            probs = batch.probs.copy()
            probs[0, 1] = 0.5
            return replace(batch, probs=probs)

        first = compared(tmp_path, run_records(), with_batch("val", 0, 0, change)).first
        assert first
        assert [(one.field, one.b) for one in first.files.first] == [("probs[1]", 0.5)]

    def test_other_inputs_come_before_other_losses(self, tmp_path: Path) -> None:
        """If the input and the loss of an image differ, the input is named. Five images are listed, all are counted."""

        def change(batch: Batch) -> Batch:
            digests = [digest[::-1] for digest in batch.inputs.digests]
            return replace(batch, losses=batch.losses * 2, inputs=replace(batch.inputs, digests=digests))

        first = compared(tmp_path, run_records(), with_batch("train", 0, 0, change)).first
        assert first
        assert (first.fields, first.same_inputs) == (("losses", "inputs"), False)
        assert (first.files.count, [one.field for one in first.files.first]) == (8, ["inputs.digests"] * 5)

    def test_a_batch_of_other_images_lists_them(self, tmp_path: Path) -> None:
        """Images in only one of the batches are listed; images in both are compared."""

        def change(batch: Batch) -> Batch:
            return replace(batch, files=["new.png", *batch.files[1:]])

        batch = next(r for r in run_records() if isinstance(r, Batch))
        first = compared(tmp_path, run_records(), with_batch("train", 0, 0, change)).first
        assert first
        assert (first.only_a.first, first.only_b.first, first.files.count) == ((batch.files[0],), ("new.png",), 0)
        assert first.same_inputs is False

    def test_records_of_two_kinds(self, tmp_path: Path) -> None:
        """A file that only one run skipped puts a skip record where the other has samples. Images are not mixed up."""
        diff = compared(tmp_path, run_records(skips=1), run_records(skips=2))
        assert diff.first
        assert (diff.first.a.kind, diff.first.b.kind, diff.first.fields) == ("samples", "skip", ("kind",))
        assert diff.first_batch is None
        assert diff.files.only_b.first == ("broken_1.png",)

    def test_the_first_batch_that_differs_is_found_behind_other_options(self, tmp_path: Path) -> None:
        """If the run records differ, the first batch with another result is found too. Batches are counted in each run."""

        def change(batch: Batch) -> Batch:
            return replace(batch, losses=batch.losses * 2)

        later = with_batch("train", 1, 2, change)
        head = next(later)
        assert isinstance(head, RunInfo)
        skip = Skip(file="other.png", reason="truncated")
        diff = compared(tmp_path, run_records(), [replace(head, config={**head.config, "lr": 0.1}), skip, *later][:-1])
        assert diff.first
        assert diff.first_batch
        assert (diff.first.a.seq, diff.first.fields) == (0, ("config",))
        assert (diff.first_batch.a.phase, diff.first_batch.a.epoch, diff.first_batch.a.batch) == ("train", 1, 2)
        assert diff.first_batch.b.seq == diff.first_batch.a.seq + 1

    def test_other_ids_are_no_difference_between_batches(self, tmp_path: Path) -> None:
        """An added file changes the id of every image after it. Batches are equal if everything else is."""

        def renumbered() -> Iterator[Record]:
            for record in run_records(skips=0):
                if isinstance(record, Samples | Batch):
                    record = replace(record, ids=[int(number) + 1 for number in record.ids])
                yield record

        diff = compared(tmp_path, run_records(skips=0), renumbered())
        assert diff.first
        assert (diff.first.a.kind, diff.first.fields, diff.first_batch) == ("samples", ("ids",), None)
        assert diff.predictions
        assert (diff.predictions.right_to_wrong.count, diff.predictions.wrong_to_right.count) == (0, 0)


class TestSettingsAndFiles:
    """Differences between the run records and between the files."""

    def test_options_by_name(self, tmp_path: Path) -> None:
        """Each option has both values, None if a run does not have it."""
        config = {"epochs": 2, "batch_size": 8, "lr": 0.5, "opt": "adamw", "seed": 0, "augment": "flip"}
        diff = compared(tmp_path, run_records(), with_run(config=config))
        assert diff.changes == (("config.lr", 0.001, 0.5), ("config.augment", None, "flip"))

    def test_everything_else_a_run_record_holds(self, tmp_path: Path) -> None:
        """Changes of files, classes, model, recipe, versions, device and threads are found."""
        images = {"train": 27, "val": 9, "listing_digest": "00"}
        told = {
            "folder": "elsewhere",
            "images": images,
            "classes": ["cat", "dog", "elk"],
            "model": {"name": "cnn", "parameters": 7},
            "recipe": {"height": 9, "width": 8, "channels": 3},
            "versions": {"python": "3.11.7", "torch": "2.16.0", "capture": "0.1.0"},
            "device": "cuda",
            "threads": 2,
        }
        diff = compared(tmp_path, run_records(), with_run(**told))
        names = ["folder", "images.train", "images.val", "images.listing_digest", "classes"]
        names += ["model.parameters", "recipe.height"]
        assert [change.name for change in diff.changes] == [*names, "versions.torch", "device", "threads"]
        assert [str(change) for change in diff.changes[-3:]] == [
            "versions.torch was 2.15.0, is 2.16.0",
            "device was cpu, is cuda",
            "threads was 1, is 2",
        ]
        assert str(diff.changes[4]) == "classes were cat, dog, great pyrenees, are cat, dog, elk"

    def test_equal_run_records_have_no_changes(self) -> None:
        """Copies of the same values are no change."""
        head = next(run_records())
        assert isinstance(head, RunInfo)
        assert changes(head, replace(head, config=dict(head.config), classes=list(head.classes))) == []

    def test_kinds_of_file_changes(self, tmp_path: Path) -> None:
        """Added, missing and skipped files and other bytes, labels or splits are each counted and listed."""

        def other() -> Iterator[Record]:
            for record in run_records():
                if isinstance(record, Samples):
                    files, digests = list(record.files), list(record.digests)
                    labels, splits = list(record.labels), list(record.splits)
                    files[0] = "added.png"
                    digests[1] = "f" * 32
                    labels[2] = 0
                    splits[3] = "train"
                    files[4] = "broken_0.png"
                    record = replace(record, files=files, digests=digests, labels=labels, splits=splits)
                yield record if not isinstance(record, Skip) else Skip(file="dog_0001.png", reason="truncated")

        samples = next(r for r in run_records() if isinstance(r, Samples))
        files = compared(tmp_path, run_records(), other()).files
        assert (files.only_a.first, files.only_b.first) == ((samples.files[0],), ("added.png",))
        assert (files.bytes.first, files.label.first) == ((samples.files[1],), (samples.files[2],))
        assert files.split.first == (samples.files[3],)
        assert samples.files[4] == "dog_0001.png"
        assert (files.skipped_a.first, files.skipped_b.first) == (("broken_0.png",), ("dog_0001.png",))
        assert {few.count for few in (files.only_a, files.bytes, files.label, files.split, files.skipped_a)} == {1}

    def test_order_does_not_matter_to_files(self, tmp_path: Path) -> None:
        """Runs that name the same files in another order have the same files."""

        def turned() -> Iterator[Record]:
            for record in run_records():
                if isinstance(record, Samples):
                    columns = ("ids", "files", "labels", "splits", "sizes", "digests")
                    record = replace(record, **{name: list(getattr(record, name))[::-1] for name in columns})
                yield record

        files = compared(tmp_path, run_records(), turned()).files
        assert not any(getattr(files, name).count for name in files.__dataclass_fields__)


class TestPredictions:
    """Images that one run has right and the other wrong."""

    VAL = ("cat_0001.png", "cat_0005.png", "cat_0009.png", "dog_0002.png", "dog_0006.png", "dog_0010.png")

    def test_flips_are_sorted_by_change(self, tmp_path: Path) -> None:
        """Flips in both directions have label, predictions and probabilities, the largest change of p(label) first."""
        a = with_predictions({**dict.fromkeys(self.VAL[:3], (0, 0.9)), **dict.fromkeys(self.VAL[3:], (2, 0.25))})
        turned = {self.VAL[0]: (1, 0.5), self.VAL[1]: (2, 0.125), self.VAL[3]: (1, 0.75), self.VAL[4]: (0, 0.25)}
        b = with_predictions({**dict.fromkeys(self.VAL[:3], (0, 0.9)), **dict.fromkeys(self.VAL[3:], (2, 0.25)), **turned})
        result = compared(tmp_path, a, b).predictions
        assert result
        assert (result.phase, result.a.epoch, result.b.epoch, result.both) == ("val", 1, 1, 9)
        assert [one.file for one in result.right_to_wrong.first] == [self.VAL[1], self.VAL[0]]
        worst = result.right_to_wrong.first[0]
        assert (worst.label, worst.pred_a, worst.pred_b) == ("cat", "cat", "great pyrenees")
        assert (worst.p_label_a, worst.p_label_b) == (0.9, 0.125)
        assert [(one.file, one.pred_a, one.pred_b) for one in result.wrong_to_right.first] == [
            (self.VAL[3], "great pyrenees", "dog")
        ]
        assert result.wrong_to_wrong == 1
        assert result.a.correct - result.b.correct == 1
        cat, dog, _ = result.classes
        assert (cat.n_a, cat.correct_a, cat.correct_b, cat.change) == (3, 3, 1, pytest.approx(-2 / 3))
        assert (dog.correct_a, dog.correct_b) == (0, 1)

    def test_the_limit_of_flips(self, tmp_path: Path) -> None:
        """The limit holds for each direction, and 0 lists none. All flips are counted."""
        a = with_predictions(dict.fromkeys(self.VAL, (0, 0.9)))
        b = list(with_predictions(dict.fromkeys(self.VAL, (1, 0.2))))
        for limit in (0, 2):
            result = compared(tmp_path, a, b, limit=limit).predictions
            assert result
            assert (result.right_to_wrong.count, len(result.right_to_wrong.first)) == (3, limit)
            assert (result.wrong_to_right.count, len(result.wrong_to_right.first)) == (3, limit)
            a = with_predictions(dict.fromkeys(self.VAL, (0, 0.9)))

    def test_images_are_matched_by_path_and_classes_by_name(self, tmp_path: Path) -> None:
        """Other ids and class numbers change nothing. Images of one run alone are counted, not compared."""
        names = [f"{kind}_{number}.png" for number in range(12) for kind in ("cat", "dog", "elk")]

        def other() -> Iterator[Record]:
            for record in run_records(files=names, classes=("cat", "dog", "elk")):
                if isinstance(record, RunInfo):
                    record = replace(record, classes=["elk", "dog", "cat"])
                elif isinstance(record, Samples | Batch):
                    files = ["new.png" if file == names[3] else file for file in record.files]
                    ids = [100 - int(number) for number in record.ids]
                    record = replace(record, ids=ids, files=files, labels=2 - np.array(record.labels))  # type: ignore[arg-type]
                    if isinstance(record, Batch):
                        record = replace(record, preds=2 - record.preds, probs=np.ascontiguousarray(record.probs[:, ::-1]))
                    elif isinstance(record, Samples):
                        record = replace(record, labels=np.array(record.labels).tolist())
                yield record

        diff = compared(tmp_path, run_records(files=names, classes=("cat", "dog", "elk")), other())
        assert diff.error is None
        result = diff.predictions
        assert result
        assert (result.both, result.a.n, result.b.n) == (8, 9, 9)
        assert (result.right_to_wrong.count, result.wrong_to_right.count, result.wrong_to_wrong) == (0, 0, 0)
        assert [(one.name, one.change) for one in result.classes] == [("cat", 0), ("dog", 0), ("elk", 0)]
        assert (diff.files.label.count, diff.files.only_a.first, diff.files.only_b.first) == (0, (names[3],), ("new.png",))

    @pytest.mark.parametrize(
        ("a", "b", "phase"), [(4, 4, "val"), (0, 0, "train"), (4, 0, "train")], ids=["val in both", "none", "val in one"]
    )
    def test_the_phase_is_one_that_both_have(self, tmp_path: Path, a: int, b: int, phase: str) -> None:
        """It is val, else test, else train. The epoch of each run is given."""
        result = compared(tmp_path, run_records(val_every=a, seed=1), run_records(val_every=b, epochs=1)).predictions
        assert result
        assert (result.phase, result.a.epoch, result.b.epoch) == (phase, 1, 0)
        assert result.a.complete

    def test_a_test_phase_comes_before_train(self, tmp_path: Path) -> None:
        """A held-out phase says more. `inspect` chooses the same."""

        def with_test(seed: int) -> Iterator[Record]:
            for record in run_records(seed=seed):
                is_val = isinstance(record, Batch | Epoch) and record.phase == "val"
                yield replace(record, phase="test") if is_val else record  # type: ignore[call-overload]

        result = compared(tmp_path, with_test(0), with_test(1)).predictions
        assert result
        assert (result.phase, result.both) == ("test", 9)

    @pytest.mark.parametrize("phase", ["test", "hold-out"])
    def test_evaluations_are_compared_whatever_they_are_called(self, tmp_path: Path, phase: str) -> None:
        """Runs that only evaluated have the phase test, or another name."""

        def evaluated(seed: int) -> Iterator[Record]:
            for record in run_records(val_every=0, seed=seed, epochs=1, batch_size=64):
                yield replace(record, phase=phase) if record.kind in ("batch", "epoch") else record  # type: ignore[call-overload]

        result = compared(tmp_path, evaluated(0), evaluated(1)).predictions
        assert result
        assert (result.phase, result.both) == (phase, 36)
        assert compared(tmp_path, evaluated(0), run_records()).predictions is None

    def test_a_phase_under_way_is_compared_if_none_is_complete(self, tmp_path: Path) -> None:
        """The batches so far are compared, and the phase is marked incomplete."""
        result = compared(tmp_path, list(run_records())[:5], list(run_records(seed=1))[:5]).predictions
        assert result
        assert (result.phase, result.a.complete, result.a.n) == ("train", False, 16)

    def test_top_k_and_probabilities_that_are_not_numbers(self, tmp_path: Path) -> None:
        """p(label) is known with top-k probabilities. A value that is not finite is None."""

        def broken() -> Iterator[Record]:
            for record in run_records(top_k=2):
                if isinstance(record, Batch):
                    nan = np.full(len(record.labels), np.nan, np.float32)
                    record = replace(record, p_labels=nan, preds=(record.labels + 1) % 3)
                yield record

        result = compared(tmp_path, run_records(top_k=2), broken()).predictions
        assert result
        assert result.right_to_wrong.count == result.a.correct > 0
        for one in result.right_to_wrong.first:
            assert one.p_label_a
            assert one.p_label_a > 0
            assert one.p_label_b is None

    def test_the_last_of_several_visits_in_a_phase_counts(self, tmp_path: Path) -> None:
        """An image that is in a phase twice is one image with its last prediction."""

        def twice(second: int) -> Iterator[Record]:
            for record in with_predictions({"cat_0001.png": (0, 0.5)}):
                if isinstance(record, Batch) and record.phase == "val" and record.batch == 1:
                    record = replace(record, files=["cat_0001.png"], labels=np.array([0]), preds=np.array([second]))
                yield record

        result = compared(tmp_path, twice(0), twice(1)).predictions
        assert result
        assert (result.both, [one.file for one in result.right_to_wrong.first]) == (8, ["cat_0001.png"])

    def test_many_batches_are_the_same_as_few(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The result is the same if the batches of a phase wait for its end and if they do not."""
        late = compared(tmp_path, run_records(), run_records(seed=1)).predictions
        monkeypatch.setattr(phases, "WAITING_BYTES", 0)
        early = compared(tmp_path, run_records(), run_records(seed=1)).predictions
        assert late is not None
        assert early == late


class TestDamage:
    """Damage ends the comparison and is reported."""

    def test_damage_before_a_difference_leaves_it_undecided(self, tmp_path: Path) -> None:
        """No difference is claimed without evidence. The error names the file and the line."""
        lines = chained(run_records())
        damaged = [*lines[:7], lines[7].replace(b'"loss":', b'"loss":1'), *lines[8:]]
        diff = compared_files(tmp_path, lines, damaged)
        assert (diff.relation, diff.common, diff.first) == ("undecided", 7, None)
        assert diff.a.error is None
        assert diff.error is diff.b.error is not None
        assert diff.error.line == 8
        assert "b.jsonl" in diff.error.message

    def test_damage_after_a_difference_leaves_the_difference(self, tmp_path: Path) -> None:
        """The point where the runs diverge is known, and the comparison ends before the damage."""
        lines = chained(run_records(seed=1))
        diff = compared_files(tmp_path, chained(run_records()), [*lines[:12], *lines[13:]])
        assert (diff.relation, diff.common) == ("differ", 0)
        assert diff.first
        assert diff.error
        assert diff.error.line == 13
        assert diff.predictions
        assert diff.predictions.b.epoch == 0

    def test_empty_files_are_not_equal_runs(self, tmp_path: Path) -> None:
        """Two empty files are undecided, with an error."""
        diff = compared_files(tmp_path, [], [])
        assert diff.relation == "undecided"
        assert diff.error

    def test_impossible_records_are_an_error(self, tmp_path: Path) -> None:
        """A label that is no class, or columns of other lengths, are not compared even if the chain holds."""

        def change(batch: Batch) -> Batch:
            return replace(batch, labels=batch.labels + 7)

        diff = compared(tmp_path, run_records(), with_batch("val", 1, 0, change))
        assert (diff.relation, diff.predictions) == ("differ", None)
        assert diff.error
        assert "outside the 3 classes" in diff.error.message

        def cut(batch: Batch) -> Batch:
            return replace(batch, files=batch.files[:-1])

        diff = compared(tmp_path, run_records(), with_batch("val", 1, 0, cut))
        assert (diff.relation, diff.first) == ("differ", None)
        assert diff.error
        assert "files" in diff.error.message


def test_memory_does_not_grow_with_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times as many epochs of the same images need no more memory."""
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 1 << 14)  # else what one read brings is most of it
    peaks = []
    for epochs in (4, 20):
        for seed in (0, 1):
            write_run(tmp_path / f"{epochs}-{seed}", run_records(per_class=200, batch_size=64, epochs=epochs, seed=seed))
        tracemalloc.start()
        with open_run(tmp_path / f"{epochs}-0") as a, open_run(tmp_path / f"{epochs}-1") as b:
            assert compare(a, b).relation == "differ"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
