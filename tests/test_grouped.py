"""Rows per sample, class and epoch: what they hold is computed again from the rows of visits."""

import csv
import io
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from calling import Caller
from capture_cli.answers.class_counts import ClassCounts, balanced_accuracy, macro_f1
from capture_cli.records import NO_LABEL, Batch
from capture_cli.tables.grouped import TYPES
from runs import run_records, task_records, write_run


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    write_run(tmp_path / "run", run_records(per_class=8, epochs=4))
    return Caller(tmp_path, monkeypatch, capsys)


def rows(call: Caller, *args: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call("rows", "run", *args).out.splitlines()]


def test_a_row_per_sample_is_its_dynamics(call: Caller) -> None:
    """Each value from the visits of that sample."""
    visits = rows(call)
    found = rows(call, "--per", "sample")
    assert len(found) == len({(one["phase"], one["file"]) for one in visits}) == 24
    for one in found:
        own = [row for row in visits if (row["phase"], row["file"]) == (one["phase"], one["file"])]
        right = [row["correct"] for row in own]
        assert (one["visits"], one["label"], one["id"]) == (4, own[0]["label"], own[0]["id"])
        assert one["aum"] == pytest.approx(np.mean([row["margin"] for row in own]), abs=1e-5)
        assert one["confidence"] == pytest.approx(np.mean([row["p_label"] for row in own]), abs=1e-6)
        assert one["variability"] == pytest.approx(np.std([row["p_label"] for row in own]), abs=1e-6)
        assert one["correctness"] == pytest.approx(np.mean(right))
        assert one["forgetting"] == sum(a and not b for a, b in itertools.pairwise(right))
        assert one["first_learned"] == next((row["epoch"] for row in own if row["correct"]), None)
        assert one["mean_loss"] == pytest.approx(np.mean([row["loss_nats"] for row in own]), abs=1e-5)


def test_a_row_per_class_and_per_epoch_adds_up(call: Caller) -> None:
    """Counts, accuracies, precision and F1; the epoch is the sum of its classes."""
    visits, classes, epochs = rows(call), rows(call, "--per", "class"), rows(call, "--per", "epoch")
    assert len(classes) == 4 * 2 * 3
    assert len(epochs) == 4 * 2
    for one in classes:
        here = [row for row in visits if (row["phase"], row["epoch"]) == (one["phase"], one["epoch"])]
        own, said = ([row for row in here if row[name] == one["label"]] for name in ("label", "pred"))
        hits = sum(row["correct"] for row in own)
        assert (one["n"], one["correct"], one["predicted"]) == (len(own), hits, len(said))
        assert one["recall"] == pytest.approx(hits / len(own))
        assert one["precision"] == (pytest.approx(hits / len(said)) if said else None)
        assert one["f1"] == pytest.approx(2 * hits / (len(own) + len(said)))
        assert one["loss_nats"] == pytest.approx(np.mean([row["loss_nats"] for row in own]))
    for one in epochs:
        of = [row for row in classes if (row["phase"], row["epoch"]) == (one["phase"], one["epoch"])]
        counts = ClassCounts(*(np.array([row[name] for row in of]) for name in ("n", "predicted", "correct")))
        assert one["n"] == one["captured"] == sum(counts.labelled)
        assert one["balanced_accuracy"] == pytest.approx(balanced_accuracy(counts))
        assert one["macro_f1"] == pytest.approx(macro_f1(counts))
        assert 0 <= one["ece"] <= 1


@pytest.mark.parametrize("per", TYPES)
def test_json_csv_and_parquet_have_the_same_rows(call: Caller, per: str) -> None:
    """Column by column, in the order of the documentation."""
    found = rows(call, "--per", per)
    assert list(found[0]) == list(TYPES[per])
    table = list(csv.DictReader(io.StringIO(call("rows", "run", "--per", per, "--csv").out)))
    assert [{name: "" if v is None else str(v) for name, v in one.items()} for one in found] == table
    assert call("rows", "run", "--per", per, "--parquet", "--out", "t.parquet").code == 0
    stored = duckdb.sql("select * from 't.parquet'")
    assert dict(zip(stored.columns, map(str, stored.types), strict=True)) == TYPES[per]
    for row, one in zip(stored.fetchall(), found, strict=True):
        for value, expected in zip(row, one.values(), strict=True):
            assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_rows_are_chosen_by_a_condition_columns_and_a_limit(call: Caller) -> None:
    """As for rows of visits; mean probabilities are there if they are named."""
    found = rows(call, "--per", "sample", "--where", "forgetting = 0 and phase = 'val'", "--columns", "file,mean_probs")
    assert found
    assert all(list(one) == ["file", "mean_probs"] and math.isclose(sum(one["mean_probs"]), 1, abs_tol=1e-5) for one in found)
    assert len(rows(call, "--per", "class", "--limit", "5")) == 5
    assert rows(call, "--per", "epoch", "--limit", "0") == []
    assert call("rows", "run", "--per", "epoch", "--json").out == call("rows", "run", "--per", "epoch").out
    text = call("rows", "run", "--per", "sample", "--columns", "file,mean_probs", "--csv", "--limit", "1").out
    assert next(csv.reader(io.StringIO(text.splitlines()[1])))[1].startswith("[0.")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--per", "week"], "choose visit, sample, class, epoch"),
        (["--per", "class", "--columns", "margin"], "no such column: 'margin'"),
        (["--per", "class", "--where", "margin > 0"], "write an SQL condition on phase, epoch, label, n, "),
        (["--per", "class", "--columns", "n,n"], "the same column twice"),
        (["--per", "class", "--format", "xml"], "no such format"),
        (["--csv", "--parquet"], "both choose the output format"),
        (["--json", "--csv"], "both choose the output format"),
        (["--json", "--format", "csv"], "both choose the output format"),
    ],
)
def test_wrong_usage_is_one_line(call: Caller, args: list[str], said: str) -> None:
    """Before anything is read."""
    done = call("rows", "run", *args)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err


def test_a_run_without_one_label_a_sample_says_so(call: Caller, tmp_path: Path) -> None:
    """It is named by its task."""
    write_run(tmp_path / "numbers", task_records("regression"))
    for per in TYPES:
        done = call("rows", "numbers", "--per", per)
        assert (done.code, done.out) == (2, "")
        assert "the task of this run is regression" in done.err


def test_names_and_ids_of_any_kind(call: Caller, tmp_path: Path) -> None:
    """Text ids, and bytes that are not UTF-8."""
    write_run(tmp_path / "texts", task_records(None, text_ids=True))
    (first, *_) = call("rows", "texts", "--per", "sample").out.splitlines()
    assert json.loads(first)["id"].endswith(" \udce9")
    assert call("rows", "texts", "--per", "sample", "--where", "id like 'val%'", "--csv", "--columns", "label").code == 0


def test_samples_without_labels_are_told(call: Caller, tmp_path: Path) -> None:
    """As `capture predict --records` writes them: no accuracy, no dynamics, and no gate that passes."""
    for seed in (0, 1):
        records = [
            replace(one, labels=np.full(len(one.labels), NO_LABEL), losses=np.full(len(one.losses), np.nan, np.float32))
            if isinstance(one, Batch)
            else one
            for one in run_records(seed=seed)
        ]
        write_run(tmp_path / f"run{seed}", records)
    for per in TYPES:
        done = call("rows", "run0", "--per", per)
        assert (done.code, "have no labels" in done.err) == (2, True), done.err
    assert call("suspects", "run0").code == 2
    done = call("diff", "run0", "run1", "--fail-if", "flips > 0")
    assert (done.code, "cannot be judged" in done.err) == (1, True)
