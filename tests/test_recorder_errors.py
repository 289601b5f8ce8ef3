"""Arguments that do not fit raise an error that names them before anything is written; the records stay valid."""

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capture_cli import CaptureError, Recorder
from capture_cli.errors import UsageError
from capture_cli.recorder import validation
from capture_cli.writer import pending
from recordings import batch_of, records, verified

NAN = torch.full((4, 3), 0.5).index_fill(0, torch.tensor([2]), torch.nan)

UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "logits of one dimension": ({"logits": torch.rand(4)}, r"logits float32 \[4\] and labels int64 \[4\] do not fit"),
    "logits of pictures": ({"logits": torch.rand(4, 3, 8, 8)}, r"logits float32 \[4, 3, 8, 8\].*logits \[B, C\]"),
    "logits that are whole": ({"logits": torch.ones(4, 3).long()}, r"logits int64 \[4, 3\].*floating-point"),
    "logits that are no tensor": ({"logits": [[0.1, 0.2, 0.7]] * 4}, r"logits: a list is not a tensor"),
    "logits of numpy": ({"logits": np.ones((4, 3), np.float32)}, r"logits: a ndarray is not a tensor"),
    "logits of none": ({"logits": torch.rand(0, 3), "labels": torch.zeros(0).long()}, r"logits float32 \[0, 3\] are empty"),
    "logits wider than before": (
        {"logits": torch.rand(4, 5)},
        r"logits float32 \[4, 5\] have 5 classes, but those before had 3",
    ),
    "labels too few": ({"labels": torch.tensor([0, 1, 2])}, r"labels int64 \[3\] do not fit.*labels \[B\]"),
    "labels that are floats": ({"labels": torch.zeros(4)}, r"labels float32 \[4\] do not fit.*integers"),
    "labels that are probabilities": ({"labels": torch.full((4, 3), 0.5)}, r'sample 0 .* sum to 1.5.*task="multilabel"'),
    "labels that are texts": ({"labels": ["cat"] * 4}, r"labels: a list is not a tensor"),
    "labels elsewhere": ({"labels": torch.zeros(4, device="meta").long()}, r"labels are on meta, logits on cpu"),
    "a label too large": (
        {"labels": torch.tensor([0, 1, 3, 0])},
        r"train batch 1 of epoch 0: labels: 3 \(number 2\)",
    ),
    "a label below 0": (
        {"labels": torch.tensor([0, -1, 1, 0])},
        r"labels: -1 \(number 1\) is none of.*0 to 2",
    ),
    "logits that are NaN": (
        {"logits": NAN},
        r"batch 1 of epoch 0: logits are NaN or infinite: 1 of 4 samples, .* number 2",
    ),
    "logits that are NaN, and losses that are not": (
        {"logits": NAN, "losses": torch.ones(4)},
        r"logits are NaN or infinite: 1 of 4 samples",
    ),
    "inputs of another batch": (
        {"inputs": torch.rand(5, 3, 4, 4)},
        r"inputs float32 \[5, 3, 4, 4\] do not match the 4 samples",
    ),
    "inputs of one number": ({"inputs": torch.tensor(1.0)}, r"inputs float32 \[\] do not match the 4 samples"),
    "inputs that are a dict": ({"inputs": {"text": "a cat"}}, r"inputs: a dict is not a tensor"),
    "losses that are their mean": (
        {"losses": torch.tensor(1.5)},
        r'losses float32 \[\] are not one per sample, \[4\].*reduction="none"',
    ),
    "losses too many": ({"losses": torch.rand(4, 3)}, r"losses float32 \[4, 3\] are not one per sample"),
    "a loss for each": ({"loss": torch.rand(4)}, r"loss: float32 \[4\] is not a single number"),
    "a loss that is a text": ({"loss": "1.5"}, r"loss: '1.5' is not a single number"),
    "a learning rate that is a list": ({"lr": [0.1]}, r"lr: a list is not a finite number"),
    "a learning rate that is NaN": ({"lr": math.nan}, r"lr: nan is not a finite number"),
    "no ids": ({"ids": None}, r"ids: None is not a list of ids.*4 integers or 4 strings"),
    "too few ids": ({"ids": [10, 11, 12]}, r"ids: 3 ids for a batch of 4"),
    "one text for ids": ({"ids": "abcd"}, r"ids: 'abcd' is not a list of ids"),
    "one number for ids": ({"ids": 4}, r"ids: 4 is not a list of ids"),
    "ids of two kinds": ({"ids": [10, "b", 12, 13]}, r"ids are neither all integers .* nor all strings: 10"),
    "ids that are floats": ({"ids": torch.rand(4)}, r"ids are neither all integers"),
    "ids that are bools": ({"ids": [True, False, True, False]}, r"ids are neither all integers"),
    "ids that are paths": ({"ids": [Path("a")] * 4}, r"ids are neither all integers .*Path\('a'\)"),
    "an id that is too large": ({"ids": [2**64, 1, 2, 3]}, r"ids are neither all integers \(of 64 bits\)"),
    "ids in two dimensions": ({"ids": torch.ones(4, 1).long()}, r"ids are neither all integers"),
    "an id twice in a batch": ({"ids": [10, 11, 10, 12]}, r"ids: 10 comes twice in train epoch 0.*repeats=True"),
    "an id twice in an epoch": ({"ids": [10, 11, 12, 3]}, r"ids: 3 comes twice in train epoch 0"),
    "files too few": ({"files": ["a", "b"]}, r"files: 2 files for a batch of 4"),
    "files that are one text": ({"files": "abcd"}, r"files: 'abcd' is not a list of strings"),
    "files that are paths": ({"files": [Path("a")] * 4}, r"files: a list is not a list of strings"),
    "a column too short": ({"extra": {"source": ["x"]}}, r"extra\['source'\]: 1 values for a batch of 4"),
    "a column that is a text": ({"extra": {"source": "abcd"}}, r"extra\['source'\]: 'abcd' is not a column"),
    "a column that is a number": ({"extra": {"n": torch.tensor(4)}}, r"extra\['n'\]: no values for a batch of 4"),
    "a column with NaN": ({"extra": {"score": [1.0, math.nan, 0.0, 0.0]}}, r"extra\['score'\]: nan cannot be recorded"),
    "a column of objects": ({"extra": {"when": [object()] * 4}}, r"extra\['when'\]: a object cannot be recorded"),
    "a column with a large number": ({"extra": {"n": [2**70, 1, 2, 3]}}, r"extra\['n'\]: \d+ cannot be recorded.*64 bits"),
    "extra that is a list": ({"extra": [1, 2, 3, 4]}, r"extra: a list is not a mapping"),
    "a phase with a space": ({"phase": "my phase"}, r"phase='my phase' is not valid"),
    "a phase that is a number": ({"phase": 3}, r"phase=3 is not valid"),
    "an epoch below 0": ({"epoch": -1}, r"epoch=-1 is not valid"),
    "an epoch that is a float": ({"epoch": 1.0}, r"epoch=1.0 is not valid"),
    "an epoch that is too large": ({"epoch": 2**63}, r"epoch=\d+ is not valid"),
}


def said(error: CaptureError) -> str:
    """Return the line that the command line prints."""
    return f"{error.message}; {error.hint}"


def batch_with(unfit: dict[str, Any]) -> dict[str, Any]:
    """Return samples 10 to 13 with the argument that does not fit."""
    return batch_of(4, 3, first=10, seed=1) | unfit


@pytest.mark.parametrize("case", UNFIT)
def test_an_argument_that_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    """Nothing is written or counted, and the next batch is recorded as if it had never come."""
    unfit, pattern = UNFIT[case]
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        recorder.record(**batch_of(4, 3))
        before, step = path.read_bytes(), recorder.step
        with pytest.raises(UsageError) as caught:
            recorder.record(**batch_with(unfit))
        assert path.read_bytes() == before
        assert recorder.step == step
        assert re.search(pattern, said(caught.value)), said(caught.value)
        assert "\n" not in said(caught.value)
        recorder.record(**batch_of(4, 3, first=10, seed=1))
    assert verified(path) == "completed"
    with Recorder(tmp_path / "plain.jsonl") as recorder:
        recorder.record(**batch_of(4, 3))
        recorder.record(**batch_of(4, 3, first=10, seed=1))
    assert path.read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


@pytest.mark.parametrize(
    "case", [name for name in UNFIT if name not in ("logits wider than before", "an id twice in an epoch")]
)
def test_a_first_batch_that_does_not_fit_writes_nothing_at_all(tmp_path: Path, case: str) -> None:
    """Not even the run record: the file stays empty."""
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        with pytest.raises(UsageError):
            recorder.record(**batch_with(UNFIT[case][0]))
        assert path.read_bytes() == b""
    assert verified(path) == "completed"


def test_a_refused_batch_does_not_end_the_epoch_before(tmp_path: Path) -> None:
    """The sums of epoch 0 are written with a batch of epoch 1, not with one that is refused."""
    with Recorder(tmp_path / "r.jsonl") as recorder:
        recorder.record(**batch_of(4, 3))
        with pytest.raises(UsageError):
            recorder.record(**batch_of(4, 3, epoch=1) | {"labels": torch.tensor([9, 9, 9, 9])})
        assert records(tmp_path / "r.jsonl", "epoch") == []
        recorder.record(**batch_of(4, 3, first=4))
    (epoch,) = records(tmp_path / "r.jsonl", "epoch")
    assert (epoch.epoch, epoch.n) == (0, 8)


UNFIT_TASKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "sequence, classes in the middle": (
        "sequence",
        {"logits": torch.rand(4, 7, 5), "labels": torch.zeros(4, 5).long()},
        r"logits float32 \[4, 7, 5\] and labels int64 \[4, 5\].*logits.transpose\(1, 2\)",
    ),
    "sequence, flat": (
        "sequence",
        {"logits": torch.rand(20, 7), "labels": torch.zeros(20).long()},
        r'logits float32 \[20, 7\].*\[B, T, C\].*task="classification"',
    ),
    "sequence, label out of range": (
        "sequence",
        {"logits": torch.rand(4, 2, 7), "labels": torch.tensor([[-100, 1]] * 3 + [[2, 7]])},
        r"labels: 7 \(number 4\) is none of the 7 classes.*or -100 for padding",
    ),
    "sequence, NaN": (
        "sequence",
        {"logits": torch.full((4, 2, 7), torch.nan), "labels": torch.zeros(4, 2).long()},
        r"logits are NaN or infinite: 8 of 8 samples",
    ),
    "sequence, losses": (
        "sequence",
        {"logits": torch.rand(4, 2, 7), "labels": torch.zeros(4, 2).long(), "losses": torch.rand(8)},
        r"losses float32 \[8\] are not one per sample, \[4, 2\]",
    ),
    "classification, sequences": (
        "classification",
        {"logits": torch.rand(4, 2, 7), "labels": torch.zeros(4, 2).long()},
        r'logits float32 \[4, 2, 7\].*Recorder\(task="sequence"\)',
    ),
    "multilabel, 2": (
        "multilabel",
        {"labels": torch.tensor([[0.0, 1, 0], [0, 1, 2], [0, 0, 0], [1, 1, 1]])},
        r"labels: sample 1 has a target that is neither 0 nor 1",
    ),
    "multilabel, one label": ("multilabel", {}, r'labels int64 \[4\].*\[B, K\] or \[B\].*task="classification"'),
    "regression, shapes": ("regression", {"labels": torch.rand(4, 2)}, r"labels float32 \[4, 2\].*of the same shape"),
    "regression, NaN": (
        "regression",
        {"logits": NAN, "labels": torch.rand(4, 3)},
        r"logits are NaN or infinite: 1 of 4 samples",
    ),
}


@pytest.mark.parametrize("case", UNFIT_TASKS)
def test_every_task_says_what_it_expects(tmp_path: Path, case: str) -> None:
    """Shapes, labels and numbers of another task: nothing is written, and the hint says what fits."""
    task, unfit, pattern = UNFIT_TASKS[case]
    with Recorder(tmp_path / "r.jsonl", task=task) as recorder:
        with pytest.raises(UsageError) as caught:
            recorder.record(**batch_of(4, 3) | unfit)
        assert (tmp_path / "r.jsonl").read_bytes() == b""
    assert re.search(pattern, said(caught.value)), said(caught.value)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"task": "detection"}, r"task='detection' is not valid.*classification or sequence"),
        ({"classes": []}, r"classes=\[\] is not valid"),
        ({"classes": "cat"}, r"classes='cat' is not valid.*list of different names"),
        ({"classes": [0, 1]}, r"classes=\[0, 1\] is not valid"),
        ({"classes": ["a", "a"]}, r"different names"),
        ({"every": 0}, r"every=0 is not valid"),
        ({"every": 1.5}, r"every=1.5 is not valid"),
        ({"probs": "top:1"}, r"^probs top:1 is not valid; choose all or top:K with K from 2"),
        ({"inputs": "some"}, r"^inputs some is not valid; choose digest, all or a number"),
        ({"inputs": -1}, r"inputs.*digest, all or a number"),
        ({"spike": -1}, r"spike=-1 is not valid"),
        ({"spike": "10"}, r"spike='10' is not valid"),
        ({"nonfinite": "ignore"}, r"nonfinite='ignore'.*raise or record"),
        ({"ignore_index": None}, r"ignore_index=None"),
        ({"config": ["lr"]}, r"config=\['lr'\] is not valid"),
        ({"config": {"out": Path("x")}}, r"config\['out'\]: a \w*Path cannot be recorded"),
        ({"config": {"lr": math.inf}}, r"config\['lr'\]: inf cannot be recorded"),
    ],
    ids=str,
)
def test_an_option_that_is_not_valid_is_an_error_before_a_file_is_made(
    tmp_path: Path, options: dict[str, Any], pattern: str
) -> None:
    """The option and its value are named, and no file is made."""
    with pytest.raises(UsageError) as caught:
        Recorder(tmp_path / "r.jsonl", **options)
    assert re.search(pattern, said(caught.value)), said(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_names_of_classes_must_be_as_many_as_the_logits(tmp_path: Path) -> None:
    """The message has both numbers, and nothing is written."""
    with Recorder(tmp_path / "r.jsonl", classes=["cat", "dog"]) as recorder:
        with pytest.raises(UsageError, match=r"logits float32 \[4, 3\] have 3 classes, but `classes` names 2"):
            recorder.record(**batch_of(4, 3))
        assert (tmp_path / "r.jsonl").read_bytes() == b""
        recorder.record(**batch_of(4, 2))


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


class _OnItsWay:
    """Stands in for the event after which results from a device are there."""

    def synchronize(self) -> None:
        pass


@pytest.fixture
def one_call_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make results arrive as from a device: with the next batch."""
    plain = pending.to_host
    monkeypatch.setattr(
        pending, "to_host", lambda tensors: ([one if one is None else one.clone() for one in plain(tensors)[0]], _OnItsWay())
    )


class _OnCuda(torch.Tensor):
    """A tensor that claims to be on CUDA, for machines without a GPU."""

    is_cuda, is_cpu = True, False


def test_a_host_tensor_beside_a_device_tensor_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be overwritten before the rest arrives. If everything is on the host, nothing is copied."""

    class Event(_OnItsWay):
        def record(self, stream: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    inputs, logits = torch.ones(4, 3), torch.ones(4, 2).as_subclass(_OnCuda)
    host, arrived = pending.to_host([inputs, None, logits])
    assert isinstance(arrived, Event)
    inputs.zero_()
    assert host[0] is not None
    assert host[0].tolist() == torch.ones(4, 3).tolist()
    host, arrived = pending.to_host([inputs])
    assert host[0] is inputs
    assert arrived is None


@pytest.mark.usefixtures("one_call_late")
class TestOnADevice:
    """Errors in values are raised by the next call, errors in shapes and ids at once."""

    def test_the_records_are_the_same(self, tmp_path: Path) -> None:
        """One call late, or at the end, the bytes are those the CPU writes at once."""
        with Recorder(tmp_path / "late.jsonl") as recorder:
            for number in range(6):
                recorder.record(**batch_of(4, 3, seed=number, first=4 * (number % 3), epoch=number // 3))
                assert len(records(tmp_path / "late.jsonl", "batch")) == number
        assert verified(tmp_path / "late.jsonl") == "completed"
        assert [epoch.n for epoch in records(tmp_path / "late.jsonl", "epoch")] == [12, 12]

    def test_the_batch_is_named_and_forgotten(self, tmp_path: Path) -> None:
        """The step is not counted; the call that raised the error recorded nothing and can be repeated."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3))
            recorder.record(**batch_of(4, 3, first=4) | {"logits": NAN})
            with pytest.raises(UsageError, match="train batch 1 of epoch 0: logits are NaN"):
                recorder.record(**batch_of(4, 3, first=8))
            recorder.record(**batch_of(4, 3, first=8))
        assert verified(tmp_path / "r.jsonl") == "completed"
        batches = records(tmp_path / "r.jsonl", "batch")
        assert [(batch.batch, batch.step, batch.ids[0]) for batch in batches] == [(0, 0, 0), (1, 1, 8)]

    def test_close_raises_the_error_of_the_last_batch(self, tmp_path: Path) -> None:
        """The records are sealed as failed."""
        recorder = Recorder(tmp_path / "r.jsonl")
        recorder.record(**batch_of(4, 3))
        recorder.record(**batch_of(4, 3, first=4) | {"labels": torch.tensor([0, 9, 0, 0])})
        with pytest.raises(UsageError, match="labels: 9"):
            recorder.close()
        assert verified(tmp_path / "r.jsonl") == "failed"
        assert len(records(tmp_path / "r.jsonl", "batch")) == 1

    def test_logits_may_be_overwritten_while_ids_are_on_their_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Logits on the host are measured in the call, not when the ids arrive."""
        monkeypatch.setattr(pending, "to_host", lambda tensors: (tensors, _OnItsWay()))  # copies nothing
        monkeypatch.setattr(validation, "check_device_ids", lambda ids, _: ids if isinstance(ids, torch.Tensor) else None)
        batch = batch_of(4, 3) | {"ids": torch.tensor([7, 5, 3, 1])}
        expected = batch["logits"].softmax(1).numpy()
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch)
            batch["logits"].zero_()
        assert np.allclose(records(tmp_path / "r.jsonl", "batch")[0].probs, expected)

    def test_ids_on_a_device_are_checked_with_the_results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for them; a repeated id is an error of the next call, which names the batch."""
        monkeypatch.setattr(validation, "check_device_ids", lambda ids, _: ids if isinstance(ids, torch.Tensor) else None)
        with Recorder(tmp_path / "r.jsonl") as recorder:
            recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([7, 5, 3, 1])})
            recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([2, 4, 5, 6])})
            with pytest.raises(UsageError, match="train batch 1 of epoch 0: ids: 5 comes twice in train epoch 0"):
                recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([2, 4, 6, 8])})
            recorder.record(**batch_of(4, 3) | {"ids": torch.tensor([2, 4, 6, 8])})
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert [batch.ids for batch in records(tmp_path / "r.jsonl", "batch")] == [[7, 5, 3, 1], [2, 4, 6, 8]]

    @pytest.mark.parametrize(
        "ids", [torch.full((4,), 0.5), torch.ones(4, 1).long(), torch.arange(3), torch.ones(4).bool()], ids=str
    )
    def test_ids_on_a_device_with_a_wrong_shape_or_type_are_refused_at_once(self, ids: torch.Tensor) -> None:
        """Shape and type are known without waiting."""
        with pytest.raises(UsageError, match=r"ids \w+ \[.*\] are not 4 integers"):
            validation.check_device_ids(ids.to("meta"), 4)
