"""The lesson of `inspect`: a sentence only where it is true, each with a command that works; and what else inspect gained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calling import Caller
from capture_cli.answers import label_lesson
from capture_cli.answers import lesson as room
from capture_cli.answers.calibration import calibration
from capture_cli.answers.learning import find_learning
from capture_cli.answers.lesson import Finding
from capture_cli.answers.summary import summarise
from capture_cli.records import Batch, End, Record, RunInfo, Samples
from capture_cli.runs import open_run
from runs import run_records, task_records, write_run


def lesson_of(folder: Path, records: list[Record]) -> dict[str, Finding]:
    with open_run(write_run(folder, records)) as run:
        return {one.kind: one for one in summarise(run).lesson}


def predicted(records: list[Record], choose: "np.ndarray[tuple[int], np.dtype[np.bool_]]", pred: int, p: float) -> list[Record]:
    """Let the first label's samples of `val` be predicted as `pred` where `choose` says so, all others right, with `p`."""
    changed: list[Record] = []
    at = 0
    for record in records:
        if isinstance(record, Batch) and record.phase == "val":
            n, classes = record.probs.shape
            preds = np.array(record.labels)
            for i in np.flatnonzero(record.labels == 0):
                if choose[at % len(choose)]:
                    preds[i] = pred
                at += 1
            probs = np.full((n, classes), (1 - p) / (classes - 1), np.float32)
            probs[np.arange(n), preds] = p
            losses = -np.log(probs[np.arange(n), record.labels])
            record = replace(record, preds=preds, probs=probs, losses=losses)
        changed.append(record)
    return changed


def test_the_most_frequent_error_is_named_and_counted(tmp_path: Path, call: Caller) -> None:
    """All errors are of one kind: most are. Its command lists them."""
    records = predicted(list(run_records(per_class=40, epochs=1)), np.array([True, False]), 1, 0.9)
    found = lesson_of(tmp_path / "run", records)["confusion"]
    assert found.text == "Most errors in val are cat predicted as dog: 5 of 5 errors."
    assert len(call(*[word if word != "RUN" else "run" for word in found.command]).out.splitlines()) == 6


def test_without_errors_there_is_no_such_sentence(tmp_path: Path) -> None:
    """And a model that is as sure as it is right is neither over- nor underconfident."""
    records = predicted(list(run_records(per_class=40, epochs=1)), np.array([False]), 1, 0.999)
    assert not lesson_of(tmp_path / "run", records).keys() & {"confusion", "calibration"}


@pytest.mark.parametrize(("p", "word"), [(0.6, "underconfident"), (0.999, "overconfident")])
def test_confidence_that_does_not_fit_accuracy_is_said(tmp_path: Path, call: Caller, p: float, word: str) -> None:
    """Accuracy is 5/6 here. The command lists samples that make the difference."""
    records = predicted(list(run_records(per_class=400, epochs=2)), np.array([True, False]), 1, p)
    found = lesson_of(tmp_path / "run", records)["calibration"]
    assert found.text.startswith(f"The model is {word} in val: mean probability {p:.1%}, accuracy 83.3% (ECE 0.")
    assert found.text.endswith(" over 15 bins; the calibration table has them).")
    assert len(call(*[word if word != "RUN" else "run" for word in found.command]).out.splitlines()) > 1


def test_confidence_is_not_judged_before_the_model_has_learned(tmp_path: Path) -> None:
    """In the first epoch of a training, in `train` and in a phase under way it is noise. An evaluation has no other epoch."""
    whole = predicted(list(run_records(per_class=400, epochs=2, status=None)), np.array([True, False]), 1, 0.6)
    first = [one for one in whole if getattr(one, "epoch", 0) == 0]
    training = [one for one in whole if getattr(one, "phase", "train") == "train"]
    evaluation = [one for one in first if getattr(one, "phase", "val") == "val"]
    for name, records, is_said in (
        ("whole", whole, True),
        ("first", first, False),
        ("under way", evaluation[:-1], False),
        ("training", training, False),
        ("evaluation", evaluation, True),
    ):
        assert ("calibration" in lesson_of(tmp_path / name, records)) is is_said, name


def test_a_failed_run_says_why(tmp_path: Path, call: Caller) -> None:
    """As far as its events tell; without a batch it says that at least."""
    folder = write_run(tmp_path / "run", run_records(epochs=1, status="failed"))
    assert "\nerror" not in call("inspect", "run").out
    for event in ("not JSON", '{"event":"end","status":"failed","error":7}', '{"event":"end","status":"completed"}'):
        (folder / "events.jsonl").write_text(f"{event}\n")
        assert "\nerror" not in call("inspect", "run").out
    (folder / "events.jsonl").write_text(
        '{"event":"start"}\n{"event":"end","status":"failed","error":"out of \\u001b[2J memory"}\n'
    )
    assert "\nerror     out of \\x1b[2J memory\n" in call("inspect", "run").out
    assert json.loads(call("inspect", "run", "--json").out)["failure"] == "out of \x1b[2J memory"
    head = [one for one in run_records(epochs=1, status=None) if isinstance(one, RunInfo)]
    write_run(tmp_path / "none", [*head, End(status="failed", counts={"run": 1})])
    assert "\nerror     it failed before its first batch was recorded\n" in call("inspect", "none").out


def test_leaks_and_contradictions_are_said(tmp_path: Path) -> None:
    """The same bytes in two splits, and under two labels."""
    digests = [f"{i:032x}" for i in range(36)]
    digests[3], digests[7] = digests[0], digests[4]  # 3 and 7 are in val; 0 and 3 are cats, 4 and 7 are dogs
    digests[8] = digests[9]
    found = lesson_of(tmp_path / "run", list(run_records(digests=digests)))
    assert found["leaks"].text == "Leak: 4 images are the same picture in train and val, first cat_0000.png."
    assert found["contradictions"].text.startswith("1 picture has more than one label, first great pyrenees_0002.png: ")
    assert not lesson_of(tmp_path / "clean", list(run_records())).keys() & {"leaks", "contradictions"}


def test_a_large_run_is_not_read_whole_for_the_lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that look wrong and learned classes are left to their own commands."""
    records = list(run_records(per_class=40, epochs=3))
    whole = lesson_of(tmp_path / "run", records)
    assert {"suspects", "learned"} & whole.keys()
    monkeypatch.setattr(room, "MAX_BYTES", 1000)
    assert lesson_of(tmp_path / "again", records).keys() == whole.keys() - {"suspects", "learned"}


def test_learned_classes_are_those_that_stay_right(tmp_path: Path) -> None:
    """The first epoch from which on at least four in five visits of the class are right, counted from the rows."""
    with open_run(write_run(tmp_path / "run", run_records(per_class=40, epochs=6))) as run:
        frame = run.to_pandas(["epoch", "label", "correct"], phase="train")
        phase = next(one for one in find_learning(run).phases if one.phase == "train")
    table = frame.groupby(["epoch", "label"], observed=True)["correct"].mean().unstack("label")
    from capture_cli.answers.dynamics import Dynamics

    with open_run(tmp_path / "run") as run:
        fold = Dynamics("train")
        run.fold(fold)
    for name, epoch in label_lesson.learned_epochs(fold.result()).items():
        good = [e for e in table.index if (table[name].loc[e:] >= label_lesson.LEARNED).all()]
        assert epoch == (good[0] if good else None)
    assert {one.label for one in phase.classes} == set(table.columns)


def test_a_task_without_labels_has_a_lesson_too(tmp_path: Path) -> None:
    """An empty one, or what can be said of it."""
    for task in ("regression", "multilabel", "sequence"):
        lesson = lesson_of(tmp_path / task, list(task_records(task)))
        assert not lesson.keys() & {"suspects", "learned", "contradictions"}, task
        assert task == "sequence" or "confusion" not in lesson


def test_calibration_is_the_definition(tmp_path: Path) -> None:
    """Bin by bin: 0.5 belongs to the bin that ends there; a probability that is not finite to none."""
    rng = np.random.default_rng(0)
    p, right = rng.random(500).astype(np.float32), rng.random(500) < 0.5
    p[:2], p[2] = 1.0, np.nan
    found = calibration(p, right, bins=10)
    assert found is not None
    ece = 0.0
    for k in range(10):
        inside = [i for i in range(500) if k / 10 < p[i] <= (k + 1) / 10]
        ece += len(inside) / 499 * abs(np.mean(right[inside]) - np.mean(p[inside].astype(float)))
    assert found.ece == pytest.approx(ece, abs=1e-6)
    assert sum(one.n for one in found.bins) == found.n == 499
    assert found.bin_count == 10
    assert calibration(np.array([np.nan]), np.array([True])) is None


def test_the_matrix_has_every_sample_once(tmp_path: Path) -> None:
    """Rows are labels, columns predictions."""
    with open_run(write_run(tmp_path / "run", run_records(per_class=40))) as run:
        phase = summarise(run).phase
        rows = run.to_pandas(["label", "pred"], phase="val", epochs=[1])
    assert phase is not None
    for i, label in enumerate(run.info.classes):
        for j, pred in enumerate(run.info.classes):
            assert phase.matrix[i][j] == ((rows.label == label) & (rows.pred == pred)).sum()


def test_dynamics_are_shown_and_are_those_of_the_rows(tmp_path: Path, call: Caller) -> None:
    """`--dynamics` sums up what `rows --per sample` lists."""
    write_run(tmp_path / "run", run_records(per_class=20, epochs=5))
    shown = call("inspect", "run", "--dynamics").out
    assert "train: 45 samples, 5 epochs" in shown
    assert "capture rows run --per sample" in shown
    answer = json.loads(call("inspect", "run", "--dynamics", "--json").out)["dynamics"][0]
    rows = [json.loads(line) for line in call("rows", "run", "--per", "sample", "--where", "phase = 'train'").out.splitlines()]
    worst = min(rows, key=lambda row: row["aum"])
    assert answer["hardest"][0]["file"] == worst["file"]
    for one in answer["classes"]:
        of_class = [row for row in rows if row["label"] == one["label"]]
        assert one["n"] == len(of_class)
        assert one["aum"] == pytest.approx(np.mean([row["aum"] for row in of_class]), abs=1e-5)
        learned = sorted(row["learned"] if row["learned"] is not None else 10**9 for row in of_class)
        half = learned[(len(learned) - 1) // 2]
        assert one["learned"] == (None if half == 10**9 else half)
    assert call("inspect", "run", "--dynamics", "--sample", "cat_0000.png").code == 2


def test_samples_blocks_are_not_needed(tmp_path: Path) -> None:
    """A run whose records name no samples, as of a foreign loop, has a lesson of what it has."""
    records = [one for one in run_records(per_class=40, epochs=4) if not isinstance(one, Samples)]
    end = records.pop()
    records.append(replace(end, counts={**end.counts, "samples": 0}))  # type: ignore[union-attr]
    with open_run(write_run(tmp_path / "run", records[:-1])) as run:
        assert all(one.kind not in ("leaks", "contradictions") for one in summarise(run).lesson)


def test_the_calibration_error_follows_from_the_table(tmp_path: Path, call: Caller) -> None:
    """Every bin that holds samples has a row, and the number of bins is said."""
    write_run(tmp_path / "run", run_records(per_class=100))
    text, body = call("inspect", "run").out, json.loads(call("inspect", "run", "--json").out)["phase"]
    lines = text[text.index("calibration: ECE ") :].split("\n\n")[0].splitlines()
    assert lines[0].startswith(
        f"calibration: ECE {body['calibration']['ece']:.3f} over 15 bins (those with samples are below), "
    )
    rows = [line.split()[3:] for line in lines[2:]]
    assert sum(int(n) for n, *_ in rows) == body["n"]
    assert sum(int(n) * abs(float(gap)) for n, _, _, gap in rows) / body["n"] == pytest.approx(
        body["calibration"]["ece"], abs=1e-3
    )
    assert body["calibration"]["bin_count"] == 15


def test_precision_recall_and_f1_are_those_of_the_rows(tmp_path: Path, call: Caller) -> None:
    """In the table of classes, in JSON and in `rows --per class`."""
    write_run(tmp_path / "run", run_records(per_class=40))
    text, body = call("inspect", "run").out, json.loads(call("inspect", "run", "--json").out)["phase"]
    rows = [
        json.loads(line)
        for line in call("rows", "run", "--per", "class", "--where", "phase = 'val' and epoch = 1").out.splitlines()
    ]
    names = ("recall", "precision", "f1")
    for one, row in zip(body["classes"], rows, strict=True):
        assert [one[name] for name in names] == [pytest.approx(row[name]) for name in names]
        shown = next(line for line in text.splitlines() if line.startswith(f"{one['name']} ") and line.count("0.") >= 3)
        assert shown.removeprefix(one["name"]).split()[2:5] == [f"{one[name]:.3f}" for name in names]
