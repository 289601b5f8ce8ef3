"""Suspects: wrong labels that were planted are found, clean sets are left alone, and what cannot be told is not claimed."""

import csv
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from capture_cli.answers.suspects import find_suspects
from capture_cli.answers.suspects.count import p_wrong, wrong_count
from capture_cli.answers.suspects.noise_matrix import noise
from capture_cli.answers.suspects.score import score_labels, uniform_share
from capture_cli.runs import open_run
from conftest import CAPTURE
from runs import run_records, task_records, write_run

EPOCHS, N, CLASSES = 8, 3000, 10
Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def training(labels: Ints, truth: Ints, *, classes: int = CLASSES, seed: int = 0) -> Array:
    """Softmax [E, N, C] of a network that learns the truth first, wrong labels by heart later, and some samples never."""
    rng = np.random.default_rng(seed)
    n, rows = len(labels), np.arange(len(labels))
    look = rng.normal(0, 1, (n, classes))
    look[rows, truth] += rng.normal(4.0, 1.0, n)
    probs = np.empty((EPOCHS, n, classes))
    for epoch in range(EPOCHS):
        logits = 2 * look * (1 - 0.6 ** (epoch + 1)) + rng.normal(0, 0.3, (n, classes))
        logits[rows, labels] += 0.2 * epoch
        probs[epoch] = np.exp(logits - logits.max(1, keepdims=True))
    return probs / probs.sum(2, keepdims=True)


def planted(kind: str, rate: float, *, seed: int = 1) -> tuple[Ints, Ints]:
    """Labels and truth: a share of the labels wrong, uniformly or as the next class."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, N)
    wrong = rng.random(N) < rate
    other = rng.integers(1, CLASSES, N) if kind == "uniform" else np.ones(N, np.int64)
    return np.where(wrong, (truth + other) % CLASSES, truth), truth


def average_precision(score: Array, wrong: npt.NDArray[np.bool_]) -> float:
    """The mean of the precision at each wrong label, ranked by the score."""
    found = wrong[np.argsort(-score, kind="stable")]
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean())


@pytest.mark.parametrize("kind", ["uniform", "next"])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_planted_errors_come_first(kind: str, rate: float) -> None:
    """They are ranked above the others, their number is about right, most flags are right, and so are suggestions."""
    labels, truth = planted(kind, rate)
    wrong = labels != truth
    probs = training(labels, truth)
    scored = score_labels(probs, labels)
    assert average_precision(scored.score, wrong) > 0.9
    count = wrong_count(probs, labels, scored)
    assert 0.7 * wrong.sum() < count < 1.5 * wrong.sum()
    first = [i for i in np.argsort(-scored.score)[:count] if scored.contradicted[i]]
    assert wrong[first].mean() > 0.75
    assert (scored.suggested[first] == truth[first])[wrong[first]].mean() > 0.9


def test_errors_of_one_kind_are_ranked_better_than_by_the_margin() -> None:
    """The mean margin does not know that one class is often mistaken for the next; the noise matrix does."""
    labels, truth = planted("next", 0.2)
    probs = training(labels, truth)
    means = probs.mean(0)
    own = means[np.arange(N), labels].copy()
    means[np.arange(N), labels] = -1
    wrong = labels != truth
    assert average_precision(score_labels(probs, labels).score, wrong) > average_precision(means.max(1) - own, wrong) + 0.001


def test_the_noise_matrix_says_which_class_is_mistaken_for_which() -> None:
    """The largest rate of every class is the one that was planted, near its size."""
    labels, truth = planted("next", 0.2)
    fitted = score_labels(training(labels, truth), labels).fitted.copy()
    assert noise(fitted) == pytest.approx(0.2, abs=0.03)
    np.fill_diagonal(fitted, 0)
    assert fitted.argmax(1).tolist() == [(k + 1) % CLASSES for k in range(CLASSES)]


def test_the_uniform_share_tells_uniform_noise_from_confusion() -> None:
    """About the planted share of uniform noise, and next to nothing where labels are only mistaken for near ones."""
    labels, truth = planted("uniform", 0.1)
    assert uniform_share(training(labels, truth).mean(0), labels)[0] == pytest.approx(0.09, abs=0.03)
    assert uniform_share(training(truth, truth).mean(0), truth)[0] < 0.005


def test_a_clean_set_is_left_alone() -> None:
    """At most 0.5 % of correct labels are flagged."""
    _, truth = planted("uniform", 0)
    probs = training(truth, truth)
    assert wrong_count(probs, truth, score_labels(probs, truth)) <= 0.005 * N


def test_the_order_of_samples_does_not_matter() -> None:
    """The same samples in another order have the same scores."""
    labels, truth = planted("uniform", 0.1)
    probs = training(labels, truth)
    order = np.random.default_rng(5).permutation(N)
    once, again = score_labels(probs, labels).score, score_labels(probs[:, order], labels[order]).score
    assert again == pytest.approx(once[order], abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 40, 300])
def test_probabilities_add_up_to_the_count(count: int) -> None:
    """And rise with the score."""
    score = np.random.default_rng(3).normal(-5, 3, 1000)
    p = p_wrong(score, count)
    assert p.sum() == pytest.approx(count, abs=0.05 if count else 0.2)
    assert (np.diff(p[np.argsort(score)]) >= 0).all()


def test_two_epochs_are_ranked_by_the_margin_and_say_so(tmp_path: Path) -> None:
    """No number of wrong labels is claimed, nothing is flagged."""
    with open_run(write_run(tmp_path / "run", run_records(epochs=2))) as run:
        found = find_suspects(run)
    assert [one.method for one in found.phases] == ["margin", "margin"]
    assert found.expected is None
    assert all(one.p_wrong is None for one in found.suspects)
    assert not any(one.flagged for one in found.suspects)
    assert "2 of at least 3 epochs" in found.phases[0].notes[0]
    train = [one for one in found.suspects if one.phase == "train"]
    assert [one.score for one in train] == sorted((one.score for one in train), reverse=True)


def test_every_sample_is_ranked_once(tmp_path: Path) -> None:
    """Train and validation samples, each with another class than its own suggested."""
    with open_run(write_run(tmp_path / "run", run_records(epochs=4, top_k=2))) as run:
        found = find_suspects(run)
    assert len({one.file for one in found.suspects}) == len(found.suspects) == 36
    assert all(one.suggested != one.label for one in found.suspects)
    assert any("only the largest probabilities" in note for phase in found.phases for note in phase.notes)


def run(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CAPTURE, "suspects", *args], cwd=cwd, capture_output=True, text=True, timeout=60)


class TestCommand:
    """`capture suspects`."""

    def test_json_and_csv_have_the_same_rows(self, tmp_path: Path) -> None:
        """One object a line; the same columns in CSV."""
        write_run(tmp_path / "run", run_records(epochs=4))
        rows = [json.loads(line) for line in run(tmp_path, "run", "--json", "--all").stdout.splitlines()]
        assert len(rows) == 36
        assert rows[0].keys() >= {"file", "label", "suggested", "score", "p_wrong", "flagged", "reason"}
        table = list(csv.DictReader(io.StringIO(run(tmp_path, "run", "--csv", "--all").stdout)))
        assert [one["file"] for one in table] == [one["file"] for one in rows]
        assert [float(one["p_wrong"]) for one in table] == [one["p_wrong"] for one in rows]

    def test_top_and_class_choose_rows(self, tmp_path: Path) -> None:
        """The first N, of one label."""
        write_run(tmp_path / "run", run_records(epochs=4))
        rows = [json.loads(line) for line in run(tmp_path, "run", "--json", "--class", "dog", "--top", "3").stdout.splitlines()]
        assert [one["label"] for one in rows] == ["dog"] * 3
        shown = run(tmp_path, "run", "--top", "2").stdout
        assert "labels" in shown
        assert len([line for line in shown.splitlines() if ".png" in line]) == 2

    def test_wrong_usage_is_one_line(self, tmp_path: Path) -> None:
        """A class that the run does not have, two formats at once."""
        write_run(tmp_path / "run", run_records(epochs=4))
        for args, said in ((["--class", "cow"], "no class 'cow'"), (["--json", "--csv"], "--json and --csv")):
            done = run(tmp_path, "run", *args)
            assert (done.returncode, done.stdout) == (2, "")
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize("task", ["regression", "sequence", "multilabel"])
    def test_a_run_without_one_label_a_sample_is_refused(self, tmp_path: Path, task: str) -> None:
        """The message names the task."""
        write_run(tmp_path / "run", task_records(task))
        done = run(tmp_path, "run")
        assert done.returncode == 2
        assert f"the task of this run is {task}" in done.stderr

    def test_damage_is_told_after_what_comes_before_it(self, tmp_path: Path) -> None:
        """What verifies is ranked; exit code 4."""
        path = write_run(tmp_path / "run", run_records(epochs=6)) / "records.jsonl"
        data = path.read_bytes()
        path.write_bytes(data[:-4000] + b"#" + data[-3999:])
        done = run(tmp_path, "run", "--json")
        assert done.returncode == 4
        assert done.stdout
        assert "line " in done.stderr
