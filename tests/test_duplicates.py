"""Duplicates: what is the same picture is found, by bytes, by input and by hash, and told apart by label and split."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calling import Caller
from capture_cli.answers import duplicates as room
from capture_cli.answers.duplicates import Duplicating, find_duplicates
from capture_cli.records import Batch, Record, RunInfo, Samples, Skip
from capture_cli.runs import open_run
from runs import run_records, write_run


def distinct(records: list[Record], same: dict[int, int] | None = None) -> list[Record]:
    """Give every sample an input of its own; `same` lets one have that of another."""
    changed: list[Record] = []
    for one in records:
        if isinstance(one, Batch):
            digests = [f"{(same or {}).get(int(name), int(name)):016x}" for name in one.ids]
            one = replace(one, inputs=replace(one.inputs, digests=digests))
        changed.append(one)
    return changed


def groups_of(path: Path) -> list[tuple[str, list[str], int, int]]:
    with open_run(path) as run:
        found = find_duplicates(run)
    return [(one.kind, [m.file for m in one.members], len(one.labels), len(one.splits)) for one in found.groups]


def test_equal_bytes_and_equal_inputs_are_found(tmp_path: Path) -> None:
    """Contradictions come first, then leaks; a pair of equal bytes is not listed again for its inputs."""
    digests = [f"{i:032x}" for i in range(36)]
    digests[3] = digests[0]  # both cats, 3 is in val
    records = distinct(list(run_records(digests=digests)), {3: 0, 5: 4, 30: 27})
    assert groups_of(write_run(tmp_path / "run", records)) == [
        ("input", ["dog_0001.png", "great pyrenees_0001.png"], 2, 1),
        ("bytes", ["cat_0000.png", "cat_0001.png"], 1, 2),
        ("input", ["cat_0009.png", "cat_0010.png"], 1, 2),
    ]


def test_a_run_without_duplicates_has_no_group(tmp_path: Path) -> None:
    """Inputs of later epochs, which augmentation changes, are not looked at."""
    assert groups_of(write_run(tmp_path / "run", distinct(list(run_records(epochs=3))))) == []


def test_samples_that_only_batches_name_are_compared_by_input(tmp_path: Path) -> None:
    """As from a loop of one's own: the split is the phase."""
    records = [one for one in distinct(list(run_records()), {3: 0}) if not isinstance(one, Samples)]
    path = write_run(tmp_path / "run", records[:-1])
    assert [one[0] for one in groups_of(path)] == ["input"]
    with open_run(path) as run:
        assert find_duplicates(run).compared == ("input",)


def near(hashes: list[int]) -> list[list[str]]:
    fold = Duplicating(thorough=True)
    n = len(hashes)
    for one in run_records(per_class=n):
        if isinstance(one, RunInfo):
            fold.update(one)
        elif isinstance(one, Samples):
            columns = {name: getattr(one, name)[:n] for name in ("ids", "files", "labels", "splits", "sizes", "digests")}
            fold.update(Samples(**columns, phash=[f"{value:032x}" for value in hashes]))
    found = fold.result()
    assert "near" in found.compared
    return [[one.file for one in group.members] for group in found.groups]


def test_equal_pixels_are_one_input() -> None:
    """Whatever the files, and though augmented inputs differ."""
    fold = Duplicating(thorough=True)
    for one in run_records(per_class=4):
        if isinstance(one, Samples):
            fold.update(replace(one, pixels=[f"{5 if i in (1, 3) else i:016x}" for i in range(len(one.ids))]))
        elif isinstance(one, RunInfo):
            fold.update(one)
    (group,) = fold.result().groups
    assert (group.kind, len(group.members)) == ("input", 3)


def test_hashes_that_differ_in_a_few_bits_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to NEAR_BITS, chained; of very many samples only equal hashes."""
    hashes = [1 << 99, 1 << 99 | 1, 1 << 99 | 3, 0x1F << 40, (1 << 128) - 1, 0, 0]
    files = ["cat_0000.png", "dog_0000.png", "great pyrenees_0000.png"]
    assert near(hashes) == [files]
    monkeypatch.setattr(room, "MAX_NEAR", 3)
    assert near(hashes) == []
    assert near([*hashes, 1 << 99]) == [["cat_0000.png", "dog_0002.png"]]


def test_what_is_near_is_perhaps_the_same_picture(tmp_path: Path, call: Caller) -> None:
    """Two pictures may have one hash: they are listed last, and are no leak, no contradiction, no reason to doubt a label."""
    records = distinct(list(run_records()), {1: 0})
    (at,) = [number for number, one in enumerate(records) if isinstance(one, Samples)]
    hashes = [1 << i for i in range(36)]
    for near_to, other in ((6, 7), (4, 5)):  # another split, another label
        hashes[other] = hashes[near_to] = 1 << (60 + other) | 1 << 99
    assert isinstance(records[at], Samples)
    for same, said in (
        (records, "1 picture is in the run more than once (1 with several labels, 0 across splits); 2 more may be, by their"),
        (distinct(list(run_records())), "no picture is in the run more than once; 2 may be, by their perceptual hashes"),
    ):
        folder = write_run(
            tmp_path / f"run{len(said)}", [*same[:at], replace(same[at], phash=[f"{h:032x}" for h in hashes]), *same[at + 1 :]]
        )
        with open_run(folder) as run:
            found = find_duplicates(run)
        assert [one.kind for one in found.groups][-2:] == ["near", "near"]
        assert len(found.contradictions) == len(found.groups) - 2
        assert found.leaks == ()
        assert said in call("suspects", folder).out
        shown = call("suspects", folder, "--duplicates").out
        assert said in shown
        assert [line.split()[-1] for line in shown.splitlines()[-4:]] == ["perhaps"] * 4
        assert "almost the same picture" not in call("suspects", folder, "--all").out


def test_what_is_not_compared_is_said(tmp_path: Path, call: Caller) -> None:
    """Images of a test split, which the run has not read: in words, and on stderr beside data."""
    records = distinct(list(run_records()), {5: 4})
    skips = [Skip(file=f"test/{i}.png", reason="test-split", detail="cat") for i in (0, 1, 1)]
    write_run(tmp_path / "run", [records[0], *skips, Skip(file="a.txt", reason="unsupported-extension"), *records[1:-1]])
    said = "2 images of a test split are not compared, since training leaves them alone: `capture labels FOLDER --check`"
    shown = call("suspects", "run", "--duplicates")
    assert said in " ".join(shown.out.split())
    assert said not in shown.err
    for form in ("--json", "--csv"):
        done = call("suspects", "run", "--duplicates", form)
        assert said in done.err
        assert "test" not in done.out
    write_run(tmp_path / "other", records)
    assert "not compared" not in call("suspects", "other", "--duplicates").out


def test_top_and_all_count_groups(tmp_path: Path, call: Caller) -> None:
    """The first groups are shown, and how many there are; without --top, or with --all, every group is."""
    write_run(tmp_path / "run", distinct(list(run_records()), {5: 4, 10: 9, 30: 27}))
    everything = call("suspects", "run", "--duplicates").out
    assert (
        everything
        == call("suspects", "run", "--duplicates", "--all").out
        == call("suspects", "run", "--duplicates", "--top=3").out
    )
    cut = call("suspects", "run", "--duplicates", "--top", 1).out
    assert cut.startswith("3 pictures are in the run more than once")
    assert "shown: the first 1" in cut
    groups = [call("suspects", "run", "--duplicates", "--json", *some).out.splitlines() for some in ([], ["--top", "2"])]
    assert (len(groups[0]), groups[1]) == (3, groups[0][:2])
    assert len(call("suspects", "run", "--duplicates", "--csv", "--top", 2).out.splitlines()) == 1 + 2 * 2
    assert call("suspects", "run", "--duplicates", "--all", "--top", 1).code == 2


def test_they_are_listed(tmp_path: Path, call: Caller) -> None:
    """In words, as JSON and as CSV; suspects name the twin as the reason."""
    write_run(tmp_path / "run", distinct(list(run_records(per_class=40, epochs=4)), {5: 4, 30: 27}))
    shown = call("suspects", "run", "--duplicates").out
    assert shown.startswith("2 pictures are in the run more than once (1 with several labels, 1 across splits)\n")
    groups = [json.loads(line) for line in call("suspects", "run", "--duplicates", "--json").out.splitlines()]
    assert [len(one["members"]) for one in groups] == [2, 2]
    assert len(call("suspects", "run", "--duplicates", "--csv").out.splitlines()) == 5
    assert call("suspects", "run", "--duplicates", "--class", "dog").out.startswith("1 picture is")
    rows = {one["file"]: one for one in map(json.loads, call("suspects", "run", "--json", "--all").out.splitlines())}
    twin = "duplicate with another label: the same input as great pyrenees_0001.png, labelled great pyrenees"
    assert rows["dog_0001.png"]["reason"] == twin
    assert "--duplicates" in call("suspects", "run").out
    assert np.sum([one["reason"].startswith("duplicate") for one in rows.values()]) == 2
