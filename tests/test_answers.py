"""Summary, history and verification agree with the records, and hostile records cause errors, never crashes."""

import json
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli.answers.history import SampleSearch, sample_history
from capture_cli.answers.scores import Scores
from capture_cli.answers.summary import Summarising, Summary, summarise
from capture_cli.answers.verification import verify
from capture_cli.answers.visits import visit_at, visits_at
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import Batch, Epoch, RunInfo, Samples, sample_names
from capture_cli.runs import Visits, open_run
from runs import body, chained, rechained, run_records, task_records, write_run
from test_rows import HOSTILE, as_dicts, one_batch, taken


def summary_of(path: Path, **options: int) -> Summary:
    with open_run(path) as run:
        return summarise(run, **options)


def test_the_summary_agrees_with_the_records(tmp_path: Path) -> None:
    """The expected values are counted over all rows."""
    folder = write_run(tmp_path / "run", run_records(per_class=40, epochs=3))
    summary = summary_of(folder, worst=5, confusions=3)
    last = [row for row in as_dicts(taken(folder)) if row["phase"] == "val" and row["epoch"] == 2]
    phase = summary.phase
    assert phase is not None
    assert (phase.phase, phase.epoch, phase.complete, phase.n) == ("val", 2, True, len(last))
    assert phase.correct == sum(bool(row["correct"]) for row in last)
    assert phase.loss == pytest.approx(np.mean([row["loss_nats"] for row in last]))  # type: ignore[arg-type]
    for one in phase.classes:
        members = [row for row in last if row["label"] == one.name]
        assert (one.n, one.correct) == (len(members), sum(bool(row["correct"]) for row in members))
        assert one.loss == pytest.approx(np.mean([row["loss_nats"] for row in members]))  # type: ignore[arg-type]
    worst = sorted(last, key=lambda row: -row["loss_nats"])[:5]  # type: ignore[operator]
    assert [asdict(one.visit) | {"margin": None} for one in phase.worst] == [row | {"margin": None} for row in worst]
    wrong = [(row["label"], row["pred"]) for row in last if not row["correct"]]
    assert [one.count for one in phase.confusions] == sorted((wrong.count(pair) for pair in set(wrong)), reverse=True)[:3]
    assert all(wrong.count((one.label, one.pred)) == one.count for one in phase.confusions)
    assert phase.confusions_omitted == len(set(wrong)) - 3
    assert summary.splits == {"train": 90, "val": 30}
    assert summary.skipped == {"truncated": 1}
    assert [(one.epoch, one.phase) for one in summary.epochs] == [(e, p) for e in range(3) for p in ("train", "val")]
    assert (summary.under_way, summary.state.error) == ((), None)


@pytest.mark.parametrize("top_k", [None, 2])
def test_many_batches_are_the_same_as_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int | None) -> None:
    """The summary is the same if batches wait until the phase ends and if they are read one by one, ties included."""
    records = list(run_records(per_class=80, epochs=2, batch_size=8, status=None, top_k=top_k))
    for place, one in enumerate(records):
        if isinstance(one, Batch) and one.batch % 2:  # equal losses: the first of them count
            records[place] = replace(one, losses=np.where(one.losses > 1, np.float32(3), one.losses))
    folder = write_run(tmp_path / "run", records[:-3])
    summaries = []
    for waiting_bytes in (1 << 20, 5_000, 0):
        monkeypatch.setattr("capture_cli.answers.phases.WAITING_BYTES", waiting_bytes)
        summaries.append([summary_of(folder, worst=worst) for worst in (0, 3, 8, 500)])
    assert summaries[0] == summaries[1] == summaries[2]
    full = summaries[0][3].phase
    assert full is not None
    assert [summary.phase and summary.phase.worst for summary in summaries[0]] == [full.worst[:n] for n in (0, 3, 8, 500)]


@pytest.mark.parametrize("task", [None, "multilabel", "regression"])
def test_the_size_of_a_read_changes_no_digit(tmp_path: Path, task: str | None) -> None:
    """A pipe delivers records in other portions than a file. Sums are added up in the same order."""
    with open_run(write_run(tmp_path / "run", task_records(task))) as run:
        for visits in run.visits():
            parts = [visits.batch(0), Visits(run.info, visits.phase, visits.epoch, visits.lines[1:], name="rest")]
            scores = [Scores(visits.phase, visits.epoch, run.info) for _ in range(2)]
            scores[0].update(visits)
            for part in parts:
                scores[1].update(part)
            assert scores[0].result() == scores[1].result()


def test_the_digest_of_the_worst_is_that_of_its_file(tmp_path: Path) -> None:
    """A picture is shown only of the very file that was trained on."""
    digests = [f"{number:032x}" for number in range(36)]
    phase = summary_of(write_run(tmp_path / "run", run_records(digests=digests))).phase
    assert phase is not None
    assert [one.digest for one in phase.worst] == [digests[one.visit.id] for one in phase.worst]


@pytest.mark.parametrize(
    ("cut", "phase", "epoch", "complete"),
    [(1, None, None, None), (6, "train", 0, False), (9, "train", 0, True), (10, "train", 0, True), (12, "val", 0, True)],
)
def test_the_chosen_phase(tmp_path: Path, cut: int, phase: str | None, epoch: int | None, complete: bool | None) -> None:
    """It is the last complete one, `val` before `train`; if none is complete, the one under way."""
    records = list(run_records(per_class=12, epochs=2, batch_size=8))
    kinds = [(record.kind, getattr(record, "phase", "")) for record in records]
    assert kinds[3:9] == [("batch", "train")] * 4 + [("epoch", "train"), ("batch", "val")]
    found = summary_of(write_run(tmp_path / "run", records[:cut]))
    assert found.state.ending.state == "unsealed"
    assert (found.phase is None) == (phase is None)
    if found.phase:
        assert (found.phase.phase, found.phase.epoch, found.phase.complete) == (phase, epoch, complete)
    under_way = [(one.phase, one.n) for one in found.under_way]
    assert under_way == {1: [], 6: [("train", 24)], 9: [("val", 8)], 10: [("val", 9)], 12: [("train", 8)]}[cut]


def test_losses_that_are_not_finite_are_the_worst(tmp_path: Path) -> None:
    """They come first, and the means that include them are None."""
    records = one_batch(losses=np.array([np.nan, 1], np.float32))
    phase = summary_of(write_run(tmp_path / "run", records)).phase
    assert phase is not None
    assert [one.visit.loss_nats for one in phase.worst] == [None, 1]
    assert phase.loss is None
    assert [one.loss for one in phase.classes].count(None) == 1


def test_a_prediction_from_nan_is_not_correct(tmp_path: Path) -> None:
    """The argmax of NaN is class 0, which may be the label. Rows, classes and the total count it as wrong."""
    (batch,) = (record for record in one_batch() if isinstance(record, Batch))
    n = len(batch.labels)
    nothing = np.full_like(batch.probs, np.nan)
    records = one_batch(losses=np.full(n, np.nan, np.float32), probs=nothing, preds=batch.labels)
    folder = write_run(tmp_path / "run", records)
    phase = summary_of(folder).phase
    assert phase is not None
    assert (phase.correct, [one.correct for one in phase.classes]) == (0, [0] * len(phase.classes))
    assert [row["correct"] for row in as_dicts(taken(folder))] == [False] * n
    assert [one.visit.correct for one in phase.worst] == [False] * n


def test_a_phase_without_captured_batches(tmp_path: Path) -> None:
    """It is in the table of epochs, and its uncaptured samples are counted."""
    records = [record for record in run_records() if not (isinstance(record, Batch) and record.phase == "val")]
    records = [
        replace(r, captured=0, not_captured=r.n) if isinstance(r, Epoch) and r.phase == "val" else r for r in records[:-1]
    ]
    phase = summary_of(write_run(tmp_path / "run", records)).phase
    assert phase is not None
    assert (phase.phase, phase.n, phase.not_captured) == ("val", 0, 9)


def test_an_epoch_that_was_not_captured_does_not_hide_the_one_before(tmp_path: Path) -> None:
    """The last captured epoch is chosen; the table of epochs has both."""
    records = [one for one in run_records() if not (isinstance(one, Batch) and (one.phase, one.epoch) == ("val", 1))]
    summary = summary_of(write_run(tmp_path / "run", records[:-1]))
    assert summary.phase is not None
    assert (summary.phase.phase, summary.phase.epoch, summary.phase.n) == ("val", 0, 9)
    assert [(one.epoch, one.phase) for one in summary.epochs][-1] == (1, "val")


def test_too_many_phases_are_an_error(tmp_path: Path) -> None:
    """Each phase takes memory, so records that keep naming new ones are refused. The error names the line."""
    records = list(run_records(status=None, val_every=0))
    records += [replace(one, phase=f"phase-{n}") for n in range(20) for one in records if isinstance(one, Batch)]
    error = summary_of(write_run(tmp_path / "run", records)).state.error
    assert error is not None
    assert "more than 16 different phases" in error.message
    assert error.line > len(list(run_records(val_every=0)))


def test_any_number_of_folds_share_one_pass(tmp_path: Path) -> None:
    """Folds that share a pass give the same results as folds with a pass each. Pipes can be read only once."""
    folder = write_run(tmp_path / "run", run_records())
    with open_run(folder) as run:
        summary, search = Summarising(run, worst=3), SampleSearch(run, "cat_0001.png")
        assert run.fold(summary, search) is None
        assert summary.result() == summary_of(folder, worst=3)
        assert search.result() == sample_history(run, "cat_0001.png")


@pytest.mark.parametrize("task", [None, "sequence", "multilabel", "regression"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_visit_is_a_row_of_its_block(tmp_path: Path, task: str | None, top_k: int | None) -> None:
    """It has the values of the record, digit for digit, and the margin of the columns."""
    records = task_records(task) if task else run_records(top_k=top_k)
    with open_run(write_run(tmp_path / "run", records)) as run:
        for visits in run.visits():
            found = visits_at(visits, range(len(visits)))
            assert found == [visit_at(visits, row) for row in range(len(visits))]
            decoded = [visits.record(number) for number in range(len(visits.lines))]
            losses = [float(str(loss)) for record in decoded for loss in record.losses]
            names = [name for record in decoded for name in sample_names(record)]
            assert [one.file for one in found] == names
            if task in ("multilabel", "regression"):
                assert [one.loss for one in found] == losses  # type: ignore[union-attr]
                outputs = [[float(str(p)) for p in row] for record in decoded for row in record.outputs]  # type: ignore[union-attr]
                assert [list(one.outputs) for one in found] == outputs  # type: ignore[union-attr]
            else:
                assert [one.loss_nats for one in found] == losses  # type: ignore[union-attr]
                margins = [float(str(margin)) for margin in visits["margin"]]
                assert [one.margin for one in found] == margins  # type: ignore[union-attr]


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    """The last run record is the header, and the records before it still count."""
    records = list(run_records(status=None))
    first = records[0]
    assert isinstance(first, RunInfo)
    records.insert(9, replace(first, threads=4))
    folder = write_run(tmp_path / "run", records)
    summary = summary_of(folder)
    assert (summary.info.threads, len(summary.epochs)) == (4, 4)
    assert len(as_dicts(taken(folder))) == 2 * 36
    with open_run(folder) as run:
        assert len(sample_history(run, "cat_0001.png").visits) == 2


def test_a_history_has_every_visit(tmp_path: Path) -> None:
    """Label, prediction, p(label) and loss in every epoch are those of the rows."""
    folder = write_run(tmp_path / "run", run_records(epochs=4))
    with open_run(folder) as run:
        history = sample_history(run, "dog_0002.png")
    assert [asdict(one) | {"margin": 0} for one in history.visits] == [
        row | {"margin": 0} for row in as_dicts(taken(folder, where="file = 'dog_0002.png'"))
    ]
    assert len(history.visits) == 4
    assert (history.sample.file, history.sample.label, history.sample.id) == ("dog_0002.png", "dog", 7)


NAMES = ["a/1.png", "b/1.png", "b/21.png", "1.png", "c/x.png", "cat_0012.png"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a/1.png", "a/1.png"),
        ("1.png", "1.png"),  # exactly this, though others end so too
        ("x.png", "c/x.png"),
        ("/1.png", "2 images end in '/1.png': 'a/1.png', 'b/1.png'"),
        (".png", "6 images end in '.png'"),
        ("", "6 images end in ''"),
        ("cat_12.png", "no image 'cat_12.png' among the 6 of this run"),
        ("X.PNG", "no image 'X.PNG'"),
        ("../c/x.png", "no image '../c/x.png'"),
    ],
)
def test_an_image_is_named_by_its_end(tmp_path: Path, wanted: str, found: str) -> None:
    """The exact path wins, then a unique ending. Anything else is an error that lists candidates."""
    with open_run(write_run(tmp_path / "run", run_records(files=NAMES, classes=("a", "b"), val_every=0))) as run:
        if found in NAMES:
            assert sample_history(run, wanted).sample.file == found
        else:
            with pytest.raises(UsageError, match=re.escape(found)) as raised:
                sample_history(run, wanted)
            assert raised.value.hint
            if wanted in ("cat_12.png", "X.PNG"):
                assert {"cat_12.png": "'cat_0012.png'", "X.PNG": "'c/x.png'"}[wanted] in raised.value.hint


def test_a_sample_with_an_impossible_label_is_an_error(tmp_path: Path) -> None:
    """If the line that names the image is bad, the error names that line."""
    path = tmp_path / "run.jsonl"
    lines = chained(replace(one, labels=[*one.labels[:-1], 99]) if isinstance(one, Samples) else one for one in run_records())
    path.write_bytes(b"".join(lines))
    (last,) = [one.files[-1] for one in run_records() if isinstance(one, Samples)]
    with open_run(path) as run, pytest.raises(RecordsError, match="a label in this samples record is outside the 3 classes"):
        sample_history(run, last)


@pytest.mark.parametrize("wanted", ["broken_0.png", "_0.png"])
def test_a_skipped_image_is_reported_as_skipped(tmp_path: Path, wanted: str) -> None:
    """The error gives the reason and suggests no other names."""
    message = r"'broken_0.png' was skipped in this run: truncated \(the file ends early\)"
    with open_run(write_run(tmp_path / "run", run_records(skips=2))) as run, pytest.raises(UsageError, match=message):
        sample_history(run, wanted)


def test_verify_reads_every_record(tmp_path: Path) -> None:
    """A run does not verify if a record makes no sense, even if its chain holds."""
    path = tmp_path / "run.jsonl"
    lines = chained(run_records())
    path.write_bytes(b"".join(lines))
    with open_run(path) as run:
        assert verify(run).error is None
    for good, bad, line, reason in (
        (b'"dtype":"float32"', b'"dtype":32', 4, "inputs"),
        (b'"labels":[0,1,2,0', b'"labels":[0,1,9,0', 3, "outside the 3 classes"),
        (b'"digests":["', b'"digests":["x', 3, "digests"),
    ):
        path.write_bytes(b"".join(rechained([body(one).replace(good, bad) for one in lines])))
        with open_run(path) as run:
            error = verify(run).error
        assert isinstance(error, RecordsError)
        assert (error.line, reason in error.message) == (line, True), error.message


JUNK = (b"null", b"[]", b"{}", b"-1", b"1e999", b"1e39", b"9" * 30, b'"x"', b"[[]]", b"true", b'""', b'"\\ud800"', b'"\\u0000"')
JUNK += (b'"\xff"', b"NaN", b"[NaN]", b"[" * 2000, b'"../../etc/passwd"', b'"\xf4\x8f\xbf\xbf00dc80"')
TOKEN = re.compile(rb'-?[0-9][0-9.e+-]*|"(?:[^"\\]|\\.)*"|null|\[|\]')


def mutated(draw: random.Random, bases: Sequence[Sequence[bytes]]) -> bytes:
    """A run with values swapped, doubled, removed or replaced by junk, and a new chain that fits."""
    bodies = [body(line) for line in draw.choice(bases)]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(bodies))
        text = bodies[place]
        token = draw.choice(list(TOKEN.finditer(text))[4:])
        other = draw.choice(list(TOKEN.finditer(draw.choice(bodies))))[0]
        new = draw.choice((draw.choice(JUNK), token[0] + b"," + token[0], b"", other))
        bodies[place] = text[: token.start()] + new + text[token.end() :]
    return b"".join(rechained(bodies))


def test_hostile_records_are_errors_never_faults(tmp_path: Path) -> None:
    """500 runs with a good chain and bad contents each give clean JSON or a CaptureError."""
    draw = random.Random(0)
    bases = [
        chained(run_records(per_class=4, batch_size=4, top_k=top, files=files))
        for top, files in ((None, None), (2, None), (None, HOSTILE))
    ]
    bases += [chained(task_records(task)) for task in ("sequence", "multilabel", "regression")]
    path = tmp_path / "run.jsonl"
    outcomes = set()
    for number in range(500):
        path.write_bytes(mutated(draw, bases))
        with open_run(path) as run:
            outcomes.add(type(verify(run).error))
        with suppress(CaptureError):
            json.dumps(summary_of(path).to_json(), allow_nan=False)
        with suppress(CaptureError), open_run(path) as run:
            json.dumps(sample_history(run, "cat_0001.png").to_json(), allow_nan=False)
        if number % 15 == 0:
            for style in ("jsonl", "csv"):
                with suppress(CaptureError):
                    taken(path, style=style, where="margin > 0 or not correct")
    assert outcomes == {type(None), RecordsError}
