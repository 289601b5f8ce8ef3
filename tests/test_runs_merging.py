"""Several files of one run are read as one: merged by epoch and phase, each verified by itself."""

import gzip
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import Batch, End, Epoch, Numbers, Record, RunInfo, Samples, Skip
from capture_cli.runs import Block, Cursor, Run, Visits, open_run
from conftest import CAPTURE
from runs import chained, run_records, task_records


def split(records: Sequence[Record], ranks: int, *, samples: bool = True) -> list[list[Record]]:
    """What each of some processes would have written of a run: every so many-th batch, and its sums."""
    parts: list[list[Record]] = []
    for rank in range(ranks):
        part: list[Record] = []
        batches: list[Batch] = []
        for record in records:
            if isinstance(record, Batch):
                if record.batch % ranks == rank:
                    batches.append(replace(record, rank=rank, batch=record.batch // ranks))
                    part.append(batches[-1])
            elif isinstance(record, Epoch):
                losses = np.concatenate([np.zeros(0), *(one.losses for one in batches)])
                right = sum(int((one.preds == one.labels).sum()) for one in batches)
                n, means = len(losses), {"loss": float("nan"), "accuracy": None}
                if n:
                    means = {"loss": float(losses.mean()), "accuracy": right / n}
                part.append(replace(record, n=n, captured=n, **means))
                batches = []
            elif isinstance(record, End):
                part.append(replace(record, counts=dict(Counter(one.kind for one in part))))
            elif samples or rank == 0 or not isinstance(record, Samples | Skip):
                part.append(record)
        parts.append(part)
    return parts


def written(folder: Path, parts: Sequence[Sequence[Record]]) -> Path:
    """A run folder with a file for each part."""
    folder.mkdir()
    for rank, part in enumerate(parts):
        (folder / ("records.jsonl" if not rank else f"records-rank{rank}.jsonl")).write_bytes(b"".join(chained(part)))
    return folder


def whole() -> list[Record]:
    return list(run_records(per_class=40, batch_size=8, epochs=3))


def keys(blocks: Sequence[Block]) -> list[object]:
    """The order of a pass, with consecutive visits of one file as one."""
    found: list[object] = []
    for block in blocks:
        key: object = type(block).__name__
        if isinstance(block, Visits):
            key = (block.epoch, block.phase, {block.record(i).rank for i in range(len(block.lines))}.pop())
        if isinstance(block, Epoch):
            key = (block.epoch, block.phase, "sums")
        if not found or found[-1] != key:
            found.append(key)
    return found


def test_phases_come_one_after_the_other_with_the_sums_of_all(tmp_path: Path) -> None:
    """All files' batches of a phase, then one epoch record that is the one of the undivided run; records once."""
    records = whole()
    with open_run(written(tmp_path / "run", split(records, 3))) as run:
        blocks = list(run.blocks())
    expected: list[object] = ["RunInfo", "Skip", "Samples"]
    for epoch in range(3):
        for phase in ("train", "val"):
            expected += [(epoch, phase, rank) for rank in range(3)] + [(epoch, phase, "sums")]
    assert keys(blocks) == [*expected, "End"]
    sums = [block for block in blocks if isinstance(block, Epoch)]
    for got, one in zip(sums, [record for record in records if isinstance(record, Epoch)], strict=True):
        assert (got.n, got.captured, got.not_captured) == (one.n, one.captured, one.not_captured)
        assert (got.loss, got.accuracy) == pytest.approx((one.loss, one.accuracy))
    assert (run.ending.state, run.ending.status) == ("sealed", "completed")
    end = blocks[-1]
    assert isinstance(end, End)
    assert end.counts["batch"] == sum(isinstance(record, Batch) for record in records)


def test_the_visits_are_those_of_the_undivided_run(tmp_path: Path) -> None:
    """However many files there are, the same rows come, and `info` is the run record."""
    records = whole()
    rows = []
    for ranks in (1, 2, 12):
        with open_run(written(tmp_path / f"run-{ranks}", split(records, ranks))) as run:
            assert run.info == records[0]
            assert run.folder == tmp_path / f"run-{ranks}"
            assert len(list(run.records())) >= len(records)
            rows.append(
                sorted(
                    (visits.epoch, visits.phase, *row)
                    for visits in run.visits(phase="val")
                    for row in zip(visits["file"].tolist(), visits["loss"].tolist(), visits["margin"].tolist(), strict=True)
                )
            )
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 90


def test_files_may_be_listed_and_compressed(tmp_path: Path) -> None:
    """In any order and anywhere; in a folder the plain file comes before a compressed copy of it."""
    folder = written(tmp_path / "run", split(whole(), 3))
    blocks = keys(list(open_run(folder).blocks()))
    one, two = folder / "records-rank1.jsonl", folder / "records-rank2.jsonl"
    (tmp_path / "elsewhere.gz").write_bytes(gzip.compress(two.read_bytes()))
    listed = open_run([folder / "records.jsonl", str(one), tmp_path / "elsewhere.gz"])
    assert keys(list(listed.blocks())) == blocks
    assert (listed.name, listed.folder) == (f"{folder}/records.jsonl and 2 more", None)
    (folder / "records-rank2.jsonl.gz").write_bytes(b"an old copy")
    assert keys(list(open_run(folder).blocks())) == blocks
    two.unlink()
    (folder / "records-rank2.jsonl.gz").write_bytes((tmp_path / "elsewhere.gz").read_bytes())
    for name in ("records-rank02.jsonl", "records-rank-1.jsonl", "records-rank1.jsonl.bak", "records.jsonl.cut-0"):
        (folder / name).write_bytes(b"not of the run")
    assert keys(list(open_run(folder).blocks())) == blocks
    with pytest.raises(UsageError, match="no run is named"):
        open_run([])
    with pytest.raises(UsageError, match="no such run: 'nope'"):
        open_run([folder, "nope"])


def test_samples_are_handed_out_once(tmp_path: Path) -> None:
    """Where files name different ones, each brings those that no other had."""
    parts = split(whole(), 2)
    samples = [next(one for one in part if isinstance(one, Samples)) for part in parts]
    columns = ("ids", "files", "labels", "splits", "sizes", "digests")
    for part, one, rows in zip(parts, samples, (slice(0, 70), slice(50, 120)), strict=True):
        part[part.index(one)] = replace(one, **{name: getattr(one, name)[rows] for name in columns})
    with open_run(written(tmp_path / "run", parts)) as run:
        found = [block for block in run.blocks() if isinstance(block, Samples)]
        for name in columns:
            assert [value for one in found for value in getattr(one, name)] == list(getattr(samples[0], name))
        assert [len(one.ids) for one in found] == [70, 50]
        assert run.images_in(tmp_path).list().files == samples[0].files


@pytest.mark.parametrize(("cut", "state"), [("line", "torn"), ("end", "unsealed"), ("byte", "damaged"), ("all", "unsealed")])
def test_a_file_that_ended_early_does_not_hide_the_others(tmp_path: Path, cut: str, state: str) -> None:
    """All that the others have is read; the ending is the worst one, and names the file."""
    folder = written(tmp_path / "run", split(whole(), 3))
    path = folder / "records-rank1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    changed = {
        "line": [*lines[:middle], lines[middle][:40]],
        "end": lines[:-1],
        "byte": [*lines[:middle], lines[middle].replace(b"0", b"1", 1), *lines[middle + 1 :]],
        "all": [],
    }[cut]
    path.write_bytes(b"".join(changed))
    run = open_run(folder)
    blocks: list[Block] = []
    if state == "damaged":
        with pytest.raises(RecordsError, match=f"records-rank1.jsonl: line {middle + 1}"):
            blocks.extend(run.blocks())
    else:
        blocks.extend(run.blocks())
    assert (run.ending.state, run.ending.status) == (state, None)
    found = keys(blocks)
    assert {(2, "val", 0), (2, "val", 2), (2, "val", "sums"), (0, "train", 0)} <= set(found)
    assert ((2, "val", 1) in found) == (cut == "end")
    assert "End" not in found


def test_the_worst_status_is_that_of_the_run(tmp_path: Path) -> None:
    """A process that failed makes a run that failed."""
    parts = split(whole(), 3)
    for part, status in zip(parts, ("completed", "failed", "interrupted"), strict=True):
        end = part[-1]
        assert isinstance(end, End)
        part[-1] = replace(end, status=status)
    with open_run(written(tmp_path / "run", parts)) as run:
        end = list(run.blocks())[-1]
        assert isinstance(end, End)
        assert (end.status, run.ending.state, run.ending.status) == ("failed", "sealed", "failed")


@pytest.mark.parametrize("change", [{"classes": ["x", "y", "z"]}, {"task": "sequence"}])
def test_files_of_different_runs_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Labels would mean different things; the message names both files."""
    parts = split(whole(), 2)
    info = parts[1][0]
    assert isinstance(info, RunInfo)
    parts[1][0] = replace(info, **change)  # type: ignore[arg-type]
    with (
        open_run(written(tmp_path / "run", parts)) as run,
        pytest.raises(
            RecordsError, match=r"records-rank1.jsonl and .*records.jsonl are not of one run: their classes or tasks"
        ),
    ):
        list(run.blocks())


def test_a_phase_that_only_one_process_has(tmp_path: Path) -> None:
    """Often rank 0 alone evaluates: its phase comes where it belongs, with its own sums."""
    parts = split(whole(), 2)
    parts[1] = [one for one in parts[1] if not (isinstance(one, Batch | Epoch) and one.phase == "val")]
    parts[1][-1] = replace(parts[1][-1], counts=dict(Counter(one.kind for one in parts[1][:-1])))
    with open_run(written(tmp_path / "run", parts)) as run:
        found = keys(list(run.blocks()))
    expected = [(0, "train", 0), (0, "train", 1), (0, "train", "sums"), (0, "val", 0), (0, "val", "sums"), (1, "train", 0)]
    assert found[3:9] == expected


def test_more_epochs_go_on_behind_the_first_end(tmp_path: Path) -> None:
    """Completed, then resumed: one run record and one end for each part, whatever file comes first."""
    parts = split(whole(), 2)
    longer = []
    for part in parts:
        again = [replace(one, epoch=one.epoch + 3) if isinstance(one, Batch | Epoch) else one for one in part[:-1]]
        records = [*part, *again]
        longer.append([*records, End(status="completed", counts=dict(Counter(one.kind for one in records)))])
    with open_run(written(tmp_path / "run", longer)) as run:
        found = keys(list(run.blocks()))
    assert [key for key in found if key in ("RunInfo", "End")] == ["RunInfo", "End"] * 2
    middle = found.index("End")
    assert found[middle - 1] == (2, "val", "sums")
    assert found[middle + 1 : middle + 3] == ["RunInfo", (3, "train", 0)]


@pytest.mark.parametrize("task", [None, "multilabel", "regression", "sequence"])
def test_sums_of_any_task(tmp_path: Path, task: str | None) -> None:
    """Where there is no accuracy there is none of the sum; a phase without samples counts nothing."""
    parts = [list(task_records(task, seed=seed)) for seed in range(2)]
    place, empty = next((i, one) for i, one in enumerate(parts[1]) if isinstance(one, Epoch))
    parts[1][place] = replace(empty, n=0, loss=float("nan"), accuracy=None, captured=0)
    parts[1] = parts[1][:1] + [one for one in parts[1][1:] if not (isinstance(one, Batch | Numbers) and one.epoch == 0)]
    counts = dict(Counter(one.kind for one in parts[1][:-1]))
    parts[1][-1] = End(status="completed", counts=counts)
    with open_run(written(tmp_path / "run", parts)) as run:
        sums = [block for block in run.blocks() if isinstance(block, Epoch)]
    alone = [one for one in parts[0] if isinstance(one, Epoch)]
    assert sums[0] == alone[0]
    assert (sums[-1].n, sums[-1].loss, sums[-1].accuracy) == (2 * alone[-1].n, 1.0, alone[-1].accuracy)


def sums_last(part: Sequence[Record]) -> list[Record]:
    """The records in the order in which a recorder writes them that ends an epoch when the next begins."""
    ordered: list[Record] = []
    sums: list[Epoch] = []
    for record in part:
        if isinstance(record, Epoch):
            sums.append(record)
        elif isinstance(record, End) or (isinstance(record, Batch) and sums and record.epoch > sums[-1].epoch):
            ordered += [*sums, record]
            sums = []
        else:
            ordered.append(record)
    return ordered


@pytest.mark.parametrize("late_sums", [False, True])
@pytest.mark.parametrize("in_new_process", [False, True])
def test_several_files_are_followed(tmp_path: Path, in_new_process: bool, late_sums: bool) -> None:
    """Each file grows at its own pace; sums wait for all, nothing comes twice, and the order of phases holds."""
    folder = tmp_path / "run"
    records = [sums_last(part) if late_sums else part for part in split(whole(), 3)]
    parts = [[(i, line) for line in chained(part)] for i, part in enumerate(records)]
    written(folder, [[], [], []])
    draw = np.random.default_rng(0)
    run: Run = open_run(folder)
    found: list[Block] = []
    cursor: Cursor | None = None
    while any(parts):
        rank = int(draw.choice([i for i, part in enumerate(parts) if part]))
        _, line = parts[rank].pop(0)
        with (folder / ("records.jsonl" if not rank else f"records-rank{rank}.jsonl")).open("ab") as file:
            file.write(line)
        if in_new_process:
            run.close()
            run = open_run(folder)
        found += run.follow(cursor)
        cursor = Cursor.from_json(json.loads(json.dumps(run.cursor.to_json())))
    blocks = list(open_run(folder).blocks())
    sums = [block for block in found if isinstance(block, Epoch | End)]
    assert [(type(one), vars_of(one)) for one in sums] == [
        (type(one), vars_of(one)) for one in blocks if isinstance(one, Epoch | End)
    ]
    count = Counter(line.data for block in found if isinstance(block, Visits) for line in block.lines)
    assert count == Counter(line.data for block in blocks if isinstance(block, Visits) for line in block.lines)
    assert set(count.values()) == {1}
    assert len([one for one in sums if isinstance(one, Epoch)]) == 6
    places = [(block.epoch, "" if late_sums else block.phase) for block in found if isinstance(block, Visits | Epoch)]
    assert places == sorted(places)
    assert sum(isinstance(block, RunInfo) for block in found) == 1
    assert isinstance(found[0], RunInfo)
    if not in_new_process:
        assert sum(len(block.ids) for block in found if isinstance(block, Samples)) == 120


def vars_of(record: Epoch | End) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__}


def test_the_first_file_may_be_the_empty_one(tmp_path: Path) -> None:
    """The run record is that of the first file that has one."""
    parts = split(whole(), 2)
    with open_run(written(tmp_path / "run", [[], parts[1]])) as run:
        assert run.info == parts[1][0]
        assert isinstance(next(run.blocks()), RunInfo)


def test_a_cursor_of_other_files_is_refused(tmp_path: Path) -> None:
    """Instead of reading from the wrong place, or all again."""
    two = open_run(written(tmp_path / "two", split(whole(), 2)))
    one = open_run(written(tmp_path / "one", split(whole(), 1)))
    list(two.follow())
    list(one.follow())
    for run, cursor in ((one, two.cursor), (two, one.cursor)):
        with pytest.raises(UsageError, match="the cursor is not one of"):
            list(run.follow(cursor))
        assert len(list(run.follow(Cursor()))) > 10


def test_processes_with_a_recorder_each_write_one_run(
    tmp_path: Path, capture: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Two real processes record at the same time, each its share; commands read the folder as one run."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from capture_cli import Recorder
from recordings import batch_of
rank = int(sys.argv[1])
with Recorder("records-rank1.jsonl" if rank else "records.jsonl", classes=["a", "b", "c"]) as recorder:
    for epoch in range(2):
        for phase in ("train", "val"):
            recorder.record(**batch_of(6, 3, first=6 * rank, epoch=epoch, phase=phase, seed=rank))
"""
    folder = tmp_path / "run"
    folder.mkdir()
    both = [subprocess.Popen([CAPTURE[0], "-c", code, str(rank)], cwd=folder) for rank in range(2)]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    with open_run(folder) as run:
        ids = [visits["id"].tolist() for visits in run.visits(phase="val", epochs=[1])]
        assert ids == [list(range(6)), list(range(6, 12))]
        sums = [(block.epoch, block.phase, block.n) for block in run.blocks() if isinstance(block, Epoch)]
        assert sums == [(epoch, phase, 12) for epoch in range(2) for phase in ("train", "val")]
    done = capture("inspect", "run", "--json")
    assert done.returncode == 0, done.stderr
    verified = capture("verify", "run")
    assert verified.returncode == 0, verified.stderr
    damaged = capture("verify", "run", "--repair", "saved.jsonl")
    assert damaged.returncode == 2
    assert "run has 2 files; repair them one by one, as run/records.jsonl" in damaged.stderr
    assert not (tmp_path / "saved.jsonl").exists()
