"""The gate of `capture diff`, McNemar's test, calibration, and runs side by side: computed again from the rows."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from calling import Caller
from capture_cli.answers.comparison import MEASURES, mcnemar
from capture_cli.answers.diff import compare
from capture_cli.answers.door import open_run
from capture_cli.records import Batch
from runs import run_records, task_records, write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs of the same files."""
    for seed, name in enumerate(("a", "b", "c")):
        write_run(tmp_path / name, run_records(per_class=40, epochs=3, seed=seed))
    return tmp_path


def rows(call: Caller, run: str, where: str = "phase = 'val' and epoch = 2") -> dict[str, dict[str, object]]:
    return {one["file"]: one for one in map(json.loads, call("rows", run, "--where", where).out.splitlines())}


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (5, 1, 14 / 64), (3, 3, 1.0)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int, p: float) -> None:
    """Counted by hand; the same in both directions."""
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(p)


def test_mcnemar_agrees_with_all_ways_to_toss_coins() -> None:
    """The share of outcomes that are at least as uneven."""
    for b, c in ((9, 2), (7, 4), (12, 0)):
        n = b + c
        uneven = sum(abs(2 * sum(toss) - n) >= abs(b - c) for toss in product((0, 1), repeat=n))
        assert mcnemar(b, c) == pytest.approx(uneven / 2**n)
    assert 0 <= mcnemar(40_000, 39_000) < 0.001


@pytest.mark.usefixtures("runs")
def test_measures_are_those_of_the_rows(call: Caller) -> None:
    """Accuracy, loss, flips by file; the same for every class."""
    found = json.loads(call("diff", "a", "b", "--json").out)
    one, other = rows(call, "a"), rows(call, "b")
    assert one.keys() == other.keys()
    measures = found["measures"]
    assert measures.keys() == MEASURES.keys()
    n = len(one)
    assert measures["images"] == n
    assert measures["accuracy_a"] == pytest.approx(sum(bool(row["correct"]) for row in one.values()) / n)
    assert measures["accuracy_drop"] == pytest.approx(measures["accuracy_a"] - measures["accuracy_b"])
    assert measures["loss_b"] == pytest.approx(math.fsum(float(row["loss_nats"]) for row in other.values()) / n)  # type: ignore[arg-type]
    lost = [file for file in one if one[file]["correct"] and not other[file]["correct"]]
    won = [file for file in one if not one[file]["correct"] and other[file]["correct"]]
    assert (measures["right_to_wrong"], measures["wrong_to_right"]) == (len(lost), len(won))
    assert measures["flips"] == len(lost) + len(won) > 0
    assert measures["mcnemar_p"] == mcnemar(len(lost), len(won))
    assert {flip["file"] for flip in found["predictions"]["right_to_wrong"]["first"]} <= set(lost)
    epoch = next(row for row in found["epochs"] if (row["epoch"], row["phase"]) == (2, "val"))
    assert epoch["accuracy_a"] == pytest.approx(measures["accuracy_a"])


@pytest.mark.usefixtures("runs")
def test_a_gate_fails_with_5_and_names_the_images(call: Caller) -> None:
    """What it judged is on stderr, the images are in the output. A gate that holds ends with 0, though the runs differ."""
    failed = call("diff", "a", "b", "--fail-if", "accuracy_drop > 1 or flips > 0", "--limit", "100")
    assert failed.code == 5
    assert failed.err.startswith("gate failed: b: accuracy_drop ")
    flips = json.loads(call("diff", "a", "b", "--json", "--limit", "100").out)["predictions"]
    for kind in ("right_to_wrong", "wrong_to_right"):
        assert all(one["file"] in failed.out for one in flips[kind]["first"])
    passed = call("diff", "a", "b", "--fail-if", "flips > 10000")
    assert (passed.code, passed.err.startswith("gate passed: b: flips ")) == (0, True)
    assert call("diff", "a", "a", "--fail-if", "flips > 0 or loss_rise > 0").code == 0
    assert call("diff", "a", "b").code == 1


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("accuracy > 1", "write an SQL condition on accuracy_a, "),
        ("flips >", "--fail-if 'flips >'"),
        ("flips > (select 1)", "sub-query"),
        ("flips > 1; drop table x", "write an SQL condition on accuracy_a, "),
        ("true) group by (flips", "more than a condition"),
    ],
)
def test_a_gate_is_checked_before_anything_is_read(call: Caller, condition: str, said: str) -> None:
    """One line, exit code 2, no output."""
    done = call("diff", "a", "b", "--fail-if", condition)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err


def test_a_gate_without_data_does_not_pass(call: Caller, tmp_path: Path) -> None:
    """A regression has no accuracy; runs without a common image have none either."""
    for name in ("x", "y"):
        write_run(tmp_path / name, task_records("regression"))
    done = call("diff", "x", "y", "--fail-if", "flips > 20")
    assert (done.code, "cannot be judged" in done.err) == (1, True)
    write_run(tmp_path / "a", run_records())
    others = {"files": [f"other_{i}.png" for i in range(36)], "digests": [f"{i:032x}" for i in range(36)]}
    write_run(tmp_path / "b", run_records(**others))
    done = call("diff", "a", "b", "--fail-if", "accuracy_drop > 0.01")
    assert "accuracy_drop is not known: no image is in both runs with the same label" in done.err
    assert done.code == 1
    assert call("diff", "a", "b", "--fail-if", "images < 10").code == 5


@pytest.mark.usefixtures("runs")
def test_more_than_two_runs_are_a_table(call: Caller) -> None:
    """One row a run; every run is compared with the first, and any of them fails the gate."""
    done = call("diff", "a", "b", "c", "a")
    lines = done.out.splitlines()
    assert done.code == 1
    assert [line.split()[:2] for line in lines[3:]] == [["a", "-"], ["b", "differ"], ["c", "differ"], ["a", "equal"]]
    answers = json.loads(call("diff", "a", "b", "c", "--json").out)["runs"]
    assert [one["b"]["run"] for one in answers] == ["b", "c"]
    assert call("diff", "a", "a", "b", "--fail-if", "flips > 0").code == 5
    assert call("diff", "a").code == call("diff", "-", "-").code == 2


@pytest.mark.usefixtures("runs")
def test_a_calibration_error_says_over_how_many_bins(call: Caller) -> None:
    """Of two runs and of several, by the number that it was computed with; without probabilities there is neither."""
    answer = json.loads(call("diff", "a", "b", "--json").out)["predictions"]
    bins = answer["a"]["calibration"]["bin_count"]
    eces = [f"{answer[name]['calibration']['ece']:.3f} in {name.upper()}" for name in "ab"]
    assert f"calibration: ECE {', '.join(eces)} ({bins} bins)" in call("diff", "a", "b").out
    assert call("diff", "a", "b", "c").out.splitlines()[0].endswith(f"; ECE over {bins} bins")


def test_answers_are_dataclasses_and_frames(runs: Path) -> None:
    """From Python: measures, and the flipped images as a table."""
    with open_run(runs / "a") as a, open_run(runs / "b") as b:
        found = compare(a, b, limit=5)
        assert a.diff(b, limit=5) == found
        assert a.suspects().suspects
        assert len(a.suspects(b).states) == 2
    frame = found.to_pandas()
    assert found.predictions is not None
    n = len(found.predictions.right_to_wrong.first) + len(found.predictions.wrong_to_right.first)
    assert len(frame) == n > 0
    assert {"flip", "file", "label", "pred_a", "pred_b"} <= set(frame.columns)
    with open_run(runs / "a") as a:
        table = a.suspects().to_pandas()
    assert list(table.columns[:4]) == ["file", "id", "phase", "label"]
    assert len(table) == 120


def test_the_gate_names_the_images_that_it_leaves_out(tmp_path: Path, call: Caller) -> None:
    """Those whose label changed; the text of the comparison says how many there are, and lists them."""
    write_run(tmp_path / "a")
    corrected = [
        replace(one, labels=np.where(np.arange(len(one.labels)) == 0, (one.labels + 1) % 3, one.labels))
        if isinstance(one, Batch) and one.phase == "val"
        else one
        for one in run_records()
    ]
    write_run(tmp_path / "b", corrected)
    done = call("diff", "a", "b", "--fail-if", "flips > 0")
    assert (done.code, "val, epoch 1, without 2 images whose label changed; --fail-if 'flips > 0'" in done.err) == (0, True)
    assert "7 images in both with the same label; 2 labels changed\n" in done.out
    assert "label changed " in done.out
    assert "images whose label changed are in none of these numbers" in done.out
