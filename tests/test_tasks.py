"""Reading every task: sequences position by position, numeric targets, samples without files."""

import csv
import io
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli.answers.diff import compare
from capture_cli.answers.history import History, sample_history
from capture_cli.answers.summary import summarise
from capture_cli.answers.verification import verify
from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import Batch, Numbers, Record, RunInfo
from capture_cli.runs import BATCHES, open_run
from capture_cli.tables.sql import Table
from conftest import CAPTURE
from runs import body, chained, rechained, task_records, write_run
from test_rows import as_dicts, slow_visits, taken

Capture = Callable[..., subprocess.CompletedProcess[str]]
TASKS = (None, "sequence", "multilabel", "regression")


def extras_of(path: Path) -> list[dict[str, object]]:
    with open_run(path) as run:
        return [values or {} for visits in run.visits() for values in visits["extra"]]


def history_of(path: Path, wanted: str) -> History:
    with open_run(path) as run:
        return sample_history(run, wanted)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("files", [False, True])
def test_rows_of_every_task_match_the_records(
    tmp_path: Path, task: str | None, text_ids: bool, extra: bool, files: bool
) -> None:
    """Each row has the columns of the task and the values that the NumPy columns have, `extra` as an object."""
    folder = write_run(tmp_path / "run", task_records(task, text_ids=text_ids, extra=extra, files=files))
    slow = [asdict(one) for one in slow_visits(folder)]
    extras = extras_of(folder)
    quick = as_dicts(taken(folder))
    assert len(quick) == len(slow) == (4 * 18 if task == "sequence" else 4 * 12)
    expected_columns = [*Table(task=task).columns, *(["extra"] if extra else [])]
    for row, expected, values in zip(quick, slow, extras, strict=True):
        assert list(row) == expected_columns
        assert row.pop("extra", {}) == values
        if "margin" in expected:
            assert row.pop("margin") == pytest.approx(expected.pop("margin"), rel=1e-6)
        assert row == json.loads(json.dumps(expected))
    assert isinstance(quick[0]["id"], str if text_ids else int)
    by_csv = list(csv.DictReader(io.StringIO(taken(folder, style="csv").decode("utf-8", "surrogateescape"), newline="")))
    assert [list(row) for row in by_csv] == [expected_columns] * len(quick)
    assert [row["file"] for row in by_csv] == [row["file"] for row in quick]
    if task in ("multilabel", "regression"):
        assert [json.loads(row["outputs"]) for row in by_csv] == [row["outputs"] for row in quick]


@pytest.mark.parametrize(
    ("task", "where", "count"),
    [
        ("sequence", "position >= 3", 4 * 4),
        ("sequence", "extra->>'source' like 'text 3%'", 4 * 2),
        ("sequence", "id like 'val-0-%' and label = pred and not correct", 0),
        ("multilabel", "correct = (outputs[1] > 0.5 and false) or true", 48),
        ("multilabel", "len(targets) = 3 and loss < 2 and phase = 'train'", 24),
        ("regression", "abs(outputs[2] + targets[2]) < 1e-6 and correct is null", 48),
        (None, "id like 'train%'", 24),
    ],
)
def test_conditions_on_the_columns_of_the_task(tmp_path: Path, task: str | None, where: str, count: int) -> None:
    """Positions, lists of targets and outputs, values of `extra`."""
    folder = write_run(tmp_path / "run", task_records(task))
    assert len(as_dicts(taken(folder, where=where, columns=("id",)))) == count


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (None, {"where": "position > 1"}, 'Referenced column "position" not found'),
        ("sequence", {"where": "outputs[1] > 1"}, 'Referenced column "outputs" not found'),
        ("regression", {"where": "label = 'a'"}, 'Referenced column "label" not found'),
        ("regression", {"columns": ("file", "label")}, "no such column: 'label'"),
        (None, {"columns": ("targets",)}, "no such column: 'targets'"),
    ],
)
def test_columns_of_another_task_are_errors(tmp_path: Path, task: str | None, options: dict[str, object], message: str) -> None:
    """It lists the columns of this run, before any row is written."""
    folder = write_run(tmp_path / "run", task_records(task))
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        taken(folder, **options)
    assert ", ".join(Table(task=task).columns) in raised.value.hint


def test_one_run_may_have_integer_and_string_ids(tmp_path: Path) -> None:
    """Training data may have integers where validation data have strings; rows keep the order of the records."""
    records = list(task_records(None, text_ids=False, extra=False))
    records = [
        replace(one, ids=[f"v{number}" for number in one.ids]) if isinstance(one, Batch) and one.phase == "val" else one
        for one in records
    ]
    folder = write_run(tmp_path / "run", records)
    found = [row["id"] for row in as_dicts(taken(folder))]
    assert found == [one for record in records if isinstance(record, Batch) for one in record.ids]
    assert {type(one) for one in found} == {int, str}
    assert as_dicts(taken(folder, limit=14)) == as_dicts(taken(folder))[:14]


def test_a_run_without_batches_has_the_columns_of_its_task(tmp_path: Path) -> None:
    """CSV starts with them even if no row follows."""
    head = list(task_records("regression"))[:1]
    assert taken(write_run(tmp_path / "run", head), style="csv") == (",".join(Table(task="regression").columns) + "\n").encode()
    assert taken(tmp_path / "run", style="csv", limit=0) == (",".join(Table(task="regression").columns) + "\n").encode()


@pytest.mark.parametrize("task", [None, "sequence"])
def test_the_summary_of_classes_matches_the_rows(tmp_path: Path, task: str | None) -> None:
    """Each position of a sequence that is not padding is a sample; a batch of padding has none."""
    folder = write_run(tmp_path / "run", task_records(task))
    with open_run(folder) as run:
        summary = summarise(run, worst=3)
    last = [row for row in as_dicts(taken(folder)) if row["phase"] == "val" and row["epoch"] == 1]
    phase = summary.phase
    assert phase is not None
    assert summary.state.error is None
    assert (phase.n, phase.correct) == (len(last), sum(bool(row["correct"]) for row in last))
    assert [one.n for one in phase.classes] == [[row["label"] for row in last].count(name) for name in ("a", "b", "é")]
    assert [one.visit.file for one in phase.worst] == [
        row["file"] for row in sorted(last, key=lambda row: -float(str(row["loss_nats"])))[:3]
    ]
    assert {one.digest for one in phase.worst} == {None}
    assert phase.outputs == ()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_the_summary_of_numbers_is_by_output(tmp_path: Path, task: str) -> None:
    """Means, errors and the fraction on the correct side of 0.5, compared with NumPy over all rows."""
    folder = write_run(tmp_path / "run", task_records(task))
    with open_run(folder) as run:
        phase = summarise(run, worst=2).phase
    last = [row for row in as_dicts(taken(folder)) if row["phase"] == "val" and row["epoch"] == 1]
    targets, outputs = (np.array([row[name] for row in last], np.float64) for name in ("targets", "outputs"))
    assert phase is not None
    assert (phase.n, phase.correct, phase.classes, len(phase.outputs)) == (12, None, (), 3)
    for place, one in enumerate(phase.outputs):
        t, o = targets[:, place], outputs[:, place]
        found = [one.target, one.output, one.error, one.rms_error]
        assert found == pytest.approx([t.mean(), o.mean(), np.abs(o - t).mean(), np.sqrt(((o - t) ** 2).mean())])
        if task == "multilabel":
            both = ((o > 0.5) & (t > 0.5)).sum()
            sides = [((o > 0.5) == (t > 0.5)).mean(), both / (o > 0.5).sum(), both / (t > 0.5).sum()]
            assert [one.accuracy, one.precision, one.recall] == pytest.approx(sides)
        else:
            assert (one.accuracy, one.precision, one.recall) == (None, None, None)
    assert [one.visit.file for one in phase.worst] == [
        row["file"] for row in sorted(last, key=lambda row: -float(str(row["loss"])))[:2]
    ]


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_found_by_its_name(tmp_path: Path, task: str | None) -> None:
    """Without samples records, batches have the names: the exact one, or the unique one that ends so."""
    folder = write_run(tmp_path / "run", task_records(task))
    history = history_of(folder, "val-1-0 \udce9")
    rows = [row for row in as_dicts(taken(folder)) if row["id"] == "val-1-0 \udce9"]
    assert len(history.visits) == len(rows) == (10 if task == "sequence" else 2)
    assert history.extra == {"source": 'text 0, "\\ \udce9', "n": 1}
    assert (history.sample.id, history.sample.label, history.sample.size) == ("val-1-0 \udce9", None, None)
    assert history_of(folder, "l-1-0 \udce9").visits == history.visits
    with pytest.raises(UsageError, match="samples end in '-0 "):
        history_of(folder, "-0 \udce9")
    with pytest.raises(UsageError, match="no sample 'nope' among the"):
        history_of(folder, "nope")


def test_an_integer_id_is_a_name_too(tmp_path: Path) -> None:
    """1 is the sample 1, although 101 ends in 1 too."""
    history = history_of(write_run(tmp_path / "run", task_records("regression", text_ids=False)), "1")
    assert (history.sample.id, len(history.visits)) == (1, 2)


def changed(records: Sequence[Record], **columns: object) -> list[bytes]:
    """Return lines with other columns in the second batch."""
    place = [number for number, one in enumerate(records) if one.kind in BATCHES][1]
    return chained([*records[:place], replace(records[place], **columns), *records[place + 1 :]])  # type: ignore[type-var]


@pytest.mark.parametrize("task", TASKS)
def test_verify_checks_what_the_task_requires(tmp_path: Path, task: str | None) -> None:
    """The records of a run verify; those of another task, or with other numbers of classes or outputs, do not."""
    records = list(task_records(task))
    path = tmp_path / "run.jsonl"

    def verified(lines: Sequence[bytes]) -> RecordsError | None:
        path.write_bytes(b"".join(lines))
        with open_run(path) as run:
            return verify(run).error

    assert verified(chained(records)) is None
    header = records[0]
    assert isinstance(header, RunInfo)
    others = [other for other in TASKS if other != task and {task, other} != {"multilabel", "regression"}]
    for other in others:
        error = verified(chained([replace(header, task=other), *records[1:]]))
        assert error is not None
        assert "does not fit the run's task" in error.message
    assert verified(chained([replace(header, classes=["a", "b", "c", "d"]), *records[1:]])) is not None
    bodies = [body(line) for line in chained(records)]
    assert verified(rechained(line.replace(b'"losses":[', b'"losses":[1.5,') for line in bodies)) is not None


@pytest.mark.parametrize("task", TASKS)
def test_diff_names_what_differs(tmp_path: Path, task: str | None) -> None:
    """By the name of the sample, and its position in a sequence; equal runs are equal."""
    records = list(task_records(task))
    batch = [one for one in records if isinstance(one, Batch | Numbers)][1]
    losses = batch.losses.copy()
    losses[3] += 1
    for name, lines in {"a": chained(records), "b": changed(records, losses=losses)}.items():
        (tmp_path / name).write_bytes(b"".join(lines))
    with open_run(tmp_path / "a") as a, open_run(tmp_path / "b") as b:
        diff = compare(a, b)
    assert (diff.relation, diff.error) == ("differ", None)
    assert diff.first is not None
    assert (diff.first.fields, diff.first.same_inputs, diff.first.files.count) == (("losses",), True, 1)
    name = f"{batch.ids[3]}:{3}" if task == "sequence" else batch.ids[3]
    assert (diff.first.files.first[0].file, diff.first.files.first[0].b) == (name, float(str(losses[3])))
    with open_run(tmp_path / "a") as a, open_run(tmp_path / "a") as again:
        assert compare(a, again).relation == "equal"


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        (None, ["classes +a, b, é", "of 12 captured samples correct", "highest loss"]),
        ("sequence", ["task +sequence", "of 18 captured positions correct", "position"]),
        ("multilabel", ["outputs +a, b, é", "12 captured samples, loss", "precision", "positive"]),
        ("regression", ["task +regression", "rms error", "targets"]),
    ],
)
def test_inspect_shows_every_task(capture: Capture, tmp_path: Path, task: str | None, parts: list[str]) -> None:
    """Fitting tables, the same as JSON, and commands that work; no pictures without images."""
    write_run(tmp_path / "run", task_records(task, text_ids=False))
    done = capture("inspect", "run")
    assert (done.returncode, done.stderr) == (0, "")
    for part in parts:
        assert re.search(part, done.stdout), part
    assert "images" not in done.stdout
    answer = json.loads(capture("inspect", "run", "--json").stdout)
    assert [("accuracy" in one["val"], one["val"]["accuracy"]) for one in answer["epochs"]] == [
        (True, None if task == "regression" else 0.5)
    ] * 2
    for command in answer["commands"]:
        script = f'set -o pipefail; capture() {{ {" ".join(CAPTURE)} "$@"; }}; {command}'
        ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, ""), command
        assert ran.stdout, command
    one = capture("inspect", "run", "--sample", "101")
    assert one.returncode == 0
    assert 'source: text 1, "\\' in one.stdout
    assert len(json.loads(capture("inspect", "run", "--sample", "101", "--json").stdout)["visits"]) == (
        6 if task == "sequence" else 2
    )
