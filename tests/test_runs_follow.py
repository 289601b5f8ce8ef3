"""Follow a run while it is written: each block once, whatever happens to the file in between."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import End, Epoch, Record, RunInfo
from capture_cli.runs import Block, Cursor, RewrittenError, Run, Visits, open_run
from conftest import CAPTURE
from holding import held_at, held_model, let_go
from runs import chained, run_records, write_run


def same(blocks: list[Block]) -> list[object]:
    """Blocks in a form that can be compared, batch by batch: how batches are grouped depends on when they arrived."""
    found: list[object] = []
    for block in blocks:
        found += [line.data for line in block.lines] if isinstance(block, Visits) else [repr(block)]
    return found


def through_json(run: Run) -> Cursor:
    return Cursor.from_json(json.loads(json.dumps(run.cursor.to_json())))


@pytest.fixture
def lines() -> list[bytes]:
    """Lines of a small run."""
    return chained(run_records(per_class=2, batch_size=3, epochs=2))


@pytest.mark.parametrize("again", [False, True])
def test_each_block_comes_once_as_the_file_grows(tmp_path: Path, lines: list[bytes], again: bool) -> None:
    """However a file grows, also by half lines, and whether one process reads on or another takes over."""
    path = tmp_path / "run.jsonl"
    data = b"".join(lines)
    path.touch()
    run, found, cursor = open_run(path), [], None
    for start in range(0, len(data), 777):
        with path.open("ab") as file:
            file.write(data[start : start + 777])
        if again:
            run.close()
            run = open_run(path)
        found += list(run.follow(cursor))
        cursor = through_json(run)
    assert (run.ending.state, run.ending.bytes, run.ending.counts["run"]) == ("sealed", len(data), 1)
    assert (cursor.at.bytes, cursor.at.seq) == (len(data), len(lines))
    assert list(run.follow(cursor)) == []
    assert same(found) == same(list(open_run(path).blocks()))
    assert [block.info.classes for block in found if isinstance(block, Visits)][-1] == run.info.classes


def test_the_cursor_is_behind_the_block_yielded_last(tmp_path: Path) -> None:
    """A reader that stops anywhere resumes with the next block."""
    path = write_run(tmp_path / "run")
    whole = same(list(open_run(path).blocks()))
    found: list[Block] = []
    run = open_run(path)
    while (block := next(run.follow(run.cursor), None)) is not None:
        found.append(block)
    assert same(found) == whole


def test_batches_after_a_cursor_have_the_run_record_in_force(tmp_path: Path) -> None:
    """A completed run that got more epochs has a second run record; visits after it belong to that."""
    first, *rest = list(run_records(epochs=1))
    assert isinstance(first, RunInfo)
    second = RunInfo(**{name: getattr(first, name) for name in RunInfo.__slots__} | {"threads": 7})
    counts = {**rest[-1].counts, "end": 1, "run": 2} if isinstance(rest[-1], End) else {}
    for kind in ("batch", "epoch", "samples", "skip"):
        counts[kind] *= 2
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(chained([first, *rest, second, *rest[:-1], End(status="completed", counts=counts)])))
    run = open_run(path)
    threads = []
    while (block := next(run.follow(through_json(run)), None)) is not None:
        if isinstance(block, Visits):
            threads.append(block.info.threads)
    assert set(threads[: len(threads) // 2]) == {1}
    assert set(threads[len(threads) // 2 :]) == {7}
    assert run.ending.state == "sealed"


def test_nothing_yet_is_no_error_and_damage_is(tmp_path: Path, lines: list[bytes]) -> None:
    """An empty file has no blocks yet; a line that does not verify ends following with an error, after those before it."""
    path = tmp_path / "run.jsonl"
    path.touch()
    run = open_run(path)
    assert list(run.follow()) == []
    path.write_bytes(b"".join(lines[:5]) + lines[5][:100])
    before = list(run.follow(run.cursor))
    assert run.ending.state == "torn"
    path.write_bytes(b"".join(lines[:5]) + lines[5].replace(b"e", b"E", 1))
    with pytest.raises(RecordsError, match="line 6"):
        list(run.follow(run.cursor))
    assert (len(same(before)), run.cursor.at.seq) == (5, 5)


def test_a_run_that_was_overwritten_is_noticed(tmp_path: Path, lines: list[bytes]) -> None:
    """Other lines before the cursor, fewer of them or none: following stops and says that reading must start again."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(lines[:6]))
    run = open_run(path)
    assert len(list(run.follow())) > 2
    other = chained(run_records(per_class=2, batch_size=3, epochs=2, seed=1))
    for now in (other, lines[:5], []):
        path.write_bytes(b"".join(now))
        with pytest.raises(RewrittenError, match="has changed since it was read"):
            next(run.follow(run.cursor))
    path.write_bytes(b"".join(other))
    assert same(list(run.follow(None))) == same(list(open_run(path).blocks()))


def interrupted(records: Iterator[Record], batches: int) -> list[bytes]:
    """A run that was interrupted after so many batches, its end line last."""
    kept: list[Record] = []
    for record in records:
        kept.append(record)
        if sum(one.kind == "batch" for one in kept) == batches:
            break
    counts = {kind: sum(one.kind == kind for one in kept) for kind in {one.kind for one in kept}}
    return chained([*kept, End(status="interrupted", counts=counts)])


@pytest.mark.parametrize("when", ["before", "between", "while"])
def test_an_end_that_was_taken_off_is_passed_over(tmp_path: Path, lines: list[bytes], when: str) -> None:
    """A run that was interrupted is resumed before the next look, between two, or while a reader stands in the middle."""
    path = tmp_path / "run.jsonl"
    cut = interrupted(run_records(per_class=2, batch_size=3, epochs=2), 2)
    assert cut[:-1] == lines[: len(cut) - 1]
    path.write_bytes(b"".join(cut))
    run = open_run(path)
    found = []
    for block in run.follow():
        found.append(block)
        if when == "while" and len(found) == 1:
            path.write_bytes(b"".join(lines))
    assert isinstance(found.pop(), End)
    assert run.ending.status == "interrupted"
    if when == "between":
        path.write_bytes(b"".join(cut[:-1]))
        assert list(run.follow(run.cursor)) == []
        assert run.ending.state == "unsealed"
    path.write_bytes(b"".join(lines))
    found += run.follow(through_json(run))
    assert same(found) == same(list(open_run(path).blocks()))
    assert (run.ending.state, run.ending.status) == ("sealed", "completed")


def test_what_was_read_for_the_run_record_does_not_get_in_the_way(tmp_path: Path, lines: list[bytes]) -> None:
    """`info` reads the beginning; the file may have been resumed before the rest is read."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(interrupted(run_records(per_class=2, batch_size=3, epochs=2), 2)))
    other, run = open_run(path), open_run(path)
    list(other.follow())
    assert run.info.classes
    path.write_bytes(b"".join(lines))
    assert list(run.follow(other.cursor))
    assert same(list(run.blocks())) == same(list(open_run(path).blocks()))


def test_a_pipe_with_a_name_has_no_place_to_resume_from(tmp_path: Path, lines: list[bytes]) -> None:
    """Such as the shell makes for `<(zcat run.jsonl.gz)`."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "fifo").open("r+b", buffering=0) as fifo:
        fifo.write(b"".join(lines[:3]))
        run = open_run(tmp_path / "fifo")
        (tmp_path / "run.jsonl").write_bytes(b"".join(lines))
        other = open_run(tmp_path / "run.jsonl")
        list(other.follow())
        with pytest.raises(UsageError, match="has no place to resume from"):
            list(run.follow(other.cursor))


@pytest.mark.parametrize("damaged", [False, True])
def test_stdin_can_be_followed_once(damaged: bool) -> None:
    """A pipe has no place to go back to, and damage on it is damage."""
    source, sink = os.pipe()
    data = b"".join(chained(run_records(per_class=2)))
    os.write(sink, data + b"damage\n" * damaged)
    os.close(sink)
    code = """
from capture_cli.runs import open_run
run = open_run("-")
blocks = list(run.follow())
print(len(blocks), run.cursor.at.bytes)
list(run.follow(run.cursor))
"""
    done = subprocess.run([CAPTURE[0], "-c", code], stdin=source, capture_output=True, text=True, timeout=60, check=False)
    os.close(source)
    assert done.stdout.split()[1:] == [str(len(data))][damaged:]
    assert ("stdin: line" if damaged else "stdin can be read only once") in done.stderr


@pytest.mark.parametrize(
    "values",
    [{}, [], None, {"at": 3}, *({**Cursor().to_json(), "at": at} for at in ([1, 2], [-1, 0, "00" * 16], [0, 0, "00"]))],
)
def test_what_is_no_cursor_is_refused(values: object) -> None:
    """A cursor from elsewhere is one line, not a traceback."""
    with pytest.raises(UsageError, match="is not a cursor"):
        Cursor.from_json(values)  # type: ignore[arg-type]


def test_a_training_that_is_interrupted_and_resumed_is_followed(
    images: Path, capture: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The real thing: Ctrl-C in the middle, an end line, `--resume`, and a reader that sees every batch once."""
    place, folder = images.parent, images.parent / "run"
    options = ["images", "-m", held_model(place), "-b", "4", "--device=cpu", "-q", "-e", "20", "-o", "run"]
    command, found = [*CAPTURE, "train", *options, "--checkpoint-every=7"], list[Block]()
    with subprocess.Popen(command, cwd=place, env=held_at(50), start_new_session=True) as process:
        while not (folder / "records.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.005)
        run = open_run(folder)
        while not (place / "held").exists():  # before, while and after records are written
            assert process.poll() is None
            found += run.follow(run.cursor)
        found += run.follow(run.cursor)
        assert any(isinstance(block, Epoch) and block.epoch > 5 for block in found)
        os.killpg(process.pid, signal.SIGINT)
        let_go(place)
    found += run.follow(run.cursor)
    assert process.returncode == 130
    assert isinstance(found.pop(), End)
    done = capture("train", "--resume", "run", "-q")
    assert done.returncode == 0, done.stderr
    found += run.follow(through_json(run))
    assert same(found) == same(list(open_run(folder).blocks()))
    assert (run.ending.state, run.ending.status) == ("sealed", "completed")
