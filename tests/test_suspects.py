"""Suspects: wrong labels that were planted are found, clean sets are left alone, and what cannot be told is not claimed."""

import csv
import io
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from calling import Caller, called
from capture_cli import Recorder
from capture_cli.answers.suspects import find_suspects
from capture_cli.answers.suspects.count import calibrated, is_too_weak, p_wrong, wrong_count
from capture_cli.answers.suspects.noise_matrix import noise
from capture_cli.answers.suspects.score import score_labels, uniform_share
from capture_cli.records import Batch, Record, Samples
from capture_cli.runs import open_run
from recordings import batch_of
from runs import ANIMALS, run_records, task_records, write_run

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


def test_uniform_noise_is_seen_while_it_is_learnt_by_heart() -> None:
    """From the fourth epoch on, each wrong label is the likeliest but one: about the planted share is found nevertheless."""
    labels, truth = planted("uniform", 0.1)
    probs, wrong = training(labels, truth), np.flatnonzero(labels != truth)
    probs[3:, wrong, labels[wrong]] = np.sort(probs[3:, wrong])[:, :, -2]
    probs /= probs.sum(2, keepdims=True)
    assert score_labels(probs, labels).uniform == pytest.approx(0.09, abs=0.03)
    assert uniform_share(probs.mean(0), labels)[0] < 0.03


def test_a_clean_set_is_left_alone() -> None:
    """At most 0.5 % of correct labels are flagged."""
    _, truth = planted("uniform", 0)
    probs = training(truth, truth)
    assert wrong_count(probs, truth, score_labels(probs, truth)) <= 0.005 * N


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_a_network_that_has_learnt_judges_many_wrong_labels(rate: float) -> None:
    """Contradicting many labels is no weakness by itself."""
    labels, truth = planted("uniform", rate)
    assert not is_too_weak(training(labels, truth), labels)


def test_epochs_in_which_nothing_was_learnt_yet_do_not_count() -> None:
    """As of a network that starts slowly: four epochs of chance change the ranking hardly, and not the number."""
    labels, truth = planted("uniform", 0.1)
    probs = training(labels, truth)
    chance = np.random.default_rng(8).dirichlet(np.ones(CLASSES), (4, N))
    scored, late = score_labels(probs, labels), score_labels(np.concatenate([chance, probs]), labels)
    wrong = labels != truth
    assert average_precision(late.score, wrong) > average_precision(scored.score, wrong) - 0.002
    counts = [wrong_count(given, labels, one) for given, one in ((probs, scored), (np.concatenate([chance, probs]), late))]
    assert counts[1] == pytest.approx(counts[0], rel=0.1)


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
    p = p_wrong(calibrated(score, count))
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


class TestBadInput:
    """What the records allow is answered, and why the rest is not."""

    def test_one_epoch(self, call: Caller, tmp_path: Path) -> None:
        """Ranked by the margin; the sentence says that nothing more can be told."""
        write_run(tmp_path / "run", run_records(epochs=1))
        done = call("suspects", "run")
        assert done.code == 0
        assert "this run cannot tell how many labels are wrong" in done.out
        assert call("inspect", "run").code == call("inspect", "run", "--dynamics").code == 0

    def test_one_class(self, call: Caller, tmp_path: Path) -> None:
        """A wrong label needs another class."""
        write_run(tmp_path / "run", run_records(classes=("only",), epochs=4))
        done = call("suspects", "run")
        assert (done.code, done.out) == (2, "")
        assert "has one class only" in done.err
        assert call("inspect", "run").code == call("rows", "run", "--per", "class").code == 0

    def test_no_validation(self, call: Caller, tmp_path: Path) -> None:
        """Training samples are ranked."""
        write_run(tmp_path / "run", run_records(epochs=4, val_every=0))
        rows = [json.loads(line) for line in call("suspects", "run", "--json", "--all").out.splitlines()]
        assert {one["phase"] for one in rows} == {"train"}

    def test_records_without_batches(self, call: Caller, tmp_path: Path) -> None:
        """Nothing was captured, and that is the message."""
        records = [one for one in run_records(epochs=4, status=None) if not isinstance(one, Batch)]
        write_run(tmp_path / "run", records)
        done = call("suspects", "run")
        assert (done.code, done.out) == (4, "")
        assert "no captured visits" in done.err
        assert call("inspect", "run").code == 0

    def test_an_interrupted_run(self, call: Caller, tmp_path: Path) -> None:
        """The epochs there are count, also one that is not whole."""
        records = list(run_records(epochs=5, status=None))
        write_run(tmp_path / "run", records[:-3])
        assert len(call("suspects", "run", "--json", "--all").out.splitlines()) == 36

    def test_losses_that_are_not_finite(self, call: Caller, tmp_path: Path) -> None:
        """A training that diverged: the epochs before are used, and one that was never finite is unusable."""
        changed: list[Record] = []
        for one in run_records(epochs=6):
            if isinstance(one, Batch):
                broken = np.isin(one.ids, [0]) | (one.epoch > 3)
                losses, probs = one.losses.copy(), one.probs.copy()
                losses[broken], probs[broken] = np.nan, np.nan
                one = replace(one, losses=losses, probs=probs)
            changed.append(one)
        write_run(tmp_path / "run", changed)
        done = call("suspects", "run", "--json", "--all")
        rows = {one["file"]: one for one in map(json.loads, done.out.splitlines())}
        assert done.code == 0
        assert rows["cat_0000.png"]["reason"] == "unusable image: the loss was never finite"
        assert all(np.isfinite(one["score"]) and one["p_wrong"] is not None for one in rows.values())
        assert "with a loss that is not finite were not used" in call("suspects", "run").out
        assert call("inspect", "run").code == call("inspect", "run", "--dynamics").code == 0

    def test_more_classes_than_can_be_kept(self, call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 20,000 classes only the margins are kept; the notes say so."""
        classes = [f"c{i}" for i in range(20_000)]
        monkeypatch.setattr("capture_cli.answers.dynamics.MAX_PROBS_BYTES", 1 << 20)
        records = run_records(classes=classes, files=[f"c{i % 7}_{i}.png" for i in range(24)], epochs=3, top_k=5)
        write_run(tmp_path / "run", records)
        done = call("suspects", "run", "--top", "3")
        assert done.code == 0
        assert "20,000 classes, more than 200: ranked by the mean margin, without a count" in done.out
        assert call("inspect", "run").code == 0

    def test_ids_without_files(self, call: Caller, tmp_path: Path) -> None:
        """As from a loop of one's own: named by id, and a script can rename none of them."""
        with Recorder(tmp_path / "run", classes=["a", "b", "c"]) as recorder:
            for epoch in range(4):
                recorder.record(**batch_of(30, 3, seed=epoch, epoch=epoch))
        rows = [json.loads(line) for line in call("suspects", "run", "--json", "--all").out.splitlines()]
        assert {one["file"] for one in rows} == {str(i) for i in range(30)}
        assert call("suspects", "run", "--fix", "fix.sh").code == 0
        assert "move " not in Path("fix.sh").read_text().partition("}\n")[2]


def test_several_runs_are_ranked_by_the_mean_of_their_scores(tmp_path: Path, call: Caller) -> None:
    """Matched by file; runs of other classes or labels are refused."""
    for seed in range(3):
        write_run(tmp_path / f"run{seed}", run_records(epochs=4, seed=seed))
    names = [f"run{seed}" for seed in range(3)]
    alone = [
        {one["file"]: one["score"] for one in map(json.loads, call("suspects", name, "--json", "--all").out.splitlines())}
        for name in names
    ]
    together = [json.loads(line) for line in call("suspects", *names, "--json", "--all").out.splitlines()]
    assert len(together) == 36
    moved = [one["score"] - np.mean([scores[one["file"]] for scores in alone]) for one in together]
    assert moved == pytest.approx([moved[0]] * 36)  # calibrated once more
    assert [one["score"] for one in together] == sorted((one["score"] for one in together), reverse=True)
    write_run(tmp_path / "other", run_records(classes=("x", "y"), epochs=4))
    done = call("suspects", "run0", "other")
    assert (done.code, done.out) == (2, "")
    assert "do not have the same classes" in done.err


def with_samples(records: Iterable[Record], files: dict[str, str], classes: Sequence[str] = ANIMALS) -> list[Record]:
    """Give files other names, in folders that are called like their classes, whose labels they then have."""
    changed: list[Record] = []
    for one in records:
        if isinstance(one, Samples | Batch):
            names = [files.get(file, file) for file in one.files or ()]
            folders = [name.partition("/")[0] for name in names]
            labels = [
                classes.index(folder) if folder in classes else int(label)
                for folder, label in zip(folders, one.labels, strict=True)
            ]
            one = replace(one, files=names, labels=np.array(labels) if isinstance(one, Batch) else labels)
        changed.append(one)
    return changed


def test_several_runs_match_files_that_were_moved(tmp_path: Path, call: Caller) -> None:
    """By their bytes. Where labels were changed by that, the runs are refused, with the number of images."""
    write_run(tmp_path / "run0", run_records(epochs=4))
    moved = {f"cat_{i:04d}.png": f"cat/{i}.png" for i in range(5)}
    write_run(tmp_path / "moved", with_samples(run_records(epochs=4, seed=1), moved))
    rows = [json.loads(line) for line in call("suspects", "run0", "moved", "--json", "--all").out.splitlines()]
    assert len(rows) == 36
    assert {f"cat_{i:04d}.png" for i in range(5)} < {one["file"] for one in rows}
    for count, said in (
        (1, "'cat_0000.png' does not have"),
        (3, "3 images do not have the same label in all of these runs, such as"),
    ):
        other = {f"cat_{i:04d}.png": f"dog/{i}.png" for i in range(count)}
        write_run(tmp_path / f"fixed{count}", with_samples(run_records(epochs=4, seed=1), other))
        done = call("suspects", "run0", f"fixed{count}")
        assert (done.code, done.out) == (2, "")
        assert said in done.err


def test_images_of_some_of_several_runs_are_counted(tmp_path: Path, call: Caller) -> None:
    """They are ranked by those runs, which is said."""
    write_run(tmp_path / "run0", run_records(epochs=4))
    write_run(tmp_path / "more", run_records(epochs=4, per_class=14))
    done = call("suspects", "run0", "more")
    assert "6 of 42 images are in some of these runs only, and ranked by those" in " ".join(done.out.split())
    assert "in some of these runs" not in call("suspects", "run0", "run0").out


def test_the_review_list_has_every_contradiction(tmp_path: Path, call: Caller) -> None:
    """Flagged or not, by score; every flagged sample is on it."""
    write_run(tmp_path / "run", run_records(per_class=40, epochs=3))
    every = [json.loads(line) for line in call("suspects", "run", "--json", "--all").out.splitlines()]
    review = [json.loads(line) for line in call("suspects", "run", "--json", "--all", "--review").out.splitlines()]
    assert review == [one for one in every if one["contradicted"]]
    assert sum(one["flagged"] for one in review) == sum(one["flagged"] for one in every) < len(review)
    assert call("suspects", "run", "--review", "--duplicates").code == 2
    shown = call("suspects", "run", "--review")
    assert all(one["file"] in shown.out for one in review)
    assert f"{len(review)} samples whose mean prediction contradicts the label" in shown.out


def test_of_one_epoch_the_review_list_has_the_wrong_predictions(tmp_path: Path, call: Caller) -> None:
    """The mean of one prediction is that prediction."""
    write_run(tmp_path / "run", run_records(epochs=1))
    wrong = {row["file"] for row in map(json.loads, call("rows", "run", "--where", "not correct").out.splitlines())}
    review = [json.loads(line) for line in call("suspects", "run", "--json", "--all", "--review").out.splitlines()]
    assert {one["file"] for one in review} == wrong
    assert wrong


def run(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return called("suspects", *args, cwd=cwd)


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
