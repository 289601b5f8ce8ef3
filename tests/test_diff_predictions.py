"""A comparison finds the images that one run has right and the other wrong, in the phase that both have."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli.answers import phases
from capture_cli.cli import run
from capture_cli.records import Batch, End, Epoch, Record, RunInfo, Samples
from capture_cli.views.terminal.diff import show_diff, show_table
from runs import run_records
from test_diff import compared


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


def _failed(records: Sequence[Record]) -> list[Record]:
    """These records, sealed by an error."""
    return [*records, End(status="failed", counts=Counter(one.kind for one in records))]


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
        assert (cat.n, cat.correct_a, cat.correct_b, cat.change) == (3, 3, 1, pytest.approx(-2 / 3))
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
                        digests = [
                            "f" * 32 if file == "new.png" else one for file, one in zip(files, record.digests, strict=True)
                        ]
                        record = replace(record, labels=np.array(record.labels).tolist(), digests=digests)
                yield record

        diff = compared(tmp_path, run_records(files=names, classes=("cat", "dog", "elk")), other())
        assert diff.error is None
        result = diff.predictions
        assert result
        assert (result.both, result.a.n, result.b.n) == (8, 9, 9)
        assert (result.right_to_wrong.count, result.wrong_to_right.count, result.wrong_to_wrong) == (0, 0, 0)
        assert [(one.name, one.change) for one in result.classes] == [("cat", 0), ("dog", 0), ("elk", 0)]
        assert (diff.files.label.count, diff.files.only_a.first, diff.files.only_b.first) == (0, (names[3],), ("new.png",))

    @pytest.mark.parametrize("waiting", [phases.WAITING_BYTES, 0])
    def test_images_with_other_paths_are_matched_by_their_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int
    ) -> None:
        """As where one run is of a folder within that of the other. Flips have the path of A, and all else is the same."""
        monkeypatch.setattr(phases, "WAITING_BYTES", waiting)
        turned = dict.fromkeys(self.VAL, (1, 0.25))

        def below(records: Iterator[Record]) -> Iterator[Record]:
            for record in records:
                if isinstance(record, Samples | Batch):
                    record = replace(record, files=[f"test/{file}" for file in record.files])
                yield record

        straight = compared(tmp_path, run_records(), with_predictions(turned)).predictions
        assert straight
        assert straight.both == 9
        assert straight.right_to_wrong.count + straight.wrong_to_right.count > 0
        assert compared(tmp_path, run_records(), below(with_predictions(turned))).predictions == straight

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

    @pytest.mark.parametrize(("lines", "found"), [(5, ("train", 0, 16)), (-3, ("val", 0, 9))])
    def test_a_run_that_failed_is_compared_in_the_epoch_that_both_have(
        self, tmp_path: Path, lines: int, found: tuple[str, int, int]
    ) -> None:
        """The last that both completed, else as far as the failed one came in its own; a gate refuses what did not end."""
        failed = _failed(list(run_records(seed=1, status=None))[:lines])
        both = compared(tmp_path, run_records(), failed)
        assert both.predictions
        one = both.predictions
        assert ((one.phase, one.a.epoch, one.both), one.b.epoch) == (found, found[1])
        assert both.partial == (("b",) if found[0] == "train" else ())
        out = io.StringIO()
        with redirect_stdout(out):
            show_diff(both, a="a", b="b")
        assert ("epoch 0 (B failed in it): " in out.getvalue()) is bool(both.partial)
        assert "so far" not in out.getvalue()
        assert run(["diff", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--fail-if", "flips < 0"]) == bool(
            both.partial
        )
        out = io.StringIO()
        with redirect_stdout(out):
            show_table([both, compared(tmp_path, run_records(), run_records(seed=2))], ["a", "b", "c"])
        heads = out.getvalue().splitlines()[2].split()
        assert ("phase" in heads) is bool(both.partial)
        assert [line.split()[0] for line in out.getvalue().splitlines()[3:]] == ["a", "a", "b", "c"]

    def test_phases_of_different_epochs_are_not_compared(self, tmp_path: Path) -> None:
        """Where one run did not complete and they have no epoch in common."""
        later = [replace(one, epoch=one.epoch + 5) if isinstance(one, Batch | Epoch) else one for one in run_records()]
        assert compared(tmp_path, run_records(), later).predictions
        failed = _failed(later[:5])
        assert compared(tmp_path, run_records(), failed).predictions is None

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

    def test_a_corrected_label_is_no_changed_prediction(self, tmp_path: Path) -> None:
        """Equal predictions under other labels are listed, and are in no number: neither flips nor accuracy nor the test."""
        before = with_predictions({**dict.fromkeys(self.VAL, (0, 0.9)), self.VAL[5]: (1, 0.9)})

        def corrected() -> Iterator[Record]:
            for record in with_predictions({**dict.fromkeys(self.VAL, (0, 0.9)), self.VAL[5]: (0, 0.2)}):
                if isinstance(record, Batch):
                    labels = [
                        0 if file in self.VAL[3:5] else label for file, label in zip(record.files, record.labels, strict=True)
                    ]
                    record = replace(record, labels=np.array(labels))
                yield record

        diff = compared(tmp_path, before, corrected(), limit=1)
        result, values = diff.predictions, diff.measures()
        assert result
        assert values
        assert (result.labels_changed.count, [one.file for one in result.labels_changed.first]) == (2, [self.VAL[3]])
        one = result.labels_changed.first[0]
        assert (one.label_a, one.label_b, one.pred_a, one.pred_b) == ("dog", "cat", "cat", "cat")
        assert (result.right_to_wrong.count, result.wrong_to_right.count) == (1, 0)
        assert (result.both, sum(one.n for one in result.classes), values["labels_changed"], values["only_a"]) == (7, 7, 2, 0)
        assert values["accuracy_drop"] == pytest.approx(1 / 7)

    def test_without_images_of_the_same_label_there_are_no_measures(self, tmp_path: Path) -> None:
        """So a gate on flips cannot pass for want of data."""

        def renamed() -> Iterator[Record]:
            for record in run_records():
                yield replace(record, classes=["c", "d", "g"]) if isinstance(record, RunInfo) else record

        values = compared(tmp_path, run_records(), renamed()).measures()
        assert values
        assert (values["images"], values["labels_changed"], values["flips"], values["accuracy_drop"]) == (0, 9, None, None)
