"""`--epoch` of inspect and diff: every score is of that epoch, and people are told which epoch the models are of."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from calling import Caller
from capture_cli import open_run
from capture_cli.answers.summary import Summarising
from capture_cli.errors import UsageError
from capture_cli.records import Epoch, Record
from conftest import CAPTURE
from runs import run_records, task_records, write_run


def records(best: int, seed: int = 0) -> list[Record]:
    """Four epochs, 0 to 3, of which `best` has the highest validation accuracy."""
    changed = []
    for one in run_records(epochs=4, seed=seed):
        if isinstance(one, Epoch) and one.phase == "val":
            one = replace(one, accuracy=1.0 if one.epoch == best else 0.5)
        changed.append(one)
    return changed


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs `a` and `b`, whose best epochs are 1 and 2 of 0 to 3; `a` has a model of its best epoch."""
    write_run(tmp_path / "a", records(1))
    (tmp_path / "a" / "best.safetensors").write_bytes(b"")
    write_run(tmp_path / "b", records(2, seed=1))
    return tmp_path


def test_inspect_shows_the_epoch_that_is_named(runs: Path, call: Caller) -> None:
    """Epoch 1 has the scores that the same run would have had if it had ended there; `best` stands for its number."""
    write_run(runs / "short", run_records(epochs=2))
    phases = [
        json.loads(call("inspect", name, "--json", *options).out)["phase"]
        for name, options in (("a", ["--epoch", "1"]), ("a", ["--epoch", "best"]), ("short", []), ("a", ["--epoch", "last"]))
    ]
    assert phases[0] == phases[1] == phases[2] != phases[3]
    assert phases[3]["epoch"] == 3
    assert phases[3] == json.loads(call("inspect", "a", "--json").out)["phase"]


def test_the_lesson_says_which_epoch_is_shown_and_which_is_used(runs: Path, call: Caller) -> None:
    """Without a saved model nothing is said of predict. The command leads to the best epoch."""
    text = call("inspect", "a").out
    sentence = "The tables below show epoch 3, the last; predict, evaluate and export use epoch 1."
    assert sentence in text
    assert "  capture inspect a --epoch best\n" in text
    assert "The tables below show epoch 1; predict, evaluate" in call("inspect", "a", "--epoch", "best").out
    assert "The tables below show epoch 3, the last.\n" in call("inspect", "b").out


@pytest.mark.parametrize("best", [0, 1, 3])
@pytest.mark.parametrize("kept", [None, 30, 55])
def test_the_best_epoch_needs_one_pass(runs: Path, call: Caller, best: int, kept: int | None) -> None:
    """Records from a pipe, whole or cut off, have the summary that the same epoch has by its number."""
    lines = b"".join((write_run(runs / "run", records(best)) / "records.jsonl").read_bytes().splitlines(keepends=True)[:kept])
    (runs / "part.jsonl").write_bytes(lines)
    piped = subprocess.run(
        [*CAPTURE, "inspect", "-", "--epoch", "best", "--json"], input=lines, capture_output=True, timeout=60, check=False
    )
    found = json.loads(piped.stdout)
    number = found["best"]["epoch"]
    assert kept or number == best
    by_name, by_number = (json.loads(call("inspect", "part.jsonl", "--json", "--epoch", one).out) for one in ("best", number))
    assert by_name == by_number
    unnamed = ("run", "commands", "lesson", "state")
    assert {k: v for k, v in found.items() if k not in unnamed} == {k: v for k, v in by_name.items() if k not in unnamed}


def test_the_memory_for_it_is_bounded(runs: Path) -> None:
    """One epoch of each phase waits, and the best so far, whatever the number of epochs."""
    waiting = []
    for epochs in (3, 12):
        path = write_run(runs / f"{epochs}", run_records(epochs=epochs, per_class=40))
        with open_run(path) as run:
            fold = Summarising(run, best=True)
            run.fold(fold)
        phases = fold._phases
        waiting.append(len([*phases._complete.values(), *phases._under_way.values()]))
        assert {one.phase for one in phases._complete.values()} == {"val"}
    assert waiting == [1, 1]


@pytest.mark.parametrize("epoch", [10**5000, -(10**5000), "9" * 5000], ids=["large", "negative", "text"])
def test_a_number_of_thousands_of_digits_is_no_epoch(runs: Path, call: Caller, epoch: int | str) -> None:
    """Python would not write such a number down; the message is short."""
    with open_run(runs / "a") as a, pytest.raises(UsageError, match=r"^epoch .{1,40} is not valid; choose best, last or"):
        a.summary(epoch=epoch)
    with open_run(runs / "a") as a, open_run(runs / "b") as b, pytest.raises(UsageError, match="is not valid"):
        a.diff(b, epoch=epoch)
    if isinstance(epoch, str):
        for command in (["inspect", "a"], ["diff", "a", "b"]):
            done = call(*command, "--epoch", epoch)
            assert (done.code, "choose best, last or" in done.err, len(done.err) < 200) == (2, True, True)


def test_diff_compares_the_best_epochs(runs: Path, call: Caller) -> None:
    """Flips, measures and the gate are of these; the gate says so. By default the last ones are compared, with a note."""
    one, other = (json.loads(call("diff", "a", "b", "--json", *more).out) for more in ([], ["--epoch", "best"]))
    epochs = [(found["predictions"]["a"]["epoch"], found["predictions"]["b"]["epoch"]) for found in (one, other)]
    assert epochs == [(3, 3), (1, 2)]
    assert one["best_epochs"] == {"a": 1, "b": 2}
    assert one["measures"] != other["measures"]
    note = "best: epoch 1 in A, epoch 2 in B, which predict, evaluate and export use; --epoch best compares the best epochs"
    assert note in call("diff", "a", "b").out
    judged = call("diff", "a", "b", "--epoch", "best", "--fail-if", "flips >= 0")
    assert "best: epoch" not in judged.out
    assert (judged.code, "(val, epoch 1 in A, 2 in B; --fail-if" in judged.err) == (5, True)
    with open_run(runs / "a") as a, open_run(runs / "b") as b:
        assert a.diff(b, epoch="best").measures() == other["measures"]
        assert a.summary(epoch=1).phase == a.summary(epoch="best").phase


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["inspect", "a", "--epoch", "9"], "has no epoch 9; it has epochs 0 to 3"),
        (["diff", "a", "b", "--epoch", "4"], "has no epoch 4; it has epochs 0 to 3"),
        (["inspect", "a", "--epoch", "first"], "--epoch first is not valid; choose best, last or the number of an epoch"),
        (["diff", "a", "b", "--epoch", "-1"], "--epoch -1 is not valid"),
        (["inspect", "a", "--epoch", "1", "--dynamics"], "--epoch and --dynamics do not go together"),
        (["inspect", "a", "--epoch", "1" * 5000], f"--epoch {'1' * 40} is not valid"),
        (["inspect", "c", "--epoch", "best"], "has no best epoch: none was validated"),
        (
            ["inspect", ".", "--epoch", "best"],
            "'.' is a folder of runs, and --epoch is for one run; name one of them, or drop --",
        ),
        (
            ["inspect", ".", "--dynamics"],
            "'.' is a folder of runs, and --dynamics is for one run; name one of them, or drop --",
        ),
        (
            ["inspect", ".", "--sample", "x"],
            "'.' is a folder of runs, and --sample is for one run; name one of them, or drop --",
        ),
    ],
)
def test_an_epoch_that_is_not_there_is_wrong_usage(runs: Path, call: Caller, args: list[str], said: str) -> None:
    """The message names those that there are."""
    write_run(runs / "c", run_records(val_every=0))
    done = call(*args)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.parametrize("epoch", [None, True, 2.5, "", "٣"])
def test_what_names_no_epoch_is_wrong_usage_in_python_too(runs: Path, epoch: object) -> None:
    """True is not epoch 1."""
    with open_run(runs / "a") as run, pytest.raises(UsageError, match=f"epoch {epoch} is not valid; choose best, last"):
        run.summary(epoch=epoch)  # type: ignore[arg-type]


def test_the_best_epoch_of_a_regression_has_the_lowest_validation_loss(runs: Path, call: Caller) -> None:
    """Its samples are neither right nor wrong, so there is no accuracy to go by."""
    losses = {0: 3.0, 1: 1.0, 2: 2.0}
    changed = [
        replace(one, loss=losses[one.epoch]) if isinstance(one, Epoch) else one for one in task_records("regression", epochs=3)
    ]
    write_run(runs / "numbers", changed)
    found = json.loads(call("inspect", "numbers", "--epoch", "best", "--json").out)
    assert (found["best"]["epoch"], found["best"]["metric"]) == (1, "val_loss")
    assert "Best epoch 1 of 0 to 2 (validation loss 1.000)" in call("inspect", "numbers", "--epoch", "best").out
