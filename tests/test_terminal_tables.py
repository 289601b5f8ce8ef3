"""Tables in a narrow terminal: one line a row where that is possible, and whole names in a pipe."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from capture_cli.answers.diff import compare
from capture_cli.answers.summary import summarise
from capture_cli.answers.suspects import find_suspects
from capture_cli.runs import open_run
from capture_cli.views.terminal.diff import show_diff
from capture_cli.views.terminal.inspect import show_summary
from capture_cli.views.terminal.suspects import show_suspects
from capture_cli.views.terminal.tables import show, table_of
from runs import run_records, write_run

LONG = ("a long name of a class that tells how it was made", "golden retriever", "cat")
FILES = [f"photo/{i:05d}.png" for i in range(60)]


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [80, 60, 40, None])
def test_long_texts_lose_their_middle(capsys: pytest.CaptureFixture[str], width: int | None) -> None:
    """Only as much as it takes; short columns stay whole, and so do all in a pipe. Escapes are escaped once."""
    rows = [["photos/of/animals/in/the/garden/0001.png", "cat\\n\n", "0.31"], ["b.png", "dog", "12.00"]]
    show([table_of([("file", "name"), ("label", "name"), ("loss", "#")], rows)], width=width)
    _, first, second = lines_of(capsys)
    assert first.split()[1:] == ["cat\\\\n\\n", "0.31"]
    assert second.split() == ["b.png", "dog", "12.00"]
    assert ("…" in first) is (width == 40)
    assert width is None or cell_len(first) <= width
    assert first.split()[0].endswith("0001.png")


def test_classes_that_begin_and_end_alike_stay_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Label and prediction are never shown as one text where they differ."""
    rows = [["photos/00012.png", "Schaf, zweijährig, weiblich, Weide", "Schaf, dreijährig, weiblich, Weide"]]
    show([table_of([("file", "name"), ("label", "name"), ("pred", "name")], rows)], width=50)
    _, line = lines_of(capsys)
    label, pred = line.split("  ")[1:]
    assert ("zw" in label, "dr" in pred, cell_len(line) <= 50) == (True, True, True)


def test_without_any_room_texts_fold(capsys: pytest.CaptureFixture[str]) -> None:
    """A few letters of a name would tell nothing."""
    show([table_of([("file", "name"), ("label", "name")], [["photographs/0001.png", "golden retriever"]])], width=20)
    assert "…" not in "".join(lines_of(capsys))


@pytest.mark.parametrize("width", [60, None])
def test_no_line_ends_in_blanks(capsys: pytest.CaptureFixture[str], width: int | None) -> None:
    """Not in a heading, a cell with a style or the line that counts the rest; what is before a text stays."""
    heads = [("file", "name"), ("state", "dim")]
    show([table_of(heads, [["a.png", "ok"], ["", "unusable"]], more=2, noun="files")], width=width)
    lines = lines_of(capsys)
    assert [line.split() for line in lines] == [["file", "state"], ["a.png", "ok"], ["unusable"], ["and", "2", "more", "files"]]
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[2].startswith("     ")


def test_suspects_have_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reasons give way to whole file names; a pipe has them."""
    with open_run(write_run(tmp_path / "run", run_records(files=FILES, epochs=3))) as run:
        found = find_suspects(run)
    rows = found.suspects[:5]
    show_suspects(found, rows, width=80)
    narrow = lines_of(capsys)
    show_suspects(found, rows)
    piped = lines_of(capsys)
    for one in rows:
        assert sum(one.file in line for line in narrow) == sum(one.file in line for line in piped) == 1
        assert any(one.file in line and line.endswith(one.reason) for line in piped)
    assert narrow[-1] == "no room for flag, reason; a wider terminal, --csv and --json have all"
    assert [line.split()[0] for line in narrow[-6:-1]] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("width", "said"), [(72, "reason"), (60, "confidence, reason"), (46, "phase, confidence, p(wrong), reason")]
)
def test_suspects_drop_columns_before_they_break_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int, said: str
) -> None:
    """Heads, flags and names are whole, or shortened, in one line."""
    classes = ("jumper", "ankle boot", "bag")
    with open_run(write_run(tmp_path / "run", run_records(files=FILES, classes=classes, epochs=3))) as run:
        found = find_suspects(run)
    rows = [replace(one, flagged=True, p_wrong=0.9) for one in found.suspects[:5]]
    show_suspects(found, rows, width=width)
    lines = lines_of(capsys)
    assert max(map(cell_len, lines)) <= width
    at = next(i for i, line in enumerate(lines) if " suggested" in line)
    assert [line.split()[0] for line in lines[at + 1 : at + 6]] == ["1", "2", "3", "4", "5"]
    assert all(line.endswith(" wrong") for line in lines[at + 1 : at + 6])
    assert " ".join(lines[at + 6 :]).startswith(f"no room for {said}; a wider terminal,")


def test_diff_drops_probabilities_before_it_breaks_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each image that changed has a line, with its name whole."""
    runs = [
        open_run(
            write_run(tmp_path / name, run_records(files=FILES, classes=("ankle boot", "ski trousers"), epochs=1, seed=seed))
        )
        for seed, name in enumerate("ab")
    ]
    with runs[0] as a, runs[1] as b:
        show_diff(compare(a, b), a="a", b="b", width=60)
    lines = lines_of(capsys)
    assert max(map(cell_len, lines)) <= 60
    at = next(i for i, line in enumerate(lines) if line.endswith("  pred B"))
    assert re.fullmatch(
        r"photo/\d{5}\.png  (ankle boot|ski trousers) +(ankle boot|ski trousers) +(ankle boot|ski trousers)", lines[at + 1]
    )
    assert "no room for p(label) A, B" in lines


def test_inspect_does_not_break_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes, confusions and the worst samples have a line each."""
    with open_run(write_run(tmp_path / "run", run_records(files=FILES, classes=LONG, epochs=1))) as run:
        summary = summarise(run)
    show_summary(summary, run="run", width=80)
    lines = lines_of(capsys)
    start = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert [line.split()[-6].isdigit() for line in lines[start + 1 : start + 4]] == [True] * 3
    assert lines[start + 4] == ""
    worst = next(i for i, line in enumerate(lines) if "highest loss" in line)
    assert [line.split()[0] for line in lines[worst + 1 : worst + 9]] == [f"{n}" for n in range(1, 9)]
