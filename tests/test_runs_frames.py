"""Visits as pandas and Arrow tables: the columns of `visits`, with class names."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from capture_cli.errors import UsageError
from capture_cli.runs import Run, open_run
from runs import run_records, task_records, write_run

TASKS = [None, "sequence", "multilabel", "regression"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of 36 samples, 3 classes and 2 epochs."""
    return open_run(write_run(tmp_path / "run", run_records(top_k=2)))


def test_a_row_is_a_visit(run: Run) -> None:
    """The default columns, in order and in their types; classes and phases are categoricals."""
    frame = run.to_pandas()
    assert list(frame.columns) == [
        *("phase", "epoch", "batch", "step", "id", "file"),
        *("label", "pred", "correct", "p_label", "p_pred", "margin", "loss"),
    ]
    assert list(frame["label"].cat.categories) == list(frame["pred"].cat.categories) == run.info.classes
    assert (frame["loss"].dtype, frame["id"].dtype, frame["correct"].dtype) == (np.float32, np.int64, np.bool_)
    assert frame.groupby(["phase", "epoch"], observed=True).size().to_dict() == {
        ("train", 0): 27,
        ("train", 1): 27,
        ("val", 0): 9,
        ("val", 1): 9,
    }
    assert ((frame["label"] == frame["pred"]) == frame["correct"]).all()
    assert all(file.startswith(str(label)) for file, label in zip(frame["file"], frame["label"], strict=True))


def test_columns_phase_and_epochs_are_chosen(run: Run) -> None:
    """Only what is asked for is read, in the order in which it is asked for."""
    frame = run.to_pandas(["file", "probs", "topk", "epoch"], phase="val", epochs=[1])
    assert list(frame.columns) == ["file", "probs", "topk", "epoch"]
    assert (len(frame), set(frame["epoch"]), frame["probs"][0].shape) == (9, {1}, (2,))
    with pytest.raises(UsageError, match="no column 'nope'"):
        run.to_pandas(["nope"])
    with pytest.raises(UsageError, match="no column 'nope'"):
        run.to_arrow(["nope"], phase="none")


@pytest.mark.parametrize("task", TASKS)
def test_arrow_and_pandas_have_the_same(tmp_path: Path, task: str | None) -> None:
    """Of every task, names that are not UTF-8 and values beside the samples included."""
    run = open_run(write_run(tmp_path / "run", task_records(task)))
    names = [*run.to_pandas().columns, "extra"]
    frame, table = run.to_pandas(names), run.to_arrow(names)
    assert table.column_names == names
    for name in names:
        values = table[name].to_pylist()
        for one, other in zip(values, frame[name], strict=True):
            if name == "extra":
                assert json.loads(one) == other
            elif isinstance(one, list):
                assert one == pytest.approx(other.tolist())
            elif isinstance(other, str):
                assert one == other.encode("utf-8", "backslashreplace").decode()
            else:
                assert one == other or (np.isnan(one) and np.isnan(other))


def test_arrow_keeps_types(run: Run) -> None:
    """Dictionaries for names, lists of fixed length for probabilities."""
    schema = run.to_arrow(["phase", "label", "probs", "topk", "loss", "file"]).schema
    names = pa.dictionary(pa.int32(), pa.string())
    lists = [pa.list_(pa.float32(), 2), pa.list_(pa.int64(), 2)]
    assert schema.types == [names, names, *lists, pa.float32(), pa.string()]


@pytest.mark.parametrize("task", TASKS)
def test_nothing_to_show_is_a_table_without_rows(tmp_path: Path, task: str | None) -> None:
    """The columns and their types are there all the same."""
    run = open_run(write_run(tmp_path / "run", task_records(task, text_ids=False)))
    full, empty = run.to_arrow(), run.to_arrow(phase="test")
    assert (full.schema, empty.num_rows) == (empty.schema, 0)
    assert run.to_pandas(phase="test").dtypes.drop("phase").equals(run.to_pandas().dtypes.drop("phase"))


def test_classes_of_the_same_name(tmp_path: Path) -> None:
    """Somebody's own loop may call two classes the same; pandas cannot, and gets plain text."""
    run = open_run(write_run(tmp_path / "run", run_records(classes=("a", "a", "b"))))
    assert set(run.to_pandas()["label"]) == set(run.to_arrow()["label"].to_pylist()) == {"a", "b"}


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_a_missing_package_is_named(tmp_path: Path, package: str) -> None:
    """Neither is needed for anything else; what to install is said."""
    write_run(tmp_path / "run")
    method = {"pandas": "to_pandas", "pyarrow": "to_arrow"}[package]
    code = f"""
import sys
sys.modules["pandas"] = sys.modules["pyarrow"] = None
from capture_cli import open_run
run = open_run("run")
assert len(list(run.blocks()))
run.{method}()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert f"UsageError: {method}() needs {package}" in done.stderr
    assert f"pip install {package}" in done.stderr


def test_pandas_reads_a_column_at_a_time(run: Run) -> None:
    """What people do with it: the accuracy of each class in the last epoch."""
    frame = run.to_pandas(["label", "correct"], phase="val", epochs=[1])
    accuracy = frame.groupby("label", observed=False)["correct"].mean()
    assert isinstance(accuracy, pd.Series)
    assert list(accuracy.index) == run.info.classes
