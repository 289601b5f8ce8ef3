"""Names that there are not: the message says the closest of those that there are."""

import shutil
from pathlib import Path

import pytest

from capture_cli.cli import run as command
from capture_cli.errors import closest, did_you_mean
from capture_cli.runs import open_run
from conftest import make_images
from runs import write_run


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with `images/`, a run `run/`, its records as a file, one in runs/ and files with names that are nearly right."""
    make_images(tmp_path / "images")
    shutil.copy(write_run(tmp_path / "run") / "records.jsonl", tmp_path / "mine.jsonl")
    write_run(tmp_path / "runs" / "first")
    (tmp_path / "c.toml").write_text("epoch = 3\n")
    (tmp_path / "t.csv").write_text("image,kind\ncat_0001.png,a\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("insepct run", "no such command: 'insepct'; did you mean inspect?"),
        ("eval run images", "no such command: 'eval'; did you mean evaluate?"),
        ("check images", "no such command: 'check'; did you mean `capture labels FOLDER --check`?"),
        ("images", "no such command: 'images'; did you mean `capture train images`?"),
        ("run", "no such command: 'run'; did you mean `capture inspect run`?"),
        ("nothing", "no such command: 'nothing'; see `capture --help`"),
        ("--verison", "no such option: --verison; did you mean --version? see `capture --help`"),
        ("--epochs 3 train images", "no such option: --epochs; an option of train; see `capture --help`"),
        ("train images --epoch 3", "no such option: --epoch; did you mean --epochs? see `capture train --help`"),
        ("train images --cutmixx=1", "no such option: --cutmixx; did you mean --cutmix? see `capture train --help`"),
        ("inspect run --where x", "no such option: --where; an option of runs, rows; see `capture inspect --help`"),
        ("inspect run --zzz", "no such option: --zzz; see `capture inspect --help`"),
        ("suspects run --class CATS", "no class 'CATS' in run/records.jsonl; did you mean cat?"),
        ("suspects run --class zebra", "no class 'zebra' in run/records.jsonl; the classes are cat, dog"),
        ("rows run --columns labl", "no such column: 'labl'; did you mean label? the columns are phase, epoch"),
        ("rows run --per class --columns recal", "did you mean recall? the columns are"),
        ("rows run --where labl='x'", "did you mean label? write an SQL condition on phase, epoch"),
        ("rows run --where label=zebra", "in single quotes); write an SQL condition on phase, epoch"),
        ("rows run --per epoch --where acuracy>0", "did you mean accuracy? write an SQL condition on"),
        ("diff run run --fail-if acuracy_drop>0", "did you mean accuracy_drop? write an SQL condition on"),
        ("runs --where acuracy>0", "did you mean accuracy? write an SQL condition on"),
        ("runs --sort acuracy", "--sort acuracy is not valid; did you mean accuracy?"),
        ("runs --columns nothing", "--columns nothing is not valid; choose name, path, age"),
        ("train images --config c.toml", "--config 'c.toml' has an unknown option 'epoch'; did you mean epochs?"),
        ("train images --labels t.csv:image,kin", "'t.csv' has no column 'kin'; did you mean kind?"),
        ("labels images --labels paren", "a group `label`; did you mean parent?"),
        ("train images -m CNN", "there is no model 'CNN'; did you mean cnn?"),
        ("inspect frist", "no such run: 'frist'; did you mean first?"),
        ("inspect rnu", "no such run: 'rnu'; did you mean run?"),
        ("verify mien.jsonl", "no such run: 'mien.jsonl'; did you mean mine.jsonl?"),
        ("train images --weights frist", "--weights: no such run: 'frist'; did you mean first?"),
        ("train images --weights last", "--weights: there is no run with model.safetensors in runs/ for 'last'"),
        ("train images --weights zebra", "--weights zebra: there is no such file or run; give a .safetensors or .pth file"),
        ("train images -m torchvision:resnet18 --weights frist", "there are no weights frist of torchvision:resnet18"),
    ],
)
def test_the_closest_is_named(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, and nothing on stdout."""
    assert command(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_columns_of_a_run_in_python() -> None:
    """As on the command line."""
    with (
        open_run("run") as run,
        pytest.raises(Exception, match=r"no column 'lable' in run/records.jsonl; did you mean label\?"),
    ):
        next(iter(run.visits(["lable"])))["lable"]


def test_case_does_not_count_and_strangers_are_not_close() -> None:
    """The closest comes first; where none is, the other advice is given."""
    assert closest("SHRT", ["coat", "Shirt", "tshirt"], 2) == ["Shirt", "tshirt"]
    assert did_you_mean("zebra", ["coat", "shirt"], "see --help") == "see --help"
    assert did_you_mean("resnet81", ["resnet18", "cnn"]) == "did you mean resnet18?"
