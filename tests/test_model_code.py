"""A file of code that changes after the training: `--resume` refuses it, whatever else uses the model warns."""

import dataclasses
import json
import warnings
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from capture_cli import load_model
from capture_cli.models import userfile
from capture_cli.models.saved import read
from cutting import Trainer, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CODE = """
from torch import nn

def make(classes, channels, height, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8), nn.ReLU(), nn.Linear(8, classes))
"""
OTHER = CODE.replace("ReLU", "Sigmoid")
NET = ("-m", "net.py:make", "-e", "2")
CHANGED = "net.py has changed since the training: the weights were trained with other code, so results may be wrong"


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/` and `net.py`."""
    (tmp_path / "net.py").write_text(CODE)
    return trainer(tmp_path, monkeypatch)


def without_digest(run: str) -> None:
    """Make a run what an earlier version would have left: no digest in its model."""
    for name in ("model.safetensors", "best.safetensors"):
        with safe_open(f"{run}/{name}", "pt") as file:
            header = json.loads(file.metadata()["capture"])
        del header["code_digest"]
        save_file(load_file(f"{run}/{name}"), f"{run}/{name}", {"capture": json.dumps(header)})


def test_the_digest_is_in_the_model_and_in_the_records(train: Trainer) -> None:
    """Of a model of one's own alone; of an evaluation and a prediction too."""
    digest = blake2b(CODE.encode(), digest_size=16).hexdigest()
    assert train("images", *NET, "-o", "run") == 0
    assert read(Path("run/model.safetensors"))[0].code_digest == digest
    assert train("run", "images", "-o", "ev", command="evaluate") == 0
    assert train("run", "images", "--records", "pre", command="predict") == 0
    for name in ("run", "ev", "pre"):
        with Path(name, "records.jsonl").open() as lines:
            assert json.loads(next(lines))["model"]["code_digest"] == digest
    assert train("images", "-e", 1, "-o", "plain") == 0
    assert read(Path("plain/model.safetensors"))[0].code_digest is None
    assert "code_digest" not in Path("plain/records.jsonl").read_text()


@pytest.mark.parametrize("how", ["cut", "more epochs"])
def test_resume_refuses_other_code(train: Trainer, capfd: pytest.CaptureFixture[str], how: str) -> None:
    """Even where its weights have the same names and shapes. Restored, the run goes on."""
    assert train("images", *NET, "-o", "run", cut_after=8 if how == "cut" else None) == (-9 if how == "cut" else 0)
    args = ("--resume", "run", *(() if how == "cut" else ("-e", 3)))
    before = Path("run/records.jsonl").read_bytes()
    Path("net.py").write_text(OTHER)
    for more in ((), ("--allow-env-change",), ("--dry-run",)):
        capfd.readouterr()
        assert train(*args, *more) == 2
        assert (
            "this would be another run: net.py has changed since it began; resume with the options, images and code it began "
            "with, or start a new run"
        ) in capfd.readouterr().err
    assert Path("run/records.jsonl").read_bytes() == before
    Path("net.py").write_text(CODE)
    assert train(*args) == 0


def test_a_run_of_an_earlier_version_resumes(train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know its code, so nothing can be said; the records stay as they began."""
    with monkeypatch.context() as earlier:
        earlier.setattr(userfile, "digest", lambda _: None)
        assert train("images", *NET, "-o", "run", cut_after=8) == -9
    Path("net.py").write_text(f"{CODE}# other bytes\n")
    assert train("--resume", "run") == 0
    assert "code_digest" not in Path("run/records.jsonl").read_text()


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("evaluate", ("run", "images", "-q", "-o", "ev")),
        ("predict", ("run", "images/ant_000.png", "-q")),
        ("export", ("run", "--onnx", "model.onnx")),
        ("train", ("images", *NET, "--weights", "run", "-o", "next")),
        ("train", ("images", *NET, "--weights", "run", "--dry-run")),
    ],
)
def test_what_uses_the_model_warns_once(
    train: Trainer, capfd: pytest.CaptureFixture[str], command: str, args: tuple[Any, ...]
) -> None:
    """In one line on stderr, also with -q; nothing is said of the code as it was, and of a model without a digest."""
    if command == "export":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    assert train("images", *NET, "-o", "run") == 0

    def said() -> int:
        capfd.readouterr()
        again = ("--force",) if command != "predict" and Path("again").exists() else ()
        assert train(*args, *again, command=command) == 0
        Path("again").touch()
        return capfd.readouterr().err.count(f"warning: {CHANGED}\n")

    assert said() == 0
    Path("net.py").write_text(OTHER)
    assert said() == 1
    without_digest("run")
    assert said() == 0


def test_load_model_warns(train: Trainer) -> None:
    """As a warning of Python."""
    assert train("images", *NET, "-o", "run") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("run")
        Path("net.py").write_text(OTHER)
        with pytest.raises(UserWarning, match=r"net\.py has changed since the training"):
            load_model("run")


def test_diff_names_it(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Of two runs with the same options."""
    assert train("images", *NET, "-o", "one") == 0
    Path("net.py").write_text(OTHER)
    assert train("images", *NET, "-o", "other") == 0
    capfd.readouterr()
    train("one", "other", command="diff")
    assert "model.code_digest" in capfd.readouterr().out


def test_replay_names_it_where_outputs_differ(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Code that computes the same is no difference."""
    assert train("images", *NET, "-o", "run") == 0
    replay = ("run", "--outputs", "--model", "net.py:make")
    Path("net.py").write_text(f"{CODE}# a comment\n")
    assert train(*replay, command="replay") == 0
    assert "the code in --model" not in capfd.readouterr().err
    Path("net.py").write_text(OTHER)
    assert train(*replay, command="replay") == 4
    assert "; the code in --model is not that of the run)" in capfd.readouterr().err


def test_folds_are_trained_by_one_code(
    train: Trainer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that is edited meanwhile stops the run; restored, it resumes."""
    from capture_cli.cli import folds

    run = folds.run_training

    def edited(*args: Any, **more: Any) -> None:
        run(*args, **more)
        Path("net.py").write_text(OTHER)

    with monkeypatch.context() as patch:
        patch.setattr(folds, "run_training", edited)
        assert train("images", *NET, "--folds", 2, "-o", "run") == 2
    said = "net.py has changed since the run began; restore it, and resume with: capture train --resume run; or start a new run"
    assert said in capfd.readouterr().err
    assert train("--resume", "run") == 2
    assert "net.py has changed since it began" in capfd.readouterr().err
    Path("net.py").write_text(CODE)
    assert train("--resume", "run") == 0


def test_a_digest_that_is_no_text_is_refused(train: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Model files may come from anywhere."""
    assert train("images", *NET, "-o", "run") == 0
    header, tensors = read(Path("run/model.safetensors"))
    save_file(tensors, "run/best.safetensors", {"capture": json.dumps(dataclasses.asdict(header) | {"code_digest": [1]})})
    assert train("run", "images", command="evaluate") == 2
    assert "has a header that this version of capture does not know" in capfd.readouterr().err
