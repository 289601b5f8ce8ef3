"""Tables of predictions are no tables of labels: a model would be scored against itself, or trained on its own guesses."""

import csv
from pathlib import Path

import pytest

from calling import called
from conftest import make_images
from test_layouts import typed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and with `new`, images whose names hold no label."""
    folder = tmp_path_factory.mktemp("predictions")
    make_images(folder / "images", classes=2)
    assert called("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "run", cwd=folder).returncode == 0
    make_images(folder / "new", classes=2)
    for i, file in enumerate(sorted((folder / "new").iterdir())):
        file.rename(file.with_name(f"{i}.png"))
    return folder


@pytest.mark.parametrize("name", ["new.csv", "new.jsonl", "new/made.csv"])
def test_what_predict_writes_is_not_offered_as_labels(trained: Path, name: str) -> None:
    """Neither to `labels` nor to `evaluate`; asked for, it is refused with the one column that may be meant."""
    options = ("--csv",) if name.endswith(".csv") else ("--json",)
    (trained / name).write_text(called("predict", "run", "new", *options, cwd=trained).stdout)
    for args in (("labels", "new"), ("evaluate", "run", "new")):
        done = called(*args, cwd=trained)
        assert (done.returncode, "pred" in done.stderr) == (3, False)
    refused = called("evaluate", "run", "new", "--labels", name, cwd=trained)
    assert refused.stderr == (
        f"capture: '{name}' has predictions (the column `pred`) and no labels; if they are to be the labels, name the column: "
        f"--labels {name}:pred\n"
    )
    assert refused.returncode == 2
    assert called("evaluate", "run", "new", "--labels", f"{name}:file,pred", "-q", cwd=trained).returncode == 0
    (trained / name).unlink()


@pytest.mark.parametrize("column", ["pred", "Prediction", "predicted_class", "y_pred", "pred_2", "suggested"])
def test_a_column_of_predictions_is_never_taken_unasked(tmp_path: Path, column: str) -> None:
    """Also where it is the only other one; columns of labels beside it are taken as ever."""
    folder = make_images(tmp_path / "data", classes=2)
    rows = [(f"{i}.png", "ab"[i % 2], "ba"[i // 2 % 2]) for i in range(16)]
    for file, (name, _, _) in zip(sorted(folder.iterdir()), rows, strict=True):
        file.rename(folder / name)
    table = tmp_path / "data.csv"
    for header, width in ((["file", "label", column], 3), (["file", "made", column], 3), (["file", column], 2)):
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([header, *([row[0], *row[3 - width + 1 :]] for row in rows)])
        named = typed("labels", str(folder), "--labels", str(table))
        offered = typed("labels", str(folder))[2]
        assert f",{column}" not in offered
        assert ("--labels" in offered and str(table) in offered) == (header[1] == "label")
        assert (named[0], f"--labels {table}:{column}" in named[2]) == ((0, False) if width == 3 else (2, True))
