"""Corrections: a script to read first that moves what it says and nothing else, and a table of labels."""

import csv
import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from calling import Caller
from capture_cli.answers.listed import ListedImages
from capture_cli.answers.suspects import Suspect
from capture_cli.labels.rules import parse_rule
from capture_cli.labels.tables import TableOption, match, read_table
from capture_cli.views.corrections import fix_script, label_table, renamed
from runs import run_records, write_run

NASTY = ["it's $(touch pwned) `x`.png", "a b\nrm -rf x.png", "-rf.png", "\udce9 é.png"]


def suspect(file: str, label: str = "cat", suggested: str = "dog", **changes: object) -> Suspect:
    one = Suspect(
        file=file,
        id=0,
        phase="train",
        label=label,
        suggested=suggested,
        confidence=0.9,
        score=1.0,
        p_wrong=0.8,
        flagged=True,
        contradicted=True,
        reason="wrong label",
        digest="0" * 32,
    )
    return replace(one, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "taken", "target"),
    [
        ("cat_0001.png", [], "dog_0001.png"),
        ("cat_0001.png", ["dog_0001.png", "dog_0002.png"], "dog_0003.png"),
        ("cat/a.png", [], "dog/a.png"),
        ("cat/a.png", ["dog/a.png"], "dog/a-2.png"),
        ("x/cat/y/cat_1.png", [], "x/dog/y/cat_1.png"),
        ("x/cat/cat/1.png", [], "x/cat/dog/1.png"),
        ("2024-cat-7.png", [], "2024-dog-7.png"),
        ("cat12.png", [], "dog12.png"),
        ("category_1.png", [], None),
        ("cat_cat_1.png", [], None),
        ("1.png", [], None),
        ("cat/no extension", ["dog/no extension"], "dog/no extension-2"),
    ],
)
def test_the_label_in_a_name_is_replaced(file: str, taken: list[str], target: str | None) -> None:
    """In its folder, else in its own name, as a word; a name that is taken gets the next free number."""
    assert renamed(file, "cat", "dog", taken, None) == target


@pytest.mark.parametrize(
    ("rule", "file", "label", "target"),
    [
        ("parent", "0/0714.png", "0", "4/0714.png"),
        ("parent", "digits/0/0_714.png", "0", "digits/4/0_714.png"),
        ("parent:2", "0/0/1.png", "0", "4/0/1.png"),
        ("folder:1", "train/0/1.png", "0", "train/4/1.png"),
        ("prefix", "0/0_0012.png", "0", "0/4_0012.png"),
        ("prefix", "type2_0012.png", "type2", "4_0012.png"),
        ("suffix", "0012_cat.png", "cat", "0012_4.png"),
        ("field:2", "0_0_0017.png", "0", "0_4_0017.png"),
        (r"label-(?P<label>\d+)", "0/label-0_of_10.png", "0", "0/label-4_of_10.png"),
        (r"^(?P<label>[^/]+)/", "0/0.png", "0", "4/0.png"),
        ("prefix", "0/none_12.png", "0", None),
    ],
)
def test_only_what_the_rule_reads_is_replaced(rule: str, file: str, label: str, target: str | None) -> None:
    """A class folder changes and the number in the name stays, or the other way round; the new name has the new label."""
    assert renamed(file, label, "4", [], parse_rule(rule)) == target


@pytest.mark.parametrize("suggested", ["..", "", "a/b", "."])
def test_a_class_that_is_no_name_moves_nothing(suggested: str) -> None:
    """Class names come from records: they lead nowhere else."""
    assert renamed("cat/1.png", "cat", suggested, [], None) is None


def test_the_script_moves_what_it_says_and_overwrites_nothing(tmp_path: Path) -> None:
    """Hostile names are moved as they are, run no code, and a file that has come since is kept."""
    folder = tmp_path / "it's a folder"
    files = [f"cat/{name}" for name in NASTY]
    (folder / "cat").mkdir(parents=True)
    for file in files:
        (folder / file).write_text(file.encode(errors="replace").decode())
    rows = [suspect(file) for file in [*files, "other/1.png"]] + [suspect("cat/2.png", digest=None)]
    script = tmp_path / "fix.sh"
    script.write_bytes(fix_script(rows, [], folder=folder.name, source="runs/x\n; rm -rf /", rule=None).text)
    assert "rm -rf /" not in [line.strip() for line in script.read_text(errors="replace").splitlines()]
    (folder / "dog").mkdir()
    (folder / "dog" / "-rf.png").write_text("was here")
    done = subprocess.run(["sh", script.name], cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=20)
    assert done.returncode == 0
    assert "dog/-rf.png exists: cat/-rf.png was not moved" in done.stderr
    assert sorted(one.name for one in (folder / "dog").iterdir()) == sorted(NASTY)
    assert [one.name for one in (folder / "cat").iterdir()] == ["-rf.png"]
    assert (folder / "dog" / "-rf.png").read_text() == "was here"
    assert not list(tmp_path.rglob("pwned"))


def test_what_cannot_be_renamed_is_a_comment() -> None:
    """A name without the label, a sample that is no file, and a label that a table gave."""
    rows = [suspect("1.png"), suspect("cat/2.png", digest=None)]
    for rule, renames in ((None, 1), ("table", 0)):
        script = fix_script([*rows, suspect("cat/3.png")], [], folder="f", source="r", rule=rule)
        commands = [line for line in script.text.decode().splitlines() if line.startswith("move ")]
        assert (len(commands), script.renames, script.comments) == (renames, renames, 3 - renames)
        assert script.text.decode().count("--labels-out") == (2 if rule else 0)


def test_the_table_has_every_label_and_the_flagged_ones_changed() -> None:
    """Columns file and label, quoted where needed."""
    rows = [suspect("b.png", flagged=False), suspect('a "x", y.png')]
    assert list(csv.reader(label_table(rows, ListedImages()).decode().splitlines())) == [
        ["file", "label"],
        ['a "x", y.png', "dog"],
        ["b.png", "cat"],
    ]


def test_files_of_a_recorder_are_renamed_where_they_are(tmp_path: Path, call: Caller) -> None:
    """Its records have no digests: a name counts where the folder has such a file, a link or a folder does not."""
    write_run(tmp_path / "run", [one for one in run_records(per_class=40, epochs=5, status=None) if one.kind != "samples"])
    said = call("suspects", "run", "--fix", "nowhere.sh").err
    assert "nowhere.sh: 0 renames to review" in said
    flagged = [
        one for line in call("suspects", "run", "--json", "--all").out.splitlines() if (one := json.loads(line))["flagged"]
    ]
    first, second, *others = [one["file"] for one in flagged]
    assert f"# there is no such file in 'here'; --folder names the folder of the images: {first}\n" in (
        call("suspects", "run", "--fix", "missing.sh", "--folder", "here") and Path("missing.sh").read_text()
    )
    for file in others:
        Path("here", file).parent.mkdir(parents=True, exist_ok=True)
        Path("here", file).write_text("")
    Path("here", first).mkdir(parents=True)
    Path("here", second).symlink_to(Path("here", others[0]).absolute())
    said = call("suspects", "run", "--fix", "fix.sh", "--folder", "here").err
    assert f"fix.sh: {len(others)} renames to review; nothing was moved; 2 flagged samples cannot be renamed" in said
    moved = [shlex.split(line)[1] for line in Path("fix.sh").read_text().splitlines() if line.startswith("move ")]
    assert moved == others
    script = fix_script([suspect("7", id=7, digest=None)], [], folder="f", source="r", rule=None).text.decode()
    assert "# it is an id and no file: 7\n" in script


def test_the_table_of_a_recorder_has_the_phases_as_splits(tmp_path: Path, call: Caller) -> None:
    """Training by it, the same images are for validation; without validation there is no column."""
    write_run(tmp_path / "run", [one for one in run_records(per_class=40, epochs=5, status=None) if one.kind != "samples"])
    assert call("suspects", "run", "--labels-out", "labels.csv", "-q").code == 0
    splits = {row["file"]: row["split"] for row in csv.DictReader(Path("labels.csv").read_text().splitlines())}
    phases = {one["file"]: one["phase"] for one in map(json.loads, call("suspects", "run", "--json", "--all").out.splitlines())}
    assert splits == phases
    assert set(splits.values()) == {"train", "val"}


def test_names_with_line_breaks_survive_the_table(tmp_path: Path) -> None:
    """Those of every kind, at either end, blanks and backslashes: `--labels` reads the files that were written."""
    files = ["a\rb.png", "\rc.png", "d\r\ne.png", "f\ng.png", " h .png", "i\\j.png", 'k"\r.png', "l.png"]
    path = tmp_path / "labels.csv"
    path.write_bytes(label_table([suspect(file) for file in files], ListedImages()))
    assert b"\r\n" not in path.read_bytes().replace(b"d\r\ne", b"")
    table = read_table(TableOption(str(path), None, None), str(tmp_path))
    assert match(table, files).labels == dict.fromkeys(files, "dog")


def test_the_command_writes_new_files_only(tmp_path: Path, call: Caller) -> None:
    """Both are about the flagged samples; nothing is run, and no file is replaced."""
    write_run(tmp_path / "run", run_records(per_class=40, epochs=5))
    flagged = [
        one for line in call("suspects", "run", "--json", "--all").out.splitlines() if (one := json.loads(line))["flagged"]
    ]
    assert len(flagged) > 1
    done = call("suspects", "run", "--fix", "fix.sh", "--labels-out", "labels.csv", "--top", "1")
    assert done.code == 0
    held_out = sum(one["phase"] == "val" for one in flagged)
    assert held_out > 1
    proves = f"; {held_out} are validation labels, so a higher accuracy there proves nothing"
    proves += "; of those still wrong a next run flags few: see --review\n"
    assert f"fix.sh: {len(flagged)} renames to review; nothing was moved{proves}" in done.err
    assert f"labels.csv: 120 labels, {len(flagged)} changed{proves}" in done.err
    alone = call("suspects", "run", "--fix", "alone.sh").err
    assert f"nothing was moved; moved files may change sides of a random split, which --labels-out keeps{proves}" in alone
    moved = [shlex.split(line)[1] for line in Path("fix.sh").read_text().splitlines() if line.startswith("move ")]
    assert moved == [one["file"] for one in flagged]
    table = list(csv.DictReader(Path("labels.csv").read_text().splitlines()))
    assert len(table) == 120
    labels = {row["file"]: row["label"] for row in table}
    assert all(labels[one["file"]] == one["suggested"] for one in flagged)
    for option, name in (("--fix", "fix.sh"), ("--labels-out", "labels.csv")):
        before = Path(name).read_bytes()
        done = call("suspects", "run", option, name)
        assert (done.code, done.out, Path(name).read_bytes()) == (2, "", before)
        assert f"'{name}' exists" in done.err
    assert call("suspects", "run", "--fix", "x", "--labels-out", "x").code == 2
    for name in ("x.parquet", "x.csv.gz", "x.TSV", ".jsonl"):
        done = call("suspects", "run", "--labels-out", name)
        assert (done.code, done.out, Path(name).exists()) == (2, "", False)
        assert f"--labels-out writes CSV, not what the name '{name}' says; name it .csv" in done.err
    assert "--all and --top both say how many" in call("suspects", "run", "--all", "--top", "2").err
    assert call("suspects", "run", "--fix", "no/such/folder").code == 1


def test_quiet_writes_the_files_and_prints_nothing(tmp_path: Path, call: Caller) -> None:
    """The same files; alone it would leave nothing to do."""
    write_run(tmp_path / "run", run_records(per_class=40, epochs=3))
    call("suspects", "run", "--labels-out", "loud.csv")
    done = call("suspects", "run", "-q", "--labels-out", "quiet.csv", "--fix", "quiet.sh")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert Path("quiet.csv").read_bytes() == Path("loud.csv").read_bytes()
    assert Path("quiet.sh").exists()
    assert call("suspects", "run", "-q").code == 2
