"""Rows equal the records digit for digit, whatever the names in them; a condition is a condition and nothing else."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capture_cli.answers.summary import Summary, summarise
from capture_cli.answers.visits import AnyVisit, visit_at
from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import Batch, Record
from capture_cli.runs import open_run
from capture_cli.runs.visits import SMALLEST
from capture_cli.tables.rows import rows
from capture_cli.tables.sql import Table, escape, locked_database, unescape
from runs import body, chained, rechained, run_records, write_run

HOSTILE = [
    os.fsdecode(name) for name in (b"a\x80\xff.png", b"\xed\xa0\x80", b'q",\n\r.png', b"\x1b[2J", "\U0010ffffdc80".encode())
]
HOSTILE += ["'); drop table x; --", "é😀.png", "\\", "\\udc80", "=1+1", "$lines", "\u2028"]


def taken(path: Path, **options: object) -> bytes:
    with open_run(path) as run:
        return b"".join(rows(run, **options))  # type: ignore[arg-type]


def as_dicts(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def slow_visits(path: Path) -> Iterator[AnyVisit]:
    """Every visit as a value, one by one from NumPy columns."""
    with open_run(path) as run:
        for visits in run.visits():
            yield from (visit_at(visits, row) for row in range(len(visits)))


def summary_of(path: Path, **options: int) -> Summary:
    with open_run(path) as run:
        return summarise(run, **options)


RUNS: dict[str, dict[str, object]] = {
    "plain": {},
    "two classes": {"classes": ("a", "b")},
    "top 2": {"top_k": 2},
    "top 3 of 7": {"top_k": 3, "classes": tuple("abcdefg")},
    "hostile names": {"files": HOSTILE, "classes": ("'; --", '"', "a\udc80"), "val_every": 3},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_rows_equal_the_records(tmp_path: Path, options: dict[str, object]) -> None:
    """Rows made in SQL equal the visits made in NumPy, digit for digit."""
    folder = write_run(tmp_path / "run", run_records(**options))  # type: ignore[arg-type]
    slow = [asdict(one) for one in slow_visits(folder)]
    quick = as_dicts(taken(folder))
    assert len(quick) == len(slow) > 10
    assert [list(row) for row in quick] == [list(Table(task=None).columns)] * len(quick)
    for row, expected in zip(quick, slow, strict=True):
        margin = row.pop("margin")
        assert margin == pytest.approx(expected.pop("margin"), rel=2e-7)  # ln may differ in its last bit
        assert row == expected


def test_the_margin_is_the_difference_of_logits(tmp_path: Path) -> None:
    """The margin is ln p(label) - ln max p(other), positive exactly where the prediction is right."""
    folder = write_run(tmp_path / "run")
    with open_run(folder) as run:
        batches = [record for line in run.lines() if isinstance(record := line.record(), Batch)]
    probs = np.concatenate([batch.probs for batch in batches]).astype(np.float64)
    labels = np.concatenate([batch.labels for batch in batches])
    at = np.arange(len(labels)), labels
    others = probs.copy()
    others[at] = 0
    expected = np.log(probs[at]) - np.log(others.max(1))
    found = as_dicts(taken(folder))
    assert np.allclose([row["margin"] for row in found], expected, atol=1e-5)
    assert [row["margin"] > 0 for row in found] == [row["correct"] for row in found]  # type: ignore[operator]


def one_batch(**columns: object) -> list[Record]:
    """A run of one batch of two samples and two classes, with other columns."""
    records = list(run_records(classes=("a", "b"), per_class=1, val_every=0, epochs=1, status=None))
    return [replace(one, **columns) if isinstance(one, Batch) else one for one in records]  # type: ignore[type-var]


def test_a_probability_of_zero_is_the_smallest_there_is(tmp_path: Path) -> None:
    """If the other classes have no digits left, the margin is the largest that float32 can express."""
    probs = np.array([[1, 0], [0, 1]], np.float32)
    losses = np.array([0, 200], np.float32)
    labels = preds = np.array([0, 1])
    folder = write_run(tmp_path / "a", one_batch(probs=probs, losses=losses, labels=labels, preds=preds))
    assert [row["margin"] for row in as_dicts(taken(folder))] == pytest.approx([-np.log(SMALLEST), -np.log(SMALLEST) - 200])
    wrong = one_batch(probs=probs, losses=np.array([150, 160], np.float32), labels=labels[::-1].copy(), preds=preds)
    assert [row["margin"] for row in as_dicts(taken(write_run(tmp_path / "b", wrong)))] == [-150, -160]


@pytest.mark.parametrize("style", ["jsonl", "csv"])
def test_values_that_are_not_finite_are_null(tmp_path: Path, style: str) -> None:
    """NaN and infinity are null in JSON, which has neither, and empty in CSV."""
    probs = np.array([[np.nan, np.nan], [0, 1]], np.float32)
    folder = write_run(
        tmp_path / "run", one_batch(probs=probs, losses=np.array([np.nan, np.inf], np.float32), preds=np.array([0, 1]))
    )
    columns = ("p_pred", "p_label", "margin", "loss_nats")
    data = taken(folder, style=style, columns=columns)
    read = as_dicts(data) if style == "jsonl" else list(csv.DictReader(io.StringIO(data.decode())))
    nothing = None if style == "jsonl" else ""
    assert [row["loss_nats"] for row in read] == [nothing] * 2
    assert [row["margin"] for row in read] == [nothing] * 2
    assert read[0]["p_pred"] == nothing
    assert len(as_dicts(taken(folder, where="loss_nats is null"))) == 2


def test_a_margin_without_another_class_is_null(tmp_path: Path) -> None:
    """With one probability kept, the margin of a right prediction is unknown; that of a wrong one is not."""
    folder = write_run(tmp_path / "run", run_records(top_k=1))
    found = as_dicts(taken(folder))
    assert {row["correct"] for row in found} == {True, False}
    assert [row["margin"] is None for row in found] == [row["correct"] for row in found]
    assert [asdict(one)["margin"] is None for one in slow_visits(folder)] == [row["correct"] for row in found]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name), min_size=1, max_size=4))
def test_any_file_name_comes_out_exactly(tmp_path: Path, names: list[bytes]) -> None:
    """Any bytes of a name come back: from JSON through surrogateescape, from CSV as they are."""
    files = [os.fsdecode(name) for name in names]
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(chained(run_records(files=files, classes=("a", "b"), val_every=0, epochs=1))))
    by_json = {os.fsencode(str(row["file"])) for row in as_dicts(taken(path, columns=("file",)))}
    text = taken(path, columns=("id", "file"), style="csv").decode("utf-8", "surrogateescape")
    by_csv = {os.fsencode(row["file"]) for row in csv.DictReader(io.StringIO(text, newline=""))}
    assert by_json == by_csv == set(names)


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=20))
def test_escaping_is_one_to_one(text: str) -> None:
    """Text escaped for DuckDB comes back unchanged, in JSON and as bytes."""
    there = escape(text)
    there.encode()  # no lone surrogates
    assert unescape(there, as_json=False) == b"".join(
        char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass") for char in text
    )
    assert re.sub(rb"\\u(d[89a-f]..)", b"", unescape(there, as_json=True)).decode() == re.sub("[\ud800-\udfff]", "", text)


@pytest.mark.parametrize("names", [("a,b", "c"), ('"', "x"), ("two\nlines", "x"), ("plain", "é")])
def test_class_names_are_quoted_in_csv(tmp_path: Path, names: tuple[str, ...]) -> None:
    """A class name with a comma, quote or line end comes back from a CSV reader as it was."""
    folder = write_run(tmp_path / "run", run_records(classes=names, files=["1.png", "2.png", "3.png", "4.png"], val_every=0))
    read = list(csv.DictReader(io.StringIO(taken(folder, style="csv").decode(), newline="")))
    assert [(row["label"], row["file"]) for row in read] == [(row["label"], row["file"]) for row in as_dicts(taken(folder))]
    assert {row["label"] for row in read} == set(names)


def test_fields_that_no_column_needs_are_not_parsed(tmp_path: Path) -> None:
    """A batch whose probabilities do not fit still has files and losses; asking for p_pred is an error."""
    bodies = [body(line) for line in chained(run_records(status=None))]
    changed = [re.sub(rb'"probs":\[\[[^]]*\]', b'"probs":[[]', text) for text in bodies]
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(rechained(changed)))
    assert len(taken(path, columns=("file", "loss_nats"), where="not correct").splitlines()) > 3
    with pytest.raises(RecordsError):
        taken(path, columns=("file", "p_pred"))
    with pytest.raises(RecordsError):
        taken(path, columns=("file",), where="p_pred > 0.5")


def test_rows_can_be_chosen(tmp_path: Path) -> None:
    """Columns come in the order asked for, a condition may be on any column, and a limit cuts off."""
    folder = write_run(tmp_path / "run", run_records(epochs=3))
    everything = as_dicts(taken(folder))
    wanted = [row for row in everything if not row["correct"] and row["phase"] == "val" and row["epoch"] == 1]
    assert as_dicts(taken(folder, where="not correct and phase = 'val' and epoch = 1")) == wanted
    assert as_dicts(taken(folder, columns=("loss_nats", "epoch"))) == [
        {"loss_nats": row["loss_nats"], "epoch": row["epoch"]} for row in everything
    ]
    for limit in (0, 1, 8, 9, 1000):
        assert as_dicts(taken(folder, limit=limit)) == everything[:limit]
    assert as_dicts(taken(folder, where="label = 'dog'", limit=3)) == [row for row in everything if row["label"] == "dog"][:3]
    assert as_dicts(taken(folder, where="true -- whatever")) == everything


def test_order_is_kept_over_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have the order of the records however the lines are divided among threads."""
    monkeypatch.setattr("capture_cli.tables.rows._CHUNK_BYTES", 1)
    monkeypatch.setattr("capture_cli.runs.reading._BLOCK_BYTES", 4096)
    folder = write_run(tmp_path / "run", run_records(epochs=6, per_class=60))
    found = as_dicts(taken(folder))
    assert [(row["step"], row["batch"], row["id"]) for row in found] == [(v.step, v.batch, v.id) for v in slow_visits(folder)]
    assert as_dicts(taken(folder, limit=700)) == found[:700]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("los > 1", 'Referenced column "los" not found'),
        ("not correct and", "the condition ends too early"),
        ("'open", "unterminated"),
        ("  ", "--where is empty"),
        ("file", "BOOL"),
        ("cast(label as int) > 3", "Could not convert string"),
        ("sum(id) > 1", "aggregates"),
        ("id in (select 1)", "sub-query"),
        ("exists (from read_text('/etc/passwd'))", "sub-query"),
        ("id = $lines", "parameter"),
        ("true) or (true", None),
        ("true) group by (id", "more than a condition"),
        ("true) union all select (1", "more than a condition"),
        ("true); copy (select 1) to 'x.csv'; select (1", "Only SELECT"),
        ("true); select (1", "more than a condition"),
        ("no_such_function(id)", "no_such_function"),
        ("a\udc80", "not found"),
    ],
)
def test_a_condition_is_a_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, reason: str | None) -> None:
    """A condition that DuckDB cannot use is an error with the reason and the columns; anything else does not reach it."""
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run")
    if reason is None:
        assert taken(folder, where=where)
        return
    with pytest.raises(UsageError, match=re.escape(reason)) as raised:
        taken(folder, where=where)
    assert "p_label" in raised.value.hint
    assert "\n" not in raised.value.message.replace(where, "")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to 'x.csv'",
        "select * from read_text('/etc/hostname')",
        "select * from '/etc/hostname'",
        "attach 'x.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set memory_limit = '1TB'",
        "select * from process",
    ],
)
def test_the_database_reaches_nothing(sql: str) -> None:
    """SQL reaches no file, extension, setting or variable of this process."""
    import duckdb

    process = "a variable that DuckDB could read as a table"  # noqa: F841
    with pytest.raises(duckdb.Error):
        locked_database().cursor().execute(sql)


@pytest.mark.parametrize(
    "options", [{"columns": ("file", "nope")}, {"columns": ()}, {"columns": ("id", "id")}, {"style": "xml"}]
)
def test_unknown_columns_and_formats_are_refused_at_once(tmp_path: Path, options: dict[str, object]) -> None:
    """A column or format that does not exist is an error before anything is read."""
    with open_run(write_run(tmp_path / "run")) as run, pytest.raises(UsageError):
        rows(run, **options)  # type: ignore[arg-type]


def test_rows_end_before_a_record_that_makes_no_sense(tmp_path: Path) -> None:
    """A record can verify and still make no sense: the rows before it are shown, then its line is named."""
    bodies = [body(line) for line in chained(run_records(status=None))]
    place = [number for number, text in enumerate(bodies) if b'"kind":"batch"' in text][3]
    for old, new in ((b'"labels":[', b'"labels":[99,'), (b'"preds":[', b'"preds":[-1,'), (b'"files":[', b'"files":[null,')):
        column = re.search(re.escape(old) + rb"[^,]*,", bodies[place])
        assert column
        changed = [*bodies[:place], bodies[place].replace(column[0], new, 1), *bodies[place + 1 :]]
        path = tmp_path / "run.jsonl"
        path.write_bytes(b"".join(rechained(changed)))
        given: list[bytes] = []
        with open_run(path) as run, pytest.raises(RecordsError, match=f"run.jsonl: line {place + 1}: .*batch record") as raised:
            given.extend(rows(run))
        assert raised.value.line == place + 1
        assert len(as_dicts(b"".join(given))) == 3 * 8
