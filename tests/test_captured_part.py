"""Runs of which only a part was captured: the whole is judged by the totals, and what is of the part says so."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calling import Caller
from capture_cli import Recorder
from capture_cli.records import Batch, End, Epoch, Record
from runs import run_records, write_run


def thinned() -> Iterator[Record]:
    """Every second batch of a run, with the totals that the recorder writes: over all samples, by class for `val`."""
    batches: list[Batch] = []
    lines = 0
    for record in run_records(per_class=60, epochs=2, batch_size=4):
        if isinstance(record, Batch):
            batches.append(record)
            if record.batch % 2:
                lines += 1
                continue
        if isinstance(record, Epoch):
            labels, preds = (np.concatenate([getattr(one, name) for one in batches]) for name in ("labels", "preds"))
            captured = sum(len(one.labels) for one in batches if one.batch % 2 == 0)
            columns = {"labelled": labels, "predicted": preds, "correct": labels[labels == preds]}
            counts = {name: np.bincount(column, minlength=3).tolist() for name, column in columns.items()}
            record = replace(
                record,
                captured=captured,
                not_captured=len(labels) - captured,
                class_counts=counts if record.phase == "val" else None,
            )
            batches = []
        if isinstance(record, End):
            record = replace(record, counts={**record.counts, "batch": record.counts["batch"] - lines})
        yield record


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    write_run(tmp_path / "part", thinned())
    write_run(tmp_path / "whole", run_records(per_class=60, epochs=2, batch_size=4))
    return Caller(tmp_path, monkeypatch, capsys)


def test_inspect_scores_the_whole_phase(call: Caller) -> None:
    """Accuracy, balanced accuracy, macro F1 and the counts by class are those of the same run captured whole."""
    part, whole = (json.loads(call("inspect", name, "--json").out)["phase"] for name in ("part", "whole"))
    assert part["not_captured"]
    assert part["n"] + part["not_captured"] == whole["n"]
    assert part["correct"] / part["n"] != whole["accuracy"]  # else this would show nothing
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert part[name] == pytest.approx(whole[name])
    counts = ("name", "n", "correct", "recall", "precision", "f1")
    assert [[one[name] for name in counts] for one in part["classes"]] == [
        [one[name] for name in counts] for one in whole["classes"]
    ]


def test_inspect_says_what_is_of_the_captured_part(call: Caller) -> None:
    """The title, and the sentences of the lesson."""
    text = call("inspect", "part").out
    phase = json.loads(call("inspect", "part", "--json").out)["phase"]
    n, missing = phase["n"], phase["not_captured"]
    assert f"accuracy {phase['accuracy']:.1%} over {n + missing} samples; balanced accuracy" in text
    assert f"Losses, confusions and what follows are of the {n} that were captured" in text
    kinds = {one["kind"]: one["text"] for one in json.loads(call("inspect", "part", "--json").out)["lesson"]}
    assert f"the {n} captured samples of val ({missing} were not)" in kinds["confusion"]
    assert "captured samples" not in call("inspect", "whole").out.replace("captured samples correct", "")


def test_rows_by_epoch_and_class_are_of_the_whole_phase(call: Caller) -> None:
    """What needs every sample and is not in the totals is null."""

    def rows(run: str, per: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in call("rows", run, "--per", per).out.splitlines()]

    for part, whole in zip(rows("part", "epoch"), rows("whole", "epoch"), strict=True):
        assert part["captured"] + part["not_captured"] == whole["captured"] == part["n"] == whole["n"]
        assert (part["correct"], part["accuracy"]) == (whole["correct"], pytest.approx(whole["accuracy"]))
        assert part["loss_nats"] == pytest.approx(whole["loss_nats"], rel=1e-5)
        for name in ("balanced_accuracy", "macro_f1"):
            assert part[name] == (pytest.approx(whole[name]) if part["phase"] == "val" else None)
    for part, whole in zip(rows("part", "class"), rows("whole", "class"), strict=True):
        if part["phase"] == "val":
            same = ("n", "correct", "predicted", "recall", "precision", "f1")
            assert [part[name] for name in same] == [whole[name] for name in same]


def test_diff_says_that_it_compares_a_part(call: Caller) -> None:
    """In the text, in the JSON, in the table of several runs, and where a gate is judged, which decides all the same."""
    missing = json.loads(call("inspect", "part", "--json").out)["phase"]["not_captured"]
    said = call("diff", "part", "whole", "--fail-if", "images < 1000000")
    part = f"captured in part, without {missing} samples in A"
    assert f"\n{part}: what follows is of captured samples; the table of epochs is of all\n" in said.out
    assert f"(val, epoch 1, {part}; --fail-if" in said.err
    assert (said.code, said.err.split(":")[0]) == (5, "gate failed")
    assert call("diff", "whole", "part", "--fail-if", "images > 1000000").code == 0
    compared = json.loads(call("diff", "part", "whole", "--json").out)["predictions"]
    assert (compared["a"]["not_captured"], compared["b"]["not_captured"]) == (missing, 0)
    assert "; captured in part, so of captured samples only" in call("diff", "whole", "whole", "part").out.replace("\n", " ")
    same = call("diff", "part", "part", "--fail-if", "flips > 0")
    assert f"{part} and {missing} samples in B; --fail-if" in same.err
    for words in (["whole", "whole"], ["whole", "whole", "whole"]):
        said = call("diff", *words, "--fail-if", "flips > 0")
        assert "in part" not in said.out + said.err


def test_diff_of_losses_says_that_it_compares_a_part(tmp_path: Path, call: Caller) -> None:
    """Of a recorder with `every`, for a task without classes."""
    for name, every in (("a", 2), ("b", 1)):
        with Recorder(tmp_path / name, task="regression", every=every) as recorder:
            for batch in range(3):
                outputs = torch.full((4, 1), float(batch + every))
                ids = range(4 * batch, 4 * batch + 4)
                recorder.record(epoch=1, phase="val", inputs=outputs, logits=outputs, labels=torch.zeros(4), ids=ids)
    said = call("diff", "a", "b", "--fail-if", "loss_rise > 0")
    assert "captured in part, without 4 samples in A: what follows" in said.out
    assert "(val, epoch 1, captured in part, without 4 samples in A; --fail-if" in said.err
    compared = json.loads(call("diff", "a", "b", "--json").out)["losses"]
    assert (compared["not_captured_a"], compared["not_captured_b"], compared["both"]) == (4, 0, 8)
