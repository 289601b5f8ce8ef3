"""The journal: one write per record, nothing torn, nothing overwritten, one writer."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import capture_cli.journal
from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.journal import BEGINNING, Journal
from capture_cli.records import Skip
from capture_cli.records.chain import GENESIS, link, open_envelope
from capture_cli.runs import open_run


def verified(path: Path) -> int:
    """Count the lines of a file, checking that all are whole, in sequence and chained."""
    chain, lines = GENESIS, path.read_bytes().splitlines(keepends=True)
    for seq, line in enumerate(lines):
        assert line.endswith(b"\n")
        envelope = open_envelope(line)
        assert envelope.seq == seq
        chain = link(chain, envelope.text)
        assert envelope.chain == chain
    return len(lines)


def python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)], capture_output=True, text=True, timeout=60
    )


def test_an_appended_record_survives_a_kill(tmp_path: Path) -> None:
    """`append` writes straight to the file, so a kill right after it loses nothing."""
    path = tmp_path / "records.jsonl"
    code = """
        import os, signal, sys
        from pathlib import Path
        from capture_cli.journal import Journal
        from capture_cli.records import Skip
        journal = Journal.create(Path(sys.argv[1]))
        for number in range(50):
            journal.append(Skip(file=str(number), reason="test"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(code, path).returncode == -9
    assert verified(path) == 50


def test_the_seal_counts_the_lines_before_it(tmp_path: Path) -> None:
    """The end line holds the status and the lines by kind."""
    path = tmp_path / "records.jsonl"
    with Journal.create(path) as journal:
        journal.append(Skip(file="a", reason="test"))
        journal.seal("completed")
    assert verified(path) == 2
    assert b'"status":"completed","counts":{"skip":1}' in path.read_bytes()


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    """Only `force` overwrites, from the beginning."""
    path = tmp_path / "records.jsonl"
    path.write_text("precious\n")
    with pytest.raises(UsageError, match=r"records\.jsonl' exists"):
        Journal.create(path)
    assert path.read_text() == "precious\n"
    Journal.create(path, force=True).close()
    assert path.read_bytes() == b""


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    """A dangling link planted in place of the file does not redirect the records."""
    (tmp_path / "records.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaptureError):
        Journal.create(tmp_path / "records.jsonl")
    assert not (tmp_path / "elsewhere").exists()


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    """The second process is refused, even with force, and the first one's records stay."""
    path = tmp_path / "records.jsonl"
    code = """
        import sys
        from pathlib import Path
        from capture_cli.journal import Journal
        Journal.create(Path(sys.argv[1]), force=True)
    """
    with Journal.create(path) as journal:
        journal.append(Skip(file="a", reason="test"))
        second = python(code, path)
    assert "being written by another run" in second.stderr
    assert verified(path) == 1


def test_reading_a_file_does_not_unlock_it(tmp_path: Path) -> None:
    """A notebook may look at the run that it writes; the lock of the file stays, for this process and for others."""
    path = tmp_path / "records.jsonl"
    code = """
        import sys
        from pathlib import Path
        from capture_cli.journal import Journal
        Journal.create(Path(sys.argv[1]), force=True)
    """
    with Journal.create(path) as journal:
        journal.append(Skip(file="a", reason="test"))
        path.read_bytes()
        with open_run(path) as run:
            list(run.lines())
        assert "being written by another run" in python(code, path).stderr
        with pytest.raises(CaptureError, match="being written by another run"):
            Journal.create(path, force=True)
        with pytest.raises(CaptureError, match="being written by another run; wait for its end, or stop it first"):
            Journal.resume(path, BEGINNING)
    Journal.create(path, force=True).close()


def test_a_process_that_was_forked_does_not_unlock_or_write(tmp_path: Path) -> None:
    """It closes its copy of the file, and the lock stays with the one that writes."""
    path = tmp_path / "records.jsonl"
    with Journal.create(path) as journal:
        child = os.fork()
        if child == 0:
            try:
                journal.append(Skip(file="b", reason="test"))
            except OSError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (1, 7)
        with pytest.raises(CaptureError, match="being written by another run"):
            Journal.create(path, force=True)
        journal.append(Skip(file="a", reason="test"))
    assert verified(path) == 1


@pytest.mark.parametrize("ends", ["sync", "seal", "append"])
def test_a_file_that_is_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """Nobody could read what is written there: it is told within a second, and the run does not count as completed."""
    monkeypatch.setattr(capture_cli.journal, "SYNC_EVERY_SECONDS", 0.0)
    path = tmp_path / "records.jsonl"
    with Journal.create(path) as journal:
        journal.append(Skip(file="a", reason="test"))
        path.unlink()
        ending = {"sync": journal.sync, "seal": lambda: journal.seal("completed")}.get(ends)
        ending = ending or (lambda: [journal.append(Skip(file="a", reason="test")) for _ in range(10_000)])
        with pytest.raises(CaptureError, match=r"records.jsonl' was removed while it was being written; start the run again"):
            ending()


def test_a_leftover_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    """A worker that outlives its killed trainer does not lock others out."""
    path = tmp_path / "records.jsonl"
    code = """
        import os, signal, sys, time
        from pathlib import Path
        from capture_cli.journal import Journal
        journal = Journal.create(Path(sys.argv[1]))
        if os.fork() == 0:
            os.close(1); os.close(2)
            time.sleep(20)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(code, path).returncode == -9
    Journal.create(path, force=True).close()


def test_a_full_disk_ends_the_file_with_its_last_whole_line(tmp_path: Path) -> None:
    """The part of a line that still fitted is undone, the error names the file, and the journal refuses more."""
    path = tmp_path / "records.jsonl"
    code = """
        import resource, sys
        from pathlib import Path
        from capture_cli.errors import CaptureError
        from capture_cli.journal import Journal
        from capture_cli.records import Skip
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        journal = Journal.create(Path(sys.argv[1]))
        for number in range(1000):
            try:
                journal.append(Skip(file=str(number), reason="test"))
            except CaptureError as error:
                print(number, error)
                break
        try:
            journal.seal("failed")
        except CaptureError as error:
            print("refused")
    """
    done = python(code, path)
    first, second = done.stdout.splitlines()
    assert str(path) in first
    assert second == "refused"
    assert verified(path) == int(first.split()[0]) > 5


def test_a_failed_fdatasync_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have dropped the pages, and a second call would report success: the journal keeps failing."""
    journal = Journal.create(tmp_path / "records.jsonl")
    journal.append(Skip(file="a", reason="test"))

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(CaptureError, match="durable"):
        journal.sync()
    monkeypatch.undo()
    with pytest.raises(CaptureError, match="durable"):
        journal.sync()
    with pytest.raises(CaptureError, match="durable"):
        journal.append(Skip(file="b", reason="test"))
    journal.close()


def test_a_pipe_receives_whole_lines(tmp_path: Path) -> None:
    """Without lock or sync; BrokenPipeError once nobody reads."""
    reading, writing = os.pipe()
    journal = Journal(writing, "a pipe")
    journal.append(Skip(file="a", reason="test"))
    journal.sync()
    line = os.read(reading, 1000)
    assert open_envelope(line).chain == link(GENESIS, open_envelope(line).text)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        journal.append(Skip(file="b", reason="test"))
    journal.close()


def written(path: Path, names: list[str], status: str = "") -> dict[str, object]:
    """Write one record per name, seal if there is a status; return the position after the second record."""
    with Journal.create(path) as journal:
        for number, name in enumerate(names):
            if number == 2:
                position = journal.position
            journal.append(Skip(file=name, reason="test"))
        if status:
            journal.seal(status)
    return position


@pytest.mark.parametrize("status", ["", "interrupted", "failed"])
@pytest.mark.parametrize("from_position", [True, False])
def test_resuming_compares_the_records_on_disk_and_appends_the_rest(tmp_path: Path, status: str, from_position: bool) -> None:
    """The file ends with the bytes of a run that was never interrupted; an unfinished end is copied aside."""
    path, whole = tmp_path / "records.jsonl", tmp_path / "whole.jsonl"
    position = written(path, ["a", "b", "c"], status)
    written(whole, ["a", "b", "c", "d", "e"], "completed")
    with Journal.resume(path, position if from_position else BEGINNING) as journal:
        assert journal.comparing
        for name in ["c", "d", "e"] if from_position else ["a", "b", "c", "d", "e"]:
            journal.append(Skip(file=name, reason="test"))
        journal.seal("completed")
    assert path.read_bytes() == whole.read_bytes()
    assert (tmp_path / "records.jsonl.cut-0").exists() == bool(status)


def test_a_torn_last_line_is_copied_aside_then_removed(tmp_path: Path) -> None:
    """The torn bytes are kept in a file beside the records."""
    path = tmp_path / "records.jsonl"
    position = written(path, ["a", "b", "c"])
    with path.open("ab") as file:
        file.write(b'{"seq":3,"ki')
    Journal.resume(path, position).close()
    assert verified(path) == 3
    assert (tmp_path / "records.jsonl.cut-0").read_bytes() == b'{"seq":3,"ki'


def test_a_record_that_differs_stops_the_run(tmp_path: Path) -> None:
    """The error names the record and its field, and the file stays as it was."""
    path = tmp_path / "records.jsonl"
    position = written(path, ["a", "b", "c"])
    before = path.read_bytes()
    with Journal.resume(path, position) as journal, pytest.raises(RecordsError, match=r"record 2 .* differs in 'reason'"):
        journal.append(Skip(file="c", reason="other"))
    assert path.read_bytes() == before


def test_damage_before_the_end_is_refused_by_its_line(tmp_path: Path) -> None:
    """A damaged line in the middle is no torn end: nothing is removed, and the line is named."""
    path = tmp_path / "records.jsonl"
    position = written(path, ["a", "b", "c"])
    damaged = path.read_bytes().replace(b'"b"', b'"x"')
    path.write_bytes(damaged)
    with pytest.raises(RecordsError, match="line 2"):
        Journal.resume(path, position)
    assert path.read_bytes() == damaged


def test_a_position_in_other_records_is_refused(tmp_path: Path) -> None:
    """A checkpoint of another run does not fit."""
    written(tmp_path / "one.jsonl", ["a", "b", "c"])
    position = written(tmp_path / "other.jsonl", ["x", "y", "z"])
    with pytest.raises(RecordsError, match="does not belong to the records"):
        Journal.resume(tmp_path / "one.jsonl", position)


def test_a_resumed_journal_keeps_its_lock_while_and_after_comparing(tmp_path: Path) -> None:
    """Reading the file to compare does not release the lock."""
    path = tmp_path / "records.jsonl"
    position = written(path, ["a", "b", "c"])
    code = """
        import sys
        from pathlib import Path
        from capture_cli.journal import Journal
        Journal.create(Path(sys.argv[1]), force=True)
    """
    with Journal.resume(path, position) as journal:
        assert "being written by another run" in python(code, path).stderr
        journal.append(Skip(file="c", reason="test"))
        assert not journal.comparing
        assert "being written by another run" in python(code, path).stderr


def test_a_slow_disk_delays_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread makes records durable every second; closing waits for it."""
    let_go, synced = threading.Event(), []

    def slow(fd: int) -> None:
        assert let_go.wait(timeout=60)
        synced.append(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    monkeypatch.setattr(capture_cli.journal, "SYNC_EVERY_SECONDS", 0)
    journal = Journal.create(tmp_path / "records.jsonl")
    for number in range(5):
        journal.append(Skip(file=str(number), reason="test"))
    assert len((tmp_path / "records.jsonl").read_bytes().splitlines()) == 5
    assert not synced
    let_go.set()
    journal.close()
    assert len(synced) == 1


def test_without_threads_records_are_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, the commit is done at once."""
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
    monkeypatch.setattr(capture_cli.journal, "SYNC_EVERY_SECONDS", 0.0)
    with Journal.create(tmp_path / "records.jsonl") as journal:
        for name in "abc":
            journal.append(Skip(file=name, reason="test"))
    assert len(synced) == 3
    assert verified(tmp_path / "records.jsonl") == 3


def test_a_failed_group_commit_is_raised_by_the_next_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the thread is not lost: the next record is refused, and so are all after it."""

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    monkeypatch.setattr(capture_cli.journal, "SYNC_EVERY_SECONDS", 0)
    journal = Journal.create(tmp_path / "records.jsonl")
    journal.append(Skip(file="first", reason="test"))
    while journal._syncing is not None and journal._syncing.is_alive():
        time.sleep(0.01)
    for name in ("second", "third"):
        with pytest.raises(CaptureError, match="durable"):
            journal.append(Skip(file=name, reason="test"))
    journal.close()
