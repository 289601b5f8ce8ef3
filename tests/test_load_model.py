"""`load_model`: a trained model as a function of pictures, in Python."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from capture_cli import CaptureError, load_model
from capture_cli.errors import DataError
from capture_cli.models import build
from capture_cli.pixels.geometry import Geometry
from capture_cli.preprocessing import Recipe
from capture_cli.runtime import Runtime
from capture_cli.training.prediction import Classifier
from conftest import train_networks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of images, and a run of each of two networks on them."""
    return train_networks(tmp_path_factory.mktemp("place"), "linear", "cnn")


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in that folder."""
    monkeypatch.chdir(place)
    return place


def test_the_best_epoch_is_used_unless_the_last_is_asked_for(here: Path) -> None:
    """The files of a run folder are two models; a model file is taken as it is."""
    best, last = here / "runs/linear/best.safetensors", here / "runs/linear/model.safetensors"

    def weights(classifier: Classifier) -> list[torch.Tensor]:
        state = classifier.model.state_dict()
        return [state[name] for name in sorted(state)]

    for loaded, file in (
        (load_model("runs/linear"), best),
        (load_model("runs/linear", last=True), last),
        (load_model(last), last),
        (load_model("linear"), best),
    ):
        saved = load_file(file)
        assert all(map(torch.equal, weights(loaded), [saved[name] for name in sorted(saved)]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_pictures_of_every_mode_are_taken(here: Path, mode: str) -> None:
    """As a file of the same content would be."""
    picture = Image.open("images/ant_000.png")
    made = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
    (one,) = load_model("runs/linear")(made)
    assert one
    assert one.file is None
    assert one.pred in ("ant", "bee", "cat")


def test_a_picture_that_cannot_be_used_is_an_error_or_none(here: Path) -> None:
    """As the caller asks."""
    classifier = load_model("runs/linear")
    pictures = ["images/ant_000.png", "nowhere.png", 7, "images/cat_000.png"]
    with pytest.raises(DataError, match=r"picture 1, '[^']+', cannot be used: missing; skip_unusable=True gives None"):
        classifier(pictures)  # type: ignore[arg-type]
    found = classifier(pictures, skip_unusable=True)  # type: ignore[arg-type]
    assert [one and one.file for one in found] == ["images/ant_000.png", None, None, "images/cat_000.png"]
    assert classifier([]) == []
    with pytest.raises(CaptureError, match="did you mean linear"):
        load_model("lineal")
    with pytest.raises(CaptureError, match="the device mars is not valid"):
        load_model("runs/linear", device="mars")


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn"])
def test_neither_batch_size_nor_order_changes_a_bit(model: str) -> None:
    """Networks of a usual size, where the libraries below torch choose their order of adding by the number of rows."""
    torch.manual_seed(0)
    inputs = torch.randn(70, 1, 28, 28)
    network = build(model, classes=10, channels=1, height=28, width=28)
    recipe = Recipe.of(Geometry(height=28, width=28, channels=1))
    header = SimpleNamespace(classes="abcdefghij", kinds=None)
    trained: Any = SimpleNamespace(header=header, recipe=recipe, build=lambda: network)
    runtime = Runtime(torch.device("cpu"), False, torch.get_num_threads())
    first, *others = (Classifier(trained, runtime, batch_size=size).logits(inputs) for size in (1, 7, 24, 64))
    assert all(torch.equal(one, first) for one in others)
    alone = Classifier(trained, runtime)
    assert torch.equal(alone.logits(inputs[41:42]), first[41:42])
    assert torch.equal(alone.logits(inputs.flip(0)), first.flip(0))


def test_loading_a_model_leaves_torch_as_it_was(here: Path) -> None:
    """No setting of the process that loads it changes."""
    before = torch.get_deterministic_debug_mode(), torch.get_num_threads(), torch.is_grad_enabled()
    load_model("runs/cnn")("images/ant_000.png")
    assert (torch.get_deterministic_debug_mode(), torch.get_num_threads(), torch.is_grad_enabled()) == before
