"""`capture export`: a trained model as an ONNX file that gives the same logits."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from capture_cli import load_model
from capture_cli.cli import run
from capture_cli.errors import CaptureError
from capture_cli.training import exporting
from conftest import make_images

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of images, and a run on them."""
    place = tmp_path_factory.mktemp("place")
    images = make_images(place / "images", each=30, colour=True)
    assert run(["train", str(images), "-m", "cnn", "-e", "1", "-q", "-o", str(place / "runs" / "one")]) == 0
    return place


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in that folder."""
    monkeypatch.chdir(place)
    return place


def test_onnx_runtime_gives_the_same_logits(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For any number of rows; classes and recipe are in the metadata, and nothing of this machine."""
    file = tmp_path / "model.onnx"
    assert run(["export", "one", "--onnx", str(file)]) == 0
    assert "ONNX Runtime agrees on 64 images within" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    classifier = load_model("runs/one")
    for n in (1, 7, 40):
        inputs = classifier.inputs(sorted((here / "images").iterdir())[:n])
        (logits,) = session.run(["logits"], {"input": inputs.numpy()})
        assert np.abs(logits - classifier.logits(inputs).numpy()).max() < 1e-4
    about = json.loads(session.get_modelmeta().custom_metadata_map["capture"])
    assert about["classes"] == ["ant", "bee", "cat"]
    assert about["recipe"] == classifier.recipe.to_dict()
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()


def test_a_model_that_differs_is_not_written(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, and no file."""
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    assert run(["export", "one", "--onnx", str(tmp_path / "model.onnx")]) == 1
    assert "ONNX Runtime does not agree with the model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_the_packages_the_way_to_them_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is done."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(["export", "one", "--onnx", "model.onnx"]) == 2
    message = "--onnx needs the package onnxruntime, which is not installed; install it: pip install 'capture-cli[onnx]'"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("one", "nothing says what to write; add --onnx FILE"),
        ("one --onnx images/ant_000.png", "'images/ant_000.png' exists"),
        ("one --onnx nowhere/model.onnx", "'nowhere/model.onnx' cannot be written"),
        ("one --onnx model.onnx --images nowhere", "no such folder: 'nowhere'"),
        ("ones --onnx model.onnx", "no such run: 'ones'; did you mean one?"),
        ("lonely.safetensors --onnx model.onnx", "is not in a run folder, so no images to check it on are known"),
    ],
)
def test_options_are_checked_first(here: Path, args: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line."""
    (here / "lonely.safetensors").write_bytes((here / "runs/one/model.safetensors").read_bytes())
    assert run(["export", *args.split()]) == 2
    assert message in capsys.readouterr().err


class Branching(torch.nn.Module):
    """Its path depends on the values of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B, C]."""
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.AdaptiveMaxPool2d(4), "ONNX has no form of aten.adaptive_max_pool2d; train with another layer in its place"),
        (Branching(), "torch cannot export this model: Could not guard on data-dependent expression"),
    ],
)
def test_the_cause_of_a_failure_is_told(model: torch.nn.Module, message: str) -> None:
    """Not the exporter's steps and escape codes."""
    with pytest.raises(CaptureError) as failure:
        exporting._converted(model.eval(), torch.rand(2, 3, 13, 13))
    assert message in str(failure.value)
    assert "\x1b" not in str(failure.value)
    assert "step 3/3" not in str(failure.value)
