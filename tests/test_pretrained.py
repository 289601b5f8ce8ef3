"""Training from weights that are there already: published ones, files, other runs. The weights are made here; no network."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from capture_cli import models
from capture_cli.models import pretrained, saved
from capture_cli.models.freezing import freeze, head_of
from capture_cli.preprocessing import Recipe
from conftest import make_images
from cutting import Trainer, kept, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
NET = "torchvision:squeezenet1_1"
"""The smallest network of torchvision; its published weights expect 224 x 224, a crop of 256."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/` (grey) and `photos/` (colour, of two classes)."""
    call = trainer(tmp_path, monkeypatch)
    make_images(Path("photos"), classes=2, each=5, size=(48, 40), colour=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return call


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Weights of the network with 1,000 classes, as torchvision publishes them."""
    import torchvision.models as tv

    torch.manual_seed(7)
    return dict(tv.squeezenet1_1(weights=None).state_dict())


def run_info(run: str) -> dict[str, Any]:
    """Return the first record."""
    found: dict[str, Any] = json.loads(Path(run, "records.jsonl").read_bytes().splitlines()[0])
    return found


def publish(state: dict[str, torch.Tensor]) -> None:
    """Put weights where torchvision finds those that it has downloaded before."""
    import torchvision.models as tv

    place = Path("torch/hub/checkpoints")
    place.mkdir(parents=True)
    torch.save(state, place / tv.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2])


OPTIONS = ("photos", "-m", NET, "-e", "1", "-b", "4")


def test_published_weights_bring_their_inputs_and_lose_their_head(
    train: Trainer, state: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """Size, crop and normalisation are in the recipe; replay makes the inputs again, evaluate uses them."""
    publish(state)
    assert train(*OPTIONS, "--weights=DEFAULT", "--freeze=backbone", "-o", "run", quiet=False) == 0
    said = capsys.readouterr().err
    assert "Weights: DEFAULT; the last layer is new: 2 classes instead of 1,000" in said
    assert "224x224, RGB, centre crop (0.875 of the shorter side); as the weights were trained" in said
    recipe = run_info("run")["recipe"]
    assert (recipe["height"], recipe["resize"], recipe["crop_share"]) == (224, "crop", 0.875)
    assert recipe["centre"] == pytest.approx([123.675, 116.28, 103.53])
    trained = load_file("run/model.safetensors")
    assert all(torch.equal(trained[name], state[name]) for name in state if not name.startswith("classifier.1"))
    assert train("run", "--outputs", "--json", command="replay") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] == 10
    assert found["outputs"] > 0
    assert train("run", "photos", "-o", "test", "-q", command="evaluate") == 0
    assert run_info("test")["recipe"] == recipe


def test_the_first_record_names_the_digest_of_the_initial_weights(train: Trainer, state: dict[str, torch.Tensor]) -> None:
    """Other weights, another digest; the same weights from another kind of file, the same."""
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, "wrapped.pth")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, "plain.safetensors")
    seen = {}
    for name in ("wrapped.pth", "plain.safetensors", None):
        weights = [f"--weights={name}"] if name else []
        assert train(*OPTIONS, "--img-size=64", *weights, "-o", f"run-{name}") == 0
        seen[name] = run_info(f"run-{name}")["model"]["initial_digest"]
    assert seen["wrapped.pth"] == seen["plain.safetensors"] != seen[None]
    assert kept(Path("run-wrapped.pth"))["model.safetensors"] == kept(Path("run-plain.safetensors"))["model.safetensors"]


def test_another_run_is_continued_on_the_same_classes_and_on_others(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """Its recipe holds; the last layer is kept if the classes are the same."""
    assert train("images", "-e", "1", "-m", "mlp", "--name", "first") == 0
    assert train("images", "-e", "1", "-m", "mlp", "--weights=first", "--lr=1e-9", "-o", "same", quiet=False) == 0
    assert "Weights: runs/first; the last layer is kept" in capsys.readouterr().err
    first, same = load_file("runs/first/model.safetensors"), load_file("same/model.safetensors")
    assert all(torch.allclose(first[name], same[name], atol=1e-6) for name in first)
    shutil.copytree("images", "renamed")
    for path in Path("renamed").glob("ant_*"):
        path.rename(path.with_name(path.name.replace("ant", "zebra")))
    assert train("renamed", "-e", "1", "-m", "mlp", "--weights=last", "-o", "other", quiet=False) == 0
    assert "the last layer is new, since its 3 classes are others" in capsys.readouterr().err
    assert train("images", "-e", "1", "-m", "mlp", "--weights=first", "--channels=3", "-o", "wrong") == 2
    assert "--channels 3 does not fit --weights" in capsys.readouterr().err


MATRIX = (
    "--weights=DEFAULT --freeze=3 --lr-head=0.01 --img-size=64 --ema=0.9 --mixup=0.2",
    "--weights=weights.pth --freeze=backbone --opt=sgd --augment=flip,color --img-size=64 --grad-accum=2",
    "--weights=DEFAULT --lr-head=0.1 --opt=adam --img-size=64x48 --resize=pad --sampler=balanced",
)


@pytest.mark.parametrize("options", MATRIX)
def test_killed_resumed_and_replayed(
    train: Trainer, state: dict[str, torch.Tensor], options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for the other options of a training."""
    publish(state)
    torch.save(state, "weights.pth")
    arguments = (*OPTIONS, *options.split(), "--checkpoint-every=1", "--val-split=0.3")
    assert train(*arguments, "-o", "whole") == 0
    lines = len(Path("whole/records.jsonl").read_bytes().splitlines())
    assert train(*arguments, "-o", "cut", cut_after=lines // 2 + 1) == -9
    assert train("--resume", "cut") == 0
    assert kept(Path("cut")) == kept(Path("whole"))
    capsys.readouterr()
    assert train("cut", "--outputs", "--json", command="replay") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] >= 8
    assert found["outputs"] > 0


def test_a_frozen_layer_keeps_its_weights_and_statistics(train: Trainer) -> None:
    """Batch normalisation too; the head has a learning rate of its own."""
    Path("net.py").write_text(
        "from torch import nn\n"
        "def make(classes, channels, height, width):\n"
        "    first = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU())\n"
        "    return nn.Sequential(first, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, classes))\n"
    )
    shared = ("images", "-m", "net.py:make", "-e", "1")
    torch.manual_seed(1)
    start = models.build("net.py:make", classes=3, channels=1, height=8, width=8)
    save_file(dict(start.state_dict()), "start.safetensors")
    assert train(*shared, "--weights=start.safetensors", "--freeze=2", "-o", "run") == 0
    after = load_file("run/model.safetensors")
    same = {name for name, tensor in start.state_dict().items() if torch.equal(tensor, after[name])}
    assert {name for name in after if name.startswith("0.")} == same
    assert train(*shared, "--weights=start.safetensors", "--lr=1e-9", "--lr-head=0.01", "-o", "head") == 0
    after = load_file("head/model.safetensors")
    moved = {name for name, tensor in start.named_parameters() if not torch.allclose(tensor, after[name], atol=1e-5)}
    assert moved == {"4.weight", "4.bias"}


def test_the_head_is_the_last_layer_with_an_output_for_each_class() -> None:
    """Whatever it is called."""
    for spec, name in ((NET, "classifier.1"), ("torchvision:resnet18", "fc"), ("cnn", "head.2"), ("mlp", "7")):
        model = models.build(spec, classes=3, channels=3, height=64, width=64)
        head = head_of(model, 3)
        assert head is not None
        assert head[0] == name
        assert freeze(model, "backbone", classes=3)
        trained = [one for one, parameter in model.named_parameters() if parameter.requires_grad]
        assert {one.rpartition(".")[0] for one in trained} == {name}
    assert head_of(nn.Sequential(nn.Linear(3, 4)), 5) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-m torchvision:squeezenet1_1 --weights=IMAGENET9", "choose DEFAULT, IMAGENET1K_V1, or a file"),
        ("-m cnn --weights=DEFAULT", "nobody publishes weights of cnn; choose a model that has some, such as -m torchvision:"),
        ("-m cnn --weights=missing.pth", "there is no such file or run; give a .safetensors or .pth file, or a run"),
        (
            "-m cnn --weights=code.pth",
            "code.pth holds Python objects, such as a whole model, or is damaged; capture reads tensors",
        ),
        ("-m cnn --weights=list.pth", "is no state_dict"),
        ("-m cnn --weights=broken.safetensors", "it is not a safetensors file, or damaged"),
        ("-m linear --weights=other.pth", "do not fit linear: 'x' is unknown"),
        ("-m linear --weights=narrow.pth", "'7.weight' is unknown"),
        ("-m cnn --freeze=99", "the model has"),
        ("-m cnn --freeze=all", "choose backbone, or a number of layers"),
        ("-m timm:nothing_of_this_name", "timm has no model nothing_of_this_name"),
        (
            "-m raises.py:build",
            "build(classes=3, channels=1, height=8, width=8) in raises.py failed at line 2: ValueError: no layer",
        ),
        ("-m torchvision:vit_b_32 --weights=DEFAULT --img-size=32", "'encoder.pos_embedding' is [1, 50, 768], not [1, 2, 768]"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    train: Trainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str, said: str
) -> None:
    """Also files that would run code when they are unpickled. A dry run says the same."""
    torch.save({"x": torch.zeros(1)}, "other.pth")
    torch.save({"1.weight": torch.zeros(3, 9), "7.weight": torch.zeros(1)}, "narrow.pth")
    torch.save([1], "list.pth")
    torch.save(Planted(), "code.pth")
    Path("broken.safetensors").write_bytes(b"nothing")
    Path("raises.py").write_text("def build(classes, channels, height, width):\n    raise ValueError('no layer')\n")
    if "timm" in options:
        pytest.importorskip("timm")
    if "vit" in options:  # the shapes are what counts; nothing is downloaded
        monkeypatch.setattr(pretrained, "_downloaded", pretrained._blank)
    assert train("images", *options.split(), "-o", "run") == 2
    line = capsys.readouterr().err
    assert said in line
    assert train("images", *options.split(), "--dry-run") == 2
    assert capsys.readouterr() == ("", line)
    assert not Path("run").exists()
    assert not Path("planted").exists()


def test_a_dry_run_downloads_nothing(
    train: Trainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    """It compares the shapes of published weights with the network, and says so; weights in a file are loaded."""
    import torchvision.models as tv

    monkeypatch.setattr(tv.WeightsEnum, "get_state_dict", lambda *_, **__: pytest.fail("downloaded"))
    assert train(*OPTIONS, "--weights=DEFAULT", "--freeze=backbone", "--dry-run") == 0
    out, err = capsys.readouterr()
    total, head = 723_522, 512 * 2 + 2
    assert f"network: {NET}, {total:,} parameters, {total - head:,} of them frozen\n" in out
    downloaded = "downloaded when the training begins unless they are cached"
    assert f"weights: DEFAULT, {downloaded}; the last layer is new: 2 classes instead of 1,000\n" in out
    assert (err, Path("torch").exists()) == ("", False)
    torch.save(state, "state.pth")
    assert train(*OPTIONS, "--weights=state.pth", "--dry-run") == 0
    assert "weights: state.pth; the last layer is new: 2 classes instead of 1,000\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-o run", "'run' already holds a run; choose another -o or --name, or overwrite it with --force"),
        ("-o images", "'images' is not empty and not a run folder"),
        ("-o run.jsonl", "'run.jsonl' exists; choose another"),
        ("-o new --name new", "--out and --name both say where the run goes"),
        ("-o - --tensorboard", "--tensorboard needs a run folder"),
        ("-o new.jsonl --folds 3", "--folds needs a run folder"),
        ("--name a/b", "--name 'a/b' is not the name of a folder"),
    ],
)
def test_a_dry_run_refuses_an_output_that_is_taken(
    train: Trainer, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    """In the words of the training; nothing is made."""
    Path("run").mkdir()
    for place in ("run/records.jsonl", "run.jsonl"):
        Path(place).touch()
    before = sorted(Path().rglob("*"))
    lines = []
    for dry in ([], ["--dry-run"]):
        assert train("images", *options.split(), *dry) == 2
        lines.append(capsys.readouterr().err)
    assert (lines[0], sorted(Path().rglob("*"))) == (lines[1], before)
    assert said in lines[0]
    if "-o run" in options:
        assert train("images", *options.split(), "--force", "--dry-run") == 0


def test_a_dry_run_of_a_resumed_run(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """It says where the run continues, or that these options are of another run, and changes nothing."""
    assert train("images", "-e", "2", "-o", "run", cut_after=7) == -9
    before = kept(Path("run"))
    assert train("--resume", "run", "-n") == 0
    assert capsys.readouterr().err == "resuming from the beginning: there is no checkpoint\n"
    assert train("--resume", "run", "-n", "--seed", "3") == 2
    assert "config.seed was 0, is 3" in capsys.readouterr().err
    assert kept(Path("run")) == before


class Planted:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('planted', 'w').close()",))


def test_weights_that_cannot_be_downloaded(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and a way out."""
    import torchvision.models as tv

    place = Path("torch/hub/checkpoints", tv.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2])
    place.mkdir(parents=True)  # a folder in its place: no network is needed to fail
    assert train(*OPTIONS, "--weights=DEFAULT", "-o", "run") == 1
    said = capsys.readouterr().err
    assert "could not be downloaded" in said
    assert "give a file: --weights FILE.pth" in said
    assert said.count("\n") == 1


def test_small_images_keep_the_stem_of_the_weights(train: Trainer) -> None:
    """A ResNet that begins with random weights gets a small one; the saved model knows which it has."""
    torch.manual_seed(3)
    import torchvision.models as tv

    torch.save(tv.resnet18(num_classes=5).state_dict(), "resnet.pth")
    options = ("photos", "-m", "torchvision:resnet18", "-e", "1", "--img-size=32")
    assert train(*options, "--weights=resnet.pth", "-o", "run") == 0
    header, tensors = saved.read(Path("run/model.safetensors"))
    assert header.original_stem
    assert list(tensors["conv1.weight"].shape) == [64, 3, 7, 7]
    assert Recipe.from_dict(dict(header.recipe)).height == 32
    assert train("run", "photos", "-o", "test", "-q", command="evaluate") == 0
    assert train(*options, "--weights=run", "-o", "again") == 0
    assert saved.read(Path("again/model.safetensors"))[0].original_stem


def test_timm(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of timm, its weights from a file, its own inputs; evaluate and replay build it again."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    model = timm.create_model("test_resnet.r160_in1k")
    torch.save(model.state_dict(), "timm.pth")
    options = ("photos", "-m", "timm:test_resnet", "--weights=timm.pth", "-e", "1", "--freeze=backbone")
    assert train(*options, "-o", "run", quiet=False) == 0
    assert "the last layer is new: 2 classes instead of 1,000" in capsys.readouterr().err
    assert run_info("run")["recipe"]["height"] == 160
    assert train("run", "--outputs", "--json", command="replay") == 0
    assert json.loads(capsys.readouterr().out)["outputs"] > 0
    assert train("run", "photos", "-o", "test", "-q", command="evaluate") == 0
