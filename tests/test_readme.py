"""The pages are true: every command they show runs, and prints what they show.

docs/pages.py explains how the first line of a block decides what happens to it.
"""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

import cli_reference
from capture_cli import records
from pages import ROOT, Block, BlockError, alike, blocks, commands, exchanges, pages, prepare, run_python, run_shell
from record import recorded

PAGES = {str(path.relative_to(ROOT)): path for path in pages()}


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs_and_prints_what_is_shown(name: str, tmp_path: Path) -> None:
    """The blocks of a page work in their order, and print what is shown below them."""
    if "guide_photos.py" in PAGES[name].read_text("utf-8"):
        demand_photographs()
    folder = tmp_path / "here"
    prepare(folder)
    wrong = []
    for block in blocks(PAGES[name].read_text("utf-8")):
        try:
            wrong += check(block, folder)
        except BlockError as error:
            pytest.fail(f"{name}:{block.line}: {error}")
    assert not wrong, f"{name} is out of date; `make docs` records it again\n" + "\n".join(wrong)


def demand_photographs() -> None:
    """Skip the test if the packages with the photographs of the guide cannot be had."""
    from guide_photos import ROOT as CHECKOUT
    from guide_photos import NoDataError, originals

    try:
        originals(CHECKOUT / "benchmarks" / "data")
    except NoDataError as reason:
        pytest.skip(f"no photographs: {reason}")


def check(block: Block, folder: Path) -> list[str]:
    """Run one block and return a sentence for each output that differs from the page."""
    if block.info == "sh":
        for command in commands(block.text):
            run_shell(command, folder)
    elif block.info == "python":
        run_python(block.text, folder)
    elif block.info in ("console", "console learned"):
        wrong = []
        for command, shown in exchanges(block.text):
            printed = run_shell(command, folder)
            true = alike(shown, printed) if block.info == "console learned" else tidy(shown) == tidy(printed)
            if not true:
                wrong.append(f"line {block.line}: `{command}` printed\n{printed}\nand the page shows\n{shown}")
        return wrong
    return []


def tidy(output: str) -> list[str]:
    """Return the lines without trailing spaces."""
    return [line.rstrip() for line in output.splitlines()]


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_of_the_pages_exist(name: str) -> None:
    """make knows every target that a page names, also in blocks that are not run here."""
    text = PAGES[name].read_text("utf-8")
    named = {
        target
        for block in blocks(text)
        if block.info == "sh setup"
        for target in re.findall(r"^make ([a-z]+)", block.text, re.M)
    }
    named |= set(re.findall(r"`make ([a-z]+)`", text))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    """Every relative link names an existing file, and its anchor an existing heading."""
    for target in re.findall(r"\]\(([^)\s]+)", PAGES[name].read_text("utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            page = PAGES[name].parent / path if path else PAGES[name]
            assert page.exists(), target
            assert not anchor or anchor in anchors(page.read_text("utf-8")), target


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_shows_the_commands_and_how_to_set_up() -> None:
    """The README shows set-up, both main commands, a recorded session, and pipelines with jq, DuckDB and pandas."""
    text = PAGES["README.md"].read_text("utf-8")
    run = "".join(block.text for block in blocks(text))
    for needed in (
        "make demo",
        "capture train",
        "capture inspect",
        "capture rows",
        "| jq",
        "import duckdb",
        "to_pandas",
        "sort | uniq -c",
    ):
        assert needed in run, needed
    assert any(block.info.startswith("console") for block in blocks(text))


def test_the_readme_counts_the_label_errors_it_shows() -> None:
    """The prose below the ranking states how many planted label errors the recorded session lists."""
    text = PAGES["README.md"].read_text("utf-8")
    planted = {line.split("\t")[0] for line in (ROOT / "sample_data" / "MISLABELLED.tsv").read_text().splitlines()[1:]}
    ranking = next(block.text for block in blocks(text) if "capture suspects runs/demo" in block.text)
    files = re.findall(r"^ *\d+  (\w+\.png)", ranking, re.MULTILINE)
    words = ["Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"]
    assert len(files) == 10
    assert f"{words[len(planted & set(files))]} of the twelve are among the first ten" in " ".join(text.split())


def test_the_cli_page_matches_the_commands() -> None:
    """docs/cli.md lists every command and option with its own help text."""
    page = cli_reference.PAGE.read_text("utf-8")
    assert cli_reference.rewritten(page) == page, "run `make docs`"


@pytest.mark.parametrize("kind", sorted(records.KINDS))
def test_records_page_names_every_field(kind: str) -> None:
    """docs/records.md has a section for each kind of record, with exactly its fields."""
    section = PAGES["docs/records.md"].read_text("utf-8").split(f"\n## {kind}\n")[1].split("\n## ")[0]
    documented = {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert documented == {field.name for field in fields(records.KINDS[kind])}


def test_a_wrong_page_is_noticed(tmp_path: Path) -> None:
    """The tests above can fail: they notice another output, another form and a failing command, and allow `| head`."""
    (tmp_path / "here").mkdir()
    folder = tmp_path / "here"
    assert check(Block("console", 1, "$ echo 12\n12\n"), folder) == []
    assert check(Block("console", 1, "$ echo 12\n13\n"), folder)
    assert check(Block("console learned", 1, "$ echo loss 12.5\nloss  0.07\n"), folder) == []
    assert check(Block("console learned", 1, "$ echo loss 12.5\naccuracy 12.5\n"), folder)
    assert check(Block("sh", 1, "yes |\n  head -n 1\n"), folder) == []
    for failing in ("false | cat", "cat nothing-here", "true\nfalse"):
        with pytest.raises(BlockError):
            check(Block("sh", 1, failing + "\n"), folder)
    with pytest.raises(BlockError):
        check(Block("python", 1, "assert 1 == 2\n"), folder)


def test_recording_writes_what_was_printed(tmp_path: Path) -> None:
    """`make docs` replaces outputs and nothing else."""
    page = "Text.\n\n```console\n$ echo '1\n2' |\n  cat\nold\n$ true\n```\n\n```sh\ntouch made\n```\n\nEnd.\n"
    (tmp_path / "here").mkdir()
    assert recorded(page, tmp_path / "here") == page.replace("old\n", "1\n2\n")
    assert (tmp_path / "here" / "made").exists()


def test_commands_are_told_from_outputs() -> None:
    """A command continues on the next line after a pipe, a backslash or an open quote."""
    assert list(commands("# why\na |\n  b\nc 'x\ny' \\\n  d\n")) == ["a |\n  b", "c 'x\ny' \\\n  d"]
    assert exchanges("$ a |\n  b\nout\n\n$ c\n") == [("a |\n  b", "out\n\n"), ("c", "")]


def test_make_alone_lists_its_targets() -> None:
    """`make` without a target prints help."""
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "make demo" in done.stdout
