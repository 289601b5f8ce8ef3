"""Wrong labels that are not claimed: by networks that are too weak to judge, and of classes that are hardly learnt."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calling import Caller
from capture_cli import Recorder
from capture_cli.answers.suspects import LIKELY, find_suspects
from capture_cli.answers.suspects.count import counted, wrong_count
from capture_cli.answers.suspects.score import score_labels
from capture_cli.runs import open_run
from runs import run_records, write_run

CLASSES = 10


def record(recorder: Recorder, epoch: int, phase: str, logits: Any, labels: Any, ids: Any) -> None:
    """Record one batch with these logits and labels."""
    shown, told = torch.tensor(logits), torch.tensor(labels)
    recorder.record(epoch=epoch, phase=phase, inputs=torch.zeros(len(ids), 1), logits=shown, labels=told, ids=ids)


@pytest.mark.parametrize(("skill", "weak"), [(0.1, True), (0.4, True), (4.0, False)])
def test_a_network_that_has_hardly_learnt_judges_no_label(skill: float, weak: bool, tmp_path: Path) -> None:
    """Its own errors are not called wrong labels; the order and the reason are still shown."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, CLASSES, 300)
    with Recorder(tmp_path / "run.jsonl", classes=[f"c{k}" for k in range(CLASSES)]) as recorder:
        for epoch in range(3):
            logits = rng.normal(0, 1, (300, CLASSES))
            logits[np.arange(300), labels] += skill * (epoch + 1) / 3
            record(recorder, epoch, "train", logits, labels, range(300))
    with open_run(tmp_path / "run.jsonl") as run:
        found = find_suspects(run)
    assert (found.expected is None) is weak
    assert any("too weak a network" in note for note in found.phases[0].notes) is weak
    if weak:
        assert not found.flagged
    assert len(found.suspects) == 300


def test_a_weak_phase_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    """A handful of validation images that the network gets wrong says nothing of what it learnt; only they are not judged."""
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 600)
    given = np.where(np.arange(600) < 12, (labels + 1) % 3, labels)
    with Recorder(tmp_path / "run.jsonl", classes=["a", "b", "c"]) as recorder:
        for epoch in range(4):
            for phase, rows, sign in (("train", slice(0, 590), 4), ("val", slice(590, 600), -4)):
                logits = rng.normal(0, 1, (600, 3))
                logits[np.arange(600), labels] += sign
                record(recorder, epoch, phase, logits[rows], given[rows], range(600)[rows])
    with open_run(tmp_path / "run.jsonl") as run:
        found = find_suspects(run)
    assert [one.method for one in found.phases] == ["noise-model", "margin"]
    assert {one.id for one in found.flagged} == set(range(12))
    assert [one.phase for one in found.suspects[590:]] == ["val"] * 10
    assert [any("too weak" in note for note in one.notes) for one in found.phases] == [False, True]
    assert found.expected == pytest.approx(12, abs=2)


@pytest.mark.parametrize(("wrong", "flagged"), [(0, 0), (100, 20)])
def test_validation_labels_are_not_judged_more_harshly_than_those_trained_on(wrong: int, flagged: int, tmp_path: Path) -> None:
    """Of 200 unseen images 20 are contradicted: as wrong labels only if the labels that were trained on are wrong as often."""
    rng = np.random.default_rng(9)
    labels = rng.integers(0, 3, 1200)
    given = labels.copy()
    given[:wrong] = (labels[:wrong] + 1) % 3
    given[1000:1020] = (labels[1000:1020] + 1) % 3
    with Recorder(tmp_path / "run.jsonl", classes=["a", "b", "c"]) as recorder:
        for epoch in range(4):
            for phase, rows in (("train", slice(0, 1000)), ("val", slice(1000, 1200))):
                logits = rng.normal(0, 1, (1200, 3))
                logits[np.arange(1200), labels] += 4
                record(recorder, epoch, phase, logits[rows], given[rows], range(1200)[rows])
    with open_run(tmp_path / "run.jsonl") as run:
        found = find_suspects(run)
    assert sum(one.flagged for one in found.suspects if one.phase == "train") == pytest.approx(wrong, abs=5)
    assert sum(one.flagged for one in found.suspects if one.phase == "val") == pytest.approx(flagged, abs=3)
    held_out = [one for one in found.suspects if one.phase == "val"]
    assert {one.id for one in held_out[:20]} == set(range(1000, 1020))


def test_a_class_of_few_images_beside_many_is_not_flagged(tmp_path: Path) -> None:
    """It is hardly learnt, so contradictions say little; the note names it."""
    rng = np.random.default_rng(4)
    labels = np.array([0] * 150 + [1] * 150 + [2] * 8)
    with Recorder(tmp_path / "run.jsonl", classes=["cat", "dog", "rare"]) as recorder:
        for epoch in range(5):
            logits = rng.normal(0, 0.5, (308, 3))
            logits[np.arange(308), np.where(labels == 2, 0, labels)] += 4
            record(recorder, epoch, "train", logits, labels, range(308))
    with open_run(tmp_path / "run.jsonl") as run:
        found = find_suspects(run)
    assert {one.label for one in found.suspects[:8]} == {"rare"}
    assert not found.flagged
    assert any(note.startswith("labels of rare are not flagged") for note in found.phases[0].notes)


def test_a_network_that_knows_nothing_yet_is_no_judge_of_how_many_labels_are_wrong() -> None:
    """Its first epochs contradict nearly all labels, those that it is surest of too: not every hard image counts for that."""
    rng = np.random.default_rng(3)
    labels, rows = np.repeat(np.arange(CLASSES), 25), np.arange(250)
    hard = rng.uniform(0, 1.15, 250)
    probs = np.zeros((20, 250, CLASSES))
    for epoch in range(20):
        logits = rng.normal(0, 0.3, (250, CLASSES))
        if epoch < 2:
            logits[:, :3] += 1.2
        else:
            logits[rows, labels] += 0.2 * epoch
            logits[rows, (labels + 1) % CLASSES] += 0.2 * epoch * hard
        probs[epoch] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scored = score_labels(probs, labels)
    assert wrong_count(probs, labels, scored) < 0.75 * scored.contradicted.sum()


@pytest.mark.parametrize("every", [1, 2, 4])
def test_batches_that_were_not_captured_invent_no_wrong_labels(every: int, tmp_path: Path) -> None:
    """Early epochs contradict clean labels, and some samples have few other visits. With too few there is no count."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, 640)
    given = np.where(np.arange(640) < 12, (labels + 1) % CLASSES, labels)
    with Recorder(tmp_path / "run.jsonl", classes=[f"c{k}" for k in range(CLASSES)], every=every) as recorder:
        for epoch in range(12):
            order = rng.permutation(640)
            for rows in np.split(order, 10):
                logits = rng.normal(0, 1, (64, CLASSES))
                logits[np.arange(64), labels[rows]] += epoch
                record(recorder, epoch, "train", logits, given[rows], rows)
    with open_run(tmp_path / "run.jsonl") as run:
        found = find_suspects(run)
    assert {one.id for one in found.flagged} <= set(range(12))
    assert len(found.flagged) >= (10 if every < 4 else 0)
    assert (found.expected is None) is (every == 4)
    assert any("fewer than 3 recorded visits" in note for note in found.phases[0].notes) is (every == 4)
    assert len({one.id for one in found.suspects[:10]} - set(range(12))) <= 1
    assert all((one.p_wrong or 0) > LIKELY and one.contradicted for one in found.flagged)


def test_of_several_runs_a_weak_one_is_not_used(tmp_path: Path, call: Caller) -> None:
    """The answer is that of the others, and says so; the weak one's reason is not given for them."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 400)
    given = np.where(np.arange(400) < 8, (labels + 1) % 3, labels)
    for name, skill in (("weak", 0.1), ("good", 4)):
        with Recorder(tmp_path / name, classes=["a", "b", "c"]) as recorder:
            for epoch in range(4):
                logits = rng.normal(0, 1, (400, 3))
                logits[np.arange(400), labels] += skill
                record(recorder, epoch, "train", logits, given, range(400))
    alone = call("suspects", "good").out.splitlines()
    for runs in (("weak", "good"), ("good", "weak")):
        done = call("suspects", *runs)
        assert done.out.splitlines()[0] == alone[0]
        assert "1 of 2 runs are not used" in done.out
        assert "too weak" not in done.out


@pytest.mark.parametrize(("per_class", "epochs", "few"), [(40, 5, "images a class"), (420, 4, "epochs"), (160, 5, "")])
def test_wrong_labels_of_few_images_or_epochs_are_not_counted(
    per_class: int, epochs: int, few: str, tmp_path: Path, call: Caller
) -> None:
    """The sentence says that they are too few to tell; few validation images are no reason, with enough of them to train on."""
    write_run(tmp_path / "run", run_records(per_class=per_class, epochs=epochs, batch_size=200))
    said = call("suspects", "run").out
    assert said.startswith(f"too few {few} to tell how many labels are wrong: look at the first rows; " if few else "about ")
    assert (f"train: {epochs} epochs; to count wrong labels takes about 5\n" in said) == (few == "epochs")
    assert "val: 40 images a class; to count wrong labels takes about 100\n" in said or per_class != 160
    lesson = call("inspect", "run").out
    assert few in (re.findall(r"looks? wrong \(a guess: few ([\w ]+)\)", lesson) or [""])


def test_the_range_is_wider_than_the_probabilities_alone_make_it() -> None:
    """40 % below the estimate and twice as many, and two standard deviations; never more than there are samples."""
    assert counted(np.full(100, 0.5)) == (50, 20, 100)
    assert counted(np.full(100, 0.9)) == pytest.approx((90, 48, 100))
    assert counted(np.full(100, 0.1)) == pytest.approx((10, 0, 26))
    assert counted(np.zeros(0)) == (0, 0, 0)


def test_one_image_a_class_is_one_image(tmp_path: Path) -> None:
    """The note on few images counts them in words that fit."""
    with open_run(write_run(tmp_path / "run", run_records(per_class=4, epochs=5))) as run:
        notes = {one.phase: one.notes for one in find_suspects(run).phases}
    assert "1 image a class; to count wrong labels takes about 100" in notes["val"]
    assert "3 images a class; to count wrong labels takes about 100" in notes["train"]
