"""Training dynamics: the definitions of the papers, computed again sample by sample from the records."""

import itertools
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli import Recorder
from capture_cli.answers import dynamics as room
from capture_cli.answers.dynamics import Dynamics, SampleDynamics
from capture_cli.errors import RecordsError
from capture_cli.records import Batch, Record
from capture_cli.runs import open_run
from recordings import batch_of
from runs import run_records, write_run

NEVER = -1


def dynamics_of(path: Path, phase: str = "train") -> SampleDynamics:
    with open_run(path) as run:
        fold = Dynamics(phase)
        assert run.fold(fold) is None
        return fold.result()


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("phase", ["train", "val"])
def test_every_quantity_is_that_of_its_paper(tmp_path: Path, phase: str, top_k: int | None) -> None:
    """Mean margin, confidence, variability, correctness, forgetting and learning epochs, one sample at a time."""
    records = list(run_records(classes=tuple("abcde"), per_class=9, epochs=6, top_k=top_k))
    found = dynamics_of(write_run(tmp_path / "run", records), phase)
    visits = defaultdict(list)
    for record in records:
        if isinstance(record, Batch) and record.phase == phase:
            for i, file in enumerate(record.files or ()):
                label, kept = int(record.labels[i]), record.probs[i].astype(float)
                if record.topk is None:
                    other = np.delete(kept, label).max()
                    p_label = kept[label]
                else:
                    other = kept[record.topk[i] != label].max()
                    p_label = float(record.p_labels[i])  # type: ignore[index]
                margin = -float(record.losses[i]) - np.log(max(other, 1e-45))
                visits[file].append((record.epoch, margin, p_label, float(record.losses[i]), label, kept))
    assert sorted(found.files) == sorted(visits)
    assert found.epochs.tolist() == list(range(6))
    for i, file in enumerate(found.files):
        epochs, margins, p_labels, losses, labels, probs = (np.array(column) for column in zip(*visits[file], strict=True))
        right = margins > 0
        assert found.aum[i] == pytest.approx(margins.mean(), rel=1e-6, abs=1e-6)
        assert found.confidence[i] == pytest.approx(p_labels.mean(), abs=1e-6)
        assert found.variability[i] == pytest.approx(p_labels.std(), abs=1e-6)
        assert found.correctness[i] == pytest.approx(right.mean())
        assert found.mean_loss[i] == pytest.approx(losses.mean(), rel=1e-6, abs=1e-6)
        if top_k is None:
            one_hot = np.eye(probs.shape[1])[labels]
            assert found.el2n is not None
            assert found.entropy is not None
            assert found.mean_probs is not None
            assert found.el2n[i] == pytest.approx(np.sqrt(((probs - one_hot) ** 2).sum(1)).mean(), abs=1e-6)
            assert found.entropy[i] == pytest.approx(-(probs * np.log(probs)).sum(1).mean(), abs=1e-6)
            # cleanlab's two scores of a label, from the mean probabilities: self-confidence and normalised margin.
            means, label = probs.mean(0), labels[0]
            assert found.mean_probs[i][label] == pytest.approx(means[label], abs=1e-6)
            other = np.delete(found.mean_probs[i], label).max()
            margin = (means[label] - np.delete(means, label).max() + 1) / 2
            assert (found.mean_probs[i][label] - other + 1) / 2 == pytest.approx(margin, abs=1e-6)
        assert found.forgetting[i] == sum(a and not b for a, b in itertools.pairwise(right))
        assert found.first_learned[i] == (epochs[right].min() if right.any() else NEVER)
        since = next((e for e, k in zip(epochs, range(len(right)), strict=True) if right[k:].all()), NEVER)
        assert found.learned[i] == since
    assert found.probs is not None
    assert found.probs.sum(2) == pytest.approx(1, abs=1e-5)
    assert found.probs_are_complete == (top_k is None)


@pytest.mark.parametrize("weight", [0.9, 0.5, 0.1])
def test_mixed_inputs_tell_about_the_sample_that_they_mostly_show(tmp_path: Path, weight: float) -> None:
    """An input that is nine tenths of another sample is a visit of that one; an even mixture is a visit of neither."""
    records: list[Record] = []
    p_labels: dict[str, list[float]] = {}
    labels: dict[str, int] = {}
    for record in run_records(classes=tuple("abc"), per_class=6, epochs=3):
        if not isinstance(record, Batch) or record.phase != "train":
            records.append(record)
            continue
        rows = np.arange(len(record.labels))
        partners = (rows - 1) % len(rows)
        mix = {"method": "mixup", "weight": weight, "partners": partners.tolist(), "labels": record.labels[partners].tolist()}
        records.append(replace(record, mix=mix))
        shown = {0.9: rows, 0.5: (), 0.1: partners}[weight]
        for row, sample in zip(rows, shown, strict=False):
            assert record.files is not None
            p_labels.setdefault(record.files[sample], []).append(float(record.probs[row, record.labels[sample]]))
        labels |= zip(record.files or (), record.labels.tolist(), strict=True)
    found = dynamics_of(write_run(tmp_path / "run", records))
    assert dict(zip(found.files, found.labels.tolist(), strict=True)) == labels
    assert found.visits.tolist() == [len(p_labels.get(file, ())) for file in found.files]
    assert found.evenly_mixed == (0 if p_labels else 3 * len(labels))
    for i, file in enumerate(found.files):
        if p_labels:
            p = np.array(p_labels[file])
            assert found.confidence[i] == pytest.approx(p.mean(), abs=1e-6)
            assert found.mean_loss[i] == pytest.approx(-np.log(p).mean(), rel=1e-5)
            assert found.correctness[i] == pytest.approx((found.margin[:, i] > 0).mean())


def test_a_sample_that_was_not_visited_in_an_epoch_has_a_gap(tmp_path: Path) -> None:
    """Means are over the visits there were, and a gap is neither right nor forgotten."""
    with Recorder(tmp_path / "run", classes=["a", "b", "c"]) as recorder:
        for epoch, n in enumerate((4, 2, 4)):
            recorder.record(**batch_of(n, 3, seed=epoch, epoch=epoch))
    found = dynamics_of(tmp_path / "run")
    assert found.visits.tolist() == [3, 3, 2, 2]
    assert np.isnan(found.margin[1]).tolist() == [False, False, True, True]
    assert found.aum[2] == pytest.approx((found.margin[0, 2] + found.margin[2, 2]) / 2)
    assert found.files.tolist() == ["0", "1", "2", "3"]


def test_probabilities_that_do_not_fit_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit everything but the probabilities is there."""
    monkeypatch.setattr(room, "MAX_PROBS_BYTES", 100)
    found = dynamics_of(write_run(tmp_path / "run", run_records(epochs=3)))
    assert found.probs is None
    assert np.isfinite(found.aum).all()


def test_a_phase_that_the_run_does_not_have_is_an_error(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(RecordsError, match="no visits of the phase test"):
        dynamics_of(write_run(tmp_path / "run", run_records()), "test")
