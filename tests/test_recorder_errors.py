"""Arguments that do not fit raise an error that names them before anything is written; the records stay valid."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capture_cli import CaptureError, Recorder
from capture_cli.errors import UsageError, shown
from recordings import batch_of, records, verified

NAN = torch.full((4, 3), 0.5).index_fill(0, torch.tensor([2]), torch.nan)
HUGE = 10**5000
"""A whole number that Python refuses to write as text."""

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
    "an epoch that Python does not write": ({"epoch": HUGE}, r"epoch=an integer of [\d,]+ bits is not valid"),
    "ids that Python does not write": ({"ids": [HUGE, 1, 2, 3]}, r"ids are neither all integers \(of 64 bits\)"),
    "a learning rate that no float holds": ({"lr": HUGE}, r"lr: an integer of [\d,]+ bits is not a finite number"),
    "a loss that no float holds": ({"loss": HUGE}, r"loss: an integer of [\d,]+ bits is not a single number"),
    "a number that no float holds": ({"numbers": {"kl": HUGE}}, r"numbers\['kl'\]: an integer of [\d,]+ bits is not a number"),
    "a column that Python does not write": (
        {"extra": {"x": [HUGE, 1, 2, 3]}},
        r"extra\['x'\]: an integer of [\d,]+ bits cannot",
    ),
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
        ({"task": "detection"}, r"task='detection' is not valid.*classification, sequence"),
        ({"classes": []}, r"classes=\[\] is not valid"),
        ({"classes": "cat"}, r"classes='cat' is not valid.*list of different names"),
        ({"classes": [0, 1]}, r"classes=\[0, 1\] is not valid"),
        ({"classes": ["a", "a"]}, r"different names"),
        ({"every": 0}, r"every=0 is not valid"),
        ({"every": 1.5}, r"every=1.5 is not valid"),
        ({"probs": "top:1"}, r"^probs top:1 is not valid; choose all or top:K with K from 2"),
        ({"inputs": HUGE}, r"^inputs an integer of 16,610 bits is not valid; choose digest, all or a number"),
        ({"config": {"seed": HUGE}}, r"^config\['seed'\]: an integer of 16,610 bits cannot be recorded"),
        ({"classes": {"cat": HUGE}}, r"^classes=a dict is not valid"),
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
    ids=shown,
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
