"""Datasets of train and val that both count from 0: an id is then a sample of each, and no answer takes two for one."""

import json
from pathlib import Path

import pytest
import torch

from calling import Caller
from capture_cli import Recorder
from capture_cli.answers.duplicates import find_duplicates
from capture_cli.answers.history import sample_history
from capture_cli.answers.suspects import find_suspects
from capture_cli.errors import UsageError
from capture_cli.runs import open_run

N, EPOCHS = 6, 3


def recorded(path: Path, *, shift: int) -> Path:
    """Record train and val: picture i + shift of train is picture i of val."""
    images, labels = torch.rand(N, 4), torch.arange(N) % 3
    with Recorder(path, classes=["a", "b", "c"]) as recorder:
        for epoch in range(1, EPOCHS + 1):
            for phase, by in (("train", 0), ("val", -shift)):
                own = labels.roll(by)
                recorder.record(
                    epoch=epoch, phase=phase, inputs=images.roll(by, 0), logits=torch.eye(3)[own], labels=own, ids=range(N)
                )
    return path


@pytest.mark.parametrize("shift", [0, 1])
def test_duplicates_tell_them_apart(tmp_path: Path, shift: int) -> None:
    """One dataset in two phases has no duplicates; pictures of two datasets are found as leaks, each with its own label."""
    with open_run(recorded(tmp_path / "run.jsonl", shift=shift)) as run:
        groups = find_duplicates(run).groups
    pairs = {tuple((m.split, m.id, m.label) for m in one.members) for one in groups}
    leaks = {(("train", i, "abc"[i % 3]), ("val", (i - 1) % N, "abc"[i % 3])) for i in range(N)}
    assert pairs == (leaks if shift else set())


def test_a_history_says_that_an_id_is_two_samples(tmp_path: Path, call: Caller) -> None:
    """Its visits go from phase to phase, each with its label; where the labels agree, they are in the order of the records."""
    path = recorded(tmp_path / "two.jsonl", shift=1)
    shown = call("inspect", path, "--sample", 4).out
    note = "the label is b in train, c in val: this id stands for more than one sample"
    assert note in shown
    rows = [line.split() for line in shown.partition("phase  epoch")[2].splitlines()[1:]]
    assert [(row[0], row[-2]) for row in rows] == [("train", "b")] * EPOCHS + [("val", "c")] * EPOCHS
    assert json.loads(call("inspect", path, "--sample", 4, "--json").out)["note"] == note
    with open_run(recorded(tmp_path / "one.jsonl", shift=0)) as run:
        history = sample_history(run, "4")
    assert (history.note, [one.phase for one in history.visits]) == ("", ["train", "val"] * EPOCHS)


def test_suspects_name_the_phase(tmp_path: Path, call: Caller) -> None:
    """In a column of the table, if more than one phase is ranked."""
    shown = call("suspects", recorded(tmp_path / "two.jsonl", shift=1)).out
    rows = [line.split() for line in shown.partition("suggested")[2].splitlines()[1:]]
    assert shown.partition("file")[2].split()[0] == "phase"
    assert {(row[1], row[2]) for row in rows} == {(f"{i}", phase) for i in range(N) for phase in ("train", "val")}


def test_each_has_a_row_in_the_corrected_table(tmp_path: Path, call: Caller) -> None:
    """With its own label and the phase as the split, whichever is ranked last."""
    table = tmp_path / "labels.csv"
    said = call("suspects", recorded(tmp_path / "two.jsonl", shift=1), "--labels-out", table).err
    rows = [line.split(",") for line in table.read_text().splitlines()]
    own = [[f"{i}", "abc"[(i + shift) % 3], split] for i in range(N) for split, shift in (("train", 0), ("val", 1))]
    assert rows == [["file", "label", "split"], *own]
    assert f"labels.csv: {2 * N} labels, 0 changed" in said


def test_several_runs_keep_them_apart(tmp_path: Path) -> None:
    """A sample of train is ranked with itself in the other run, not with the one of val that has its id."""
    paths = [recorded(tmp_path / name, shift=1) for name in ("a.jsonl", "b.jsonl")]
    with open_run(paths[0]) as one, open_run(paths[1]) as other:
        alone, both = find_suspects(one), find_suspects(one, other)
    assert len(both.suspects) == 2 * N
    assert {(s.phase, s.id, s.label) for s in both.suspects} == {(s.phase, s.id, s.label) for s in alone.suspects}
    flipped = recorded(tmp_path / "c.jsonl", shift=2)
    with (
        open_run(paths[0]) as one,
        open_run(flipped) as other,
        pytest.raises(UsageError, match="6 images do not have the same"),
    ):
        find_suspects(one, other)


def test_a_duplicate_is_told_of_its_own_phase(tmp_path: Path) -> None:
    """Two pictures of train are the same under two labels; sample 3 of val is another picture with the label of one of them."""
    images, labels = torch.rand(N, 4), torch.arange(N) % 3
    images[4] = images[3]
    others = images + 1 + torch.arange(N)[:, None]
    with Recorder(tmp_path / "run.jsonl", classes=["a", "b", "c"]) as recorder:
        for epoch in range(1, EPOCHS + 1):
            for phase, inputs in (("train", images), ("val", others)):
                logits = torch.eye(3)[labels]
                recorder.record(epoch=epoch, phase=phase, inputs=inputs, logits=logits, labels=labels, ids=range(N))
    with open_run(tmp_path / "run.jsonl") as run:
        found = find_suspects(run)
    duplicates = {(one.phase, one.id) for one in found.suspects if one.reason.startswith("duplicate with another label")}
    assert duplicates == {("train", 3), ("train", 4)}
