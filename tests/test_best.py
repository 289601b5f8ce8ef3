"""The best epoch: found, kept, told, and the end of a training that brings nothing better."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from capture_cli.answers.best import BestEpochs, best_epoch, scalars, uneven_scores
from capture_cli.answers.shares import percent
from capture_cli.models import saved
from capture_cli.records import Epoch
from capture_cli.runs import open_run
from capture_cli.views.terminal import tables
from cutting import Trainer, kept, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/` with 24 images."""
    return trainer(tmp_path, monkeypatch)


def totals(phase: str, epoch: int, loss: float, accuracy: float = 0.5, counts: dict[str, list[int]] | None = None) -> Epoch:
    """The totals of one phase."""
    return Epoch(phase=phase, epoch=epoch, n=10, loss=loss, accuracy=accuracy, captured=10, not_captured=0, class_counts=counts)


def epochs(train: list[float], val: list[float], accuracy: list[float]) -> list[Epoch]:
    """The totals of a training, epoch by epoch."""
    found = []
    for number, (one, other, share) in enumerate(zip(train, val, accuracy, strict=True), 1):
        found += [totals("train", number, one), totals("val", number, other, share)]
    return found


def test_accuracy_rises_while_the_validation_loss_says_overfitting() -> None:
    """The best epoch is by the metric; the sentence names the epoch since which the loss rises."""
    run = epochs([2, 1, 0.5, 0.2, 0.1], [1.0, 0.8, 0.9, 1.0, 1.1], [0.5, 0.6, 0.6, 0.7, 0.7])
    found = best_epoch(run, {})
    assert found is not None
    assert (found.epoch, found.overfits_since) == (4, 2)
    assert found.sentence == (
        "Best epoch 4 of 5 (validation accuracy 70.0%); the validation loss rises since epoch 2: overfitting"
    )
    by_loss = best_epoch(run, {"best": "val_loss"})
    assert by_loss is not None
    assert by_loss.sentence.startswith("Best epoch 2 of 5 (validation loss 0.800); ")


def test_a_sentence_rounds_an_accuracy_as_the_table_does() -> None:
    """Half-way between two numbers, where 69.25 in percent would be rounded to the even 69.2."""
    found = best_epoch(epochs([1.0], [1.0], [0.6925]), {})
    assert found is not None
    assert found.sentence == "Best epoch 1 of 1 (validation accuracy 69.3%)"
    assert [percent(one) for one in (0.0, 0.0004, 0.6935, 0.99949, 1.0)] == ["0.0%", "0.0%", "69.4%", "99.9%", "100.0%"]
    assert all(percent(one / 400) == f"{100 * float(tables.number(one / 400)):.1f}%" for one in range(1, 401))


@pytest.mark.parametrize(
    ("first", "among"), [(0, "Best epoch 3 of 0 to 3 ("), (1, "Best epoch 4 of 4 ("), (7, "Best epoch 10 of 7 to 10 (")]
)
def test_a_loop_may_count_epochs_from_another_number_than_1(first: int, among: str) -> None:
    """The last of four epochs is not called the third of three. A training phase that comes without validation counts."""
    run = epochs([4, 3, 2, 1], [4, 3, 2, 1], [0.5, 0.6, 0.7, 0.8])
    moved = [replace(one, epoch=one.epoch + first - 1) for one in run if (one.phase, one.epoch) != ("val", 1)]
    found = best_epoch([moved[0], replace(moved[0], phase="test", epoch=0), *moved[1:]], {})
    assert found is not None
    assert found.sentence.startswith(among)
    assert found.to_json()["first"] == first


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([2, 1, 0.5, 0.4], [1.0, 0.8, 0.82, 0.83]),  # hardly more than the lowest
        ([2, 1, 1.5, 1.6], [1.0, 0.8, 1.4, 1.5]),  # the training loss rises too: diverging
        ([2, 1, 0.5, 0.4], [1.0, 0.9, 0.8, 1.2]),  # one epoch is no trend
    ],
)
def test_overfitting_is_not_claimed_without_reason(train: list[float], val: list[float]) -> None:
    """The loss must rise clearly, for some epochs, while the training loss falls."""
    found = best_epoch(epochs(train, val, [0.5] * 4), {})
    assert found is not None
    assert found.overfits_since is None


def test_a_gap_between_training_and_validation_accuracy_is_overfitting() -> None:
    """Also where the validation loss does not rise; not a gap that chance or a small difference makes."""

    def gap(train: float, val: float, n: int) -> str:
        phases = [totals("train", 1, 0.5, train), replace(totals("val", 1, 0.5, val), n=n)]
        found = best_epoch(phases, {})
        assert found is not None
        return found.gap_sentence

    assert gap(0.996, 0.8, 400) == (
        "Overfitting: in epoch 1 the training accuracy is 99.6%, the validation accuracy 80.0%. "
        "More images or augmentation narrow the gap."
    )
    assert not gap(0.89, 0.8, 400)
    assert not gap(0.6, 0.4, 400)  # it has learned little of either
    assert not gap(0.996, 0.8, 10)  # 2 of 10 images
    assert not gap(0.6, 0.8, 400)  # as with --mixup
    without_training = best_epoch([totals("val", 1, 0.5, 0.1)], {})
    assert without_training is not None
    assert not without_training.gap_sentence


def test_of_equal_accuracy_the_lower_loss_wins_and_a_nan_never() -> None:
    """Small validation sets have many equal accuracies."""
    nan = float("nan")
    found = best_epoch(epochs([1] * 4, [0.9, 0.7, 0.8, nan], [0.5, 0.5, 0.5, 0.5]), {"best": "nonsense"})
    assert found is not None
    assert found.epoch == 2
    assert best_epoch([totals("train", 1, 0.5)], {}) is None


def test_balanced_accuracy_counts_every_class_alike() -> None:
    """Of uneven classes only: where they are even, accuracy says it."""
    counts = {"labelled": [8, 2], "predicted": [10, 0], "correct": [8, 0]}
    fold = BestEpochs("balanced_accuracy")
    fold.update(totals("val", 1, 1.0, 0.8, counts))
    fold.update(totals("val", 2, 1.0, 0.7, {"labelled": [8, 2], "predicted": [8, 2], "correct": [6, 1]}))
    found = fold.result()
    assert found is not None
    assert (found.epoch, found.value) == (2, 0.625)
    assert uneven_scores(totals("val", 1, 1.0, 0.8, counts)) == pytest.approx((0.5, 4 / 9))
    assert scalars(totals("val", 1, 1.0, 0.8, counts)).keys() == {"loss", "accuracy", "balanced_accuracy", "macro_f1"}
    assert scalars(totals("train", 1, 1.0, 0.8)).keys() == {"loss", "accuracy"}
    assert uneven_scores(totals("val", 1, 1.0, 0.8, {"labelled": [5, 5], "predicted": [5, 5], "correct": [4, 4]})) is None


def test_the_totals_of_a_validation_count_its_classes(train: Trainer) -> None:
    """They are captured whole, whatever part of the training is."""
    assert train("images", "-e", "1", "--val-split=0.5", "--capture-every=2", "-o", "run") == 0
    with open_run("run") as run:
        by_phase = {one.phase: one for one in run.records() if isinstance(one, Epoch)}
    val = by_phase["val"]
    assert by_phase["train"].class_counts is None
    assert val.class_counts is not None
    assert by_phase["train"].not_captured
    assert val.not_captured == 0
    assert sum(val.class_counts["labelled"]) == sum(val.class_counts["predicted"]) == val.n
    assert sum(val.class_counts["correct"]) / val.n == val.accuracy


def test_the_weights_of_the_best_epoch_are_kept(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """They are those that the model had after that epoch: a training of just so many epochs ends with them."""
    options = ("images", "--sched=constant", "--val-split=0.4", "--lr=1.0", "--best=val_loss")
    assert train(*options, "-e", "9", "-o", "long", quiet=False) == 0
    said = capsys.readouterr().err
    header, _ = saved.read(Path("long/best.safetensors"))
    assert header.epoch is not None
    assert 1 < header.epoch < 9
    assert f"Best epoch {header.epoch} of 9 (validation loss " in said
    assert train(*options, "-e", str(header.epoch), "-o", "short") == 0
    best, last = load_file("long/best.safetensors"), load_file("short/model.safetensors")
    assert all(np.array_equal(best[name], last[name]) for name in last)


def test_patience_ends_the_training_and_a_kill_changes_nothing(train: Trainer) -> None:
    """The run ends completed, with equal bytes wherever it was cut, and is not resumed."""
    options = ("images", "-e", "30", "--val-split=0.4", "--lr=0.1", "--patience=2", "--checkpoint-every=3")
    assert train(*options, "-o", "whole") == 0
    lines = Path("whole/records.jsonl").read_bytes().splitlines()
    evaluated = [one["epoch"] for one in map(json.loads, lines) if one["kind"] == "epoch" and one["phase"] == "val"]
    best = saved.read(Path("whole/best.safetensors"))[0].epoch
    assert best is not None
    assert evaluated[-1] == best + 2 < 30
    ends = [number for number, line in enumerate(lines) if b'"kind":"epoch"' in line]
    for cut_after in (ends[1], ends[2 * best - 1], ends[2 * best - 1] + 1, ends[-1], ends[-1] + 1, len(lines) - 1):
        shutil.rmtree("cut", ignore_errors=True)
        assert train(*options, "-o", "cut", cut_after=cut_after) == -9
        assert train("--resume", "cut") == 0
        assert kept(Path("cut")) == kept(Path("whole"))
    assert train("--resume", "whole", "-e", "40") == 2


def test_patience_needs_validation_images(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """It would never end anything."""
    assert train("images", "--val-split=0", "--patience=2", "-o", "run") == 2
    assert "--patience needs validation images" in capsys.readouterr().err
    assert not Path("run").exists()


def test_inspect_marks_the_best_epoch_and_scores_uneven_classes(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """In the table, in a sentence under it, and in the JSON."""
    rng = np.random.default_rng(5)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(f"images/ant_{900 + number}.png")
    assert train("images", "-e", "4", "--val-split=0.4", "-o", "run", quiet=False) == 0
    assert " balanced 0." in capsys.readouterr().err
    assert train("run", command="inspect") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^ +\* [1-4] ", shown, re.MULTILINE)
    assert "\nBest epoch " in shown
    assert train("run", "--json", command="inspect") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["best"]["epoch"] in range(1, 5)
    assert 0 < body["epochs"][0]["val"]["balanced_accuracy"] < 1


def test_evaluate_scores_uneven_classes(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the accuracy, which says little there."""
    assert train("images", "-e", "1", "-o", "run") == 0
    Path("test").mkdir()
    for number in range(8):
        shutil.copy(f"images/ant_00{number}.png", "test")
    shutil.copy("images/bee_000.png", "test")
    assert train("run", "test", "-o", "one", "-q", "--json", command="evaluate") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"n", "accuracy", "loss", "balanced_accuracy", "macro_f1", "trained_on"}
    assert train("run", "test", "-o", "two", "-q", command="evaluate") == 0
    assert f"  balanced accuracy {found['balanced_accuracy']:.3f}  macro F1 " in capsys.readouterr().out
