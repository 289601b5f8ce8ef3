"""Where a recorder writes and what ends it: paths in use, a full disk, close, errors of the loop, Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from capture_cli import CaptureError, Recorder
from capture_cli.errors import UsageError
from recordings import batch_of, records, verified


class TestOutput:
    """Output paths."""

    def test_an_existing_file_is_kept(self, tmp_path: Path) -> None:
        """It is overwritten only with `force`; the hint offers both."""
        (tmp_path / "r.jsonl").write_text("mine")
        with pytest.raises(UsageError, match=r"r.jsonl' exists") as caught:
            Recorder(tmp_path / "r.jsonl")
        assert "force=True" in caught.value.hint
        assert (tmp_path / "r.jsonl").read_text() == "mine"
        Recorder(tmp_path / "r.jsonl", force=True).close()
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_a_second_recorder_on_the_same_file_is_refused(self, tmp_path: Path) -> None:
        """In another process, even with force. The first continues and its records verify."""
        path = tmp_path / "r.jsonl"
        with Recorder(path) as recorder:
            recorder.record(**batch_of(4, 3))
            code = f"from capture_cli import Recorder; Recorder({str(path)!r}, force=True)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
            assert done.returncode == 1
            assert "is being written by another run" in done.stderr.splitlines()[-1]
            recorder.record(**batch_of(4, 3, first=4))
        assert verified(path) == "completed"
        assert len(records(path, "batch")) == 2

    def test_a_second_recorder_in_the_same_process_is_refused(self, tmp_path: Path) -> None:
        """Even with force, although a process does not lock itself out. The first continues and its records verify."""
        path = tmp_path / "r.jsonl"
        with Recorder(path) as recorder:
            recorder.record(**batch_of(4, 3))
            for force in (False, True):
                with pytest.raises(CaptureError):
                    Recorder(path, force=force)
            recorder.record(**batch_of(4, 3, first=4))
        assert verified(path) == "completed"
        Recorder(path, force=True).close()  # now it may be overwritten

    @pytest.mark.parametrize("place", ["missing/r.jsonl", "file/run", "file/r.jsonl"])
    def test_a_path_that_cannot_be_written_is_named(self, tmp_path: Path, place: str) -> None:
        """A missing folder, and a file in place of a folder."""
        (tmp_path / "file").write_text("")
        with pytest.raises(CaptureError) as caught:
            Recorder(tmp_path / place)
        assert "r.jsonl" in caught.value.message or "file" in caught.value.message
        assert "-o" not in caught.value.hint, "the hint is for the command line"

    def test_a_folder_that_is_no_run_is_left_alone(self, tmp_path: Path) -> None:
        """It may belong to anybody."""
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/a.png").write_text("")
        with pytest.raises(CaptureError, match="not empty and not a run folder"):
            Recorder(tmp_path / "photos", force=True)

    def test_all_inputs_need_a_folder(self, tmp_path: Path) -> None:
        """The hint names the argument of the recorder."""
        with pytest.raises(UsageError, match="needs a run folder") as caught:
            Recorder(tmp_path / "r.jsonl", inputs="all")
        assert "FILE.jsonl" in caught.value.hint

    def test_a_forked_process_writes_nothing(self, tmp_path: Path) -> None:
        """Neither by recording nor by leaving the `with` block: the file belongs to the parent."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    recorder.record(**batch_of(4, 3))
                except UsageError:
                    recorder.close()
                    code = 0
                os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            recorder.record(**batch_of(4, 3, epoch=1))
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert [one.kind for one in records(tmp_path / "r.jsonl")] == ["run", "batch", "epoch", "batch", "epoch", "end"]

    def test_a_full_disk_is_an_error_and_what_was_written_verifies(self, tmp_path: Path) -> None:
        """A limit on file size stands in for it: the record that does not fit is removed whole."""
        code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from capture_cli import CaptureError, Recorder
from capture_cli.recorder import validation
from recordings import batch_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with Recorder("r.jsonl") as recorder:
        for number in range(100):
            recorder.record(**batch_of(16, 10, first=16 * number))
except CaptureError as error:
    print(error.message)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert "could not be written to 'r.jsonl': File too large" in done.stdout, done.stderr
        assert 2 <= len(records(tmp_path / "r.jsonl", "batch")) < 100


class TestClosed:
    """A closed recorder."""

    @pytest.mark.parametrize("use", ["record", "watch", "loader", "end_phase", "flush"])
    def test_it_accepts_nothing(self, tmp_path: Path, use: str) -> None:
        """The message is one line, and the records stay as they were sealed. `flush` does nothing."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
        before = (tmp_path / "r.jsonl").read_bytes()
        uses: dict[str, Callable[[], object]] = {
            "record": lambda: recorder.record(**batch_of(4, 3, first=4)),
            "watch": lambda: recorder.watch(torch.nn.CrossEntropyLoss()),
            "loader": lambda: recorder.loader([]),
            "end_phase": recorder.end_phase,
            "flush": recorder.flush,
        }
        if use == "flush":
            recorder.flush()
        else:
            with pytest.raises(UsageError, match=r"is closed|has no batch since"):
                uses[use]()
        recorder.close()
        assert (tmp_path / "r.jsonl").read_bytes() == before

    @pytest.mark.parametrize("status", ["completed", "interrupted", "failed"])
    def test_close_takes_a_status(self, tmp_path: Path, status: str) -> None:
        """Without `with`, the status is an argument; other words are refused."""
        recorder = Recorder(tmp_path / "r.jsonl")
        with pytest.raises(UsageError, match="status='done' is not valid"):
            recorder.close("done")
        recorder.close(status)
        assert verified(tmp_path / "r.jsonl") == status

    @pytest.mark.parametrize(
        ("error", "status"),
        [(ValueError, "failed"), (UsageError, "failed"), (KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted")],
    )
    def test_the_status_says_what_ended_the_block(self, tmp_path: Path, error: type[BaseException], status: str) -> None:
        """The error reaches the caller unchanged, and the sums of the open phase are written."""

        def loop() -> None:
            with Recorder(tmp_path / "r.jsonl") as recorder:
                recorder.record(**batch_of(4, 3))
                raise error("mine")

        with pytest.raises(error, match="mine"):
            loop()
        assert verified(tmp_path / "r.jsonl") == status
        assert records(tmp_path / "r.jsonl", "epoch")[0].n == 4


@pytest.mark.parametrize("folder", [False, True])
def test_ctrl_c_at_any_moment_leaves_records_that_verify(tmp_path: Path, folder: bool) -> None:
    """After hundreds of SIGINTs: sealed as interrupted, with the sums of the batches written."""
    given = [batch_of(8, 5, seed=seed, first=8 * seed) for seed in range(400)]
    ended = 0
    for number in range(150):
        path = tmp_path / (f"{number}" if folder else f"{number}.jsonl")
        try:
            with Recorder(path, inputs="all" if folder else 1) as recorder:
                timer = threading.Timer(0.0005 * (1 + number % 40), os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                try:
                    for one in given:
                        recorder.record(**one)
                    time.sleep(1)
                finally:
                    timer.join()
        except KeyboardInterrupt:
            ended += 1
        assert verified(path) == "interrupted"
        batches = records(path, "batch")
        assert [batch.batch for batch in batches] == list(range(len(batches)))
        assert [batch.step for batch in batches] == list(range(len(batches)))
        assert sum(epoch.n for epoch in records(path, "epoch")) == 8 * len(batches)
    assert ended == 150


def test_a_loop_that_catches_ctrl_c_can_continue(tmp_path: Path) -> None:
    """An interrupted write is removed or counted, and later batches follow."""

    class Breaking:
        """A sink that Ctrl-C interrupts after the line was written."""

        def begin(self, output: object) -> None:
            pass

        def write(self, record: Any, _inputs: object) -> None:
            if record.kind == "batch" and record.batch == 1:
                raise KeyboardInterrupt

        def close(self) -> None:
            pass

    with Recorder(tmp_path / "r.jsonl", sinks=[Breaking()]) as recorder:
        recorder.record(**batch_of(4, 3))
        with pytest.raises(KeyboardInterrupt):
            recorder.record(**batch_of(4, 3, first=4))
        recorder.record(**batch_of(4, 3, first=8))
        with pytest.raises(UsageError, match="ids: 4 comes twice"):
            recorder.record(**batch_of(4, 3, first=4))
    assert verified(tmp_path / "r.jsonl") == "completed"
    assert [batch.batch for batch in records(tmp_path / "r.jsonl", "batch")] == [0, 1, 2]
    assert records(tmp_path / "r.jsonl", "epoch")[0].n == 12
