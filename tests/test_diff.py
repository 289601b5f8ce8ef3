"""A comparison finds where two runs diverge, matches images by path, and uses only lines that verify."""

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capture_cli.answers.diff import Diff, ValueDifference, compare
from capture_cli.records import Batch, End, Record, RunInfo, Samples, Skip
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
                    digests[:2] = ["e" * 32, "f" * 32]
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

    def test_files_that_only_one_run_names_are_matched_by_their_bytes(self, tmp_path: Path) -> None:
        """Their labels and splits are compared, and each other difference is still counted."""

        def other() -> Iterator[Record]:
            for record in run_records():
                if isinstance(record, Samples):
                    files, digests, labels = list(record.files), list(record.digests), list(record.labels)
                    files[:3] = ["moved.png", "relabelled.png", "added.png"]
                    labels[1], digests[2] = 0, "e" * 32
                    record = replace(record, files=files, digests=digests, labels=labels)
                yield record

        samples = next(r for r in run_records() if isinstance(r, Samples))
        files = compared(tmp_path, run_records(), other()).files
        assert [(one.file_a, one.file_b) for one in files.moved.first] == [
            (samples.files[0], "moved.png"),
            (samples.files[1], "relabelled.png"),
        ]
        assert files.label.first == (samples.files[1],)
        assert (files.only_a.first, files.only_b.first) == ((samples.files[2],), ("added.png",))
        assert files.bytes.count == files.split.count == 0

    @pytest.mark.parametrize("side", [0, 1])
    def test_copies_are_not_matched_by_their_bytes(self, tmp_path: Path, side: int) -> None:
        """Bytes that several files of one run have do not tell which of them was moved, whether or not both runs have one."""
        before, after = list(run_records()), list(run_records())
        for number, records in enumerate((before, after)):
            for at, record in enumerate(records):
                if isinstance(record, Samples):
                    digests, files = list(record.digests), list(record.files)
                    files[0] = "new.png" if number else files[0]
                    digests[5] = digests[0] if number == side else digests[5]
                    records[at] = replace(record, files=files, digests=digests)
        files = compared(tmp_path, before, after).files
        assert files.moved.count == 0
        assert (files.only_a.count, files.only_b.first) == (1, ("new.png",))

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
