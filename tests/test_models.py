"""`--model`: every name becomes a network that fits the images, or one line that says what would."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from capture_cli import models
from capture_cli.errors import UsageError
from capture_cli.models import check, zoo
from capture_cli.models.nets import CNN

SIZES = [(1, 1), (1, 10), (7, 5), (28, 28), (64, 64), (300, 2)]
ZOO = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121", "shufflenet_v2_x0_5", "googlenet", "regnet_y_400mf"]


def build(spec: str, *, classes: int = 3, channels: int = 1, height: int = 28, width: int = 28, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(spec, classes=classes, channels=channels, height=height, width=width)


def refusal(spec: str, **size: int) -> str:
    """The line that a person would read."""
    with pytest.raises(UsageError) as caught:
        build(spec, **size)
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.hint
    return f"{caught.value.message}; {caught.value.hint}"


def write(folder: Path, text: str, name: str = "net.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


# built in


@pytest.mark.parametrize("spec", ["linear", "mlp", "cnn"])
@pytest.mark.parametrize("size", SIZES)
def test_own_models_train_on_images_of_any_size(spec: str, size: tuple[int, int]) -> None:
    """A batch of two images of any size and channels gives logits, and every parameter a finite gradient."""
    for channels in (1, 3, 4):
        model = build(spec, channels=channels, height=size[0], width=size[1])
        logits = model(torch.randn(2, channels, *size))
        assert logits.shape == (2, 3)
        nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_cnn_on_large_images_costs_little_more() -> None:
    """No image up to 256 pixels costs the cnn more than seven times the multiplications of a 28x28 one."""

    def multiplications(height: int, width: int) -> int:
        total = 0

        def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            nonlocal total
            assert isinstance(layer, nn.Conv2d)
            total += output[0].numel() * layer.weight[0].numel()

        model = CNN(classes=3, channels=3, height=height, width=width).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(count)
        model(torch.zeros(1, 3, height, width))
        return total

    usual = multiplications(28, 28)
    assert max(multiplications(side, side) for side in (29, 40, 56, 57, 96, 112, 113, 224, 225, 256)) <= 7 * usual


def test_cnn_learns() -> None:
    """Thirty steps on sixteen images are enough for the cnn to know them, in evaluation mode as well."""
    model = build("cnn", height=12, width=12)
    images, labels = torch.randn(16, 1, 12, 12), torch.arange(16) % 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()
    assert (model(images).argmax(1) == labels).all()


def test_cnn_is_saved_and_loaded(tmp_path: Path) -> None:
    """Its weights are contiguous, so safetensors takes them as they are, and loaded again they give the same logits."""
    model, other = build("cnn", channels=3).eval(), build("cnn", channels=3, seed=1).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = torch.randn(4, 3, 28, 28)
    assert torch.equal(model(images), other(images))


@pytest.mark.parametrize("spec", ["linear", "mlp", "cnn", "torchvision:squeezenet1_1"])
def test_weights_come_from_the_seed_alone(spec: str) -> None:
    """One seed gives one model, another seed another, and trying the model draws no random number."""
    first, after = build(spec), torch.get_rng_state()
    again, after_again = build(spec), torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(after, after_again)
    assert not torch.equal(next(first.parameters()), next(build(spec, seed=1).parameters()))


# torchvision's


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ZOO)
def test_torchvision_models_are_fitted(name: str, channels: int) -> None:
    """Head, stem and auxiliary heads fit: in training mode too the output is one tensor of logits, without a warning."""
    model = build(f"torchvision:{name}", channels=channels, height=32, width=40)
    assert model.training
    assert model(torch.randn(2, channels, 32, 40)).shape == (2, 3)


def test_new_stem_keeps_the_spread_of_its_output() -> None:
    """A stem drawn for one channel gives noise the variance of the three-channel stem that it replaces."""
    spreads = []
    for channels in (3, 1):
        stem = next(
            m
            for m in build("torchvision:densenet121", channels=channels, height=32, width=32).modules()
            if isinstance(m, nn.Conv2d)
        )
        spreads.append(stem(torch.randn(8, channels, 32, 32)).std().item())
    assert spreads[1] == pytest.approx(spreads[0], rel=0.1)


@pytest.mark.parametrize(("side", "kernel", "pooled"), [(32, 3, False), (64, 3, True), (65, 7, True)])
def test_resnets_see_small_images(side: int, kernel: int, pooled: bool) -> None:
    """Up to 64 pixels a ResNet begins with a 3x3 convolution of stride 1, up to 32 without the max-pool."""
    model = build("torchvision:resnet18", height=side, width=side)
    conv, pool = model.get_submodule("conv1"), model.get_submodule("maxpool")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size[0], conv.in_channels) == (kernel, 1)
    assert isinstance(pool, nn.MaxPool2d) == pooled


@pytest.mark.parametrize(
    ("name", "size", "advice"),
    [
        ("alexnet", (28, 28), 64),
        ("vit_b_16", (28, 28), 32),
        ("vit_b_16", (32, 48), 48),
        ("maxvit_t", (32, 32), 224),
        ("inception_v3", (64, 64), 96),
    ],
)
def test_a_size_that_a_model_cannot_take_is_refused_with_one_that_it_can(name: str, size: tuple[int, int], advice: int) -> None:
    """The line names the model, the size at hand and a size that works; that size works."""
    line = refusal(f"torchvision:{name}", height=size[0], width=size[1])
    assert f"torchvision:{name} fails on 1x{size[0]}x{size[1]} images" in line
    assert line.endswith(f"it takes {advice}x{advice}: --img-size {advice}")
    if name in {"alexnet", "vit_b_16"}:  # the others take long
        assert build(f"torchvision:{name}", height=advice, width=advice)


def test_for_an_unknown_torchvision_model_the_closest_names_are_suggested() -> None:
    """A mistyped name is close to a right one; of a random one there is an example."""
    assert "no classifier resnet81; did you mean torchvision:resnet18, torchvision:" in refusal("torchvision:resnet81")
    assert "torchvision:resnet18" in refusal("torchvision:quux")


def test_names_are_checked_before_torch_is_imported() -> None:
    """The check reads the source of the package: it knows every name, and one without its prefix too."""
    import torchvision

    assert zoo.names_in_source() == set(torchvision.models.list_models(module=torchvision.models))
    for spec, said in (
        ("torchvision:resnet81", "did you mean torchvision:resnet18, "),
        ("resnet18", "did you mean torchvision:resnet18?"),
        ("timm:resnet10x", "did you mean timm:resnet10t, "),
    ):
        with pytest.raises(UsageError) as caught:
            check(spec)
        assert said in caught.value.hint
    check("timm:resnet18.a1_in1k")


def test_a_factory_that_its_file_never_mentions_is_refused_unrun(tmp_path: Path) -> None:
    """With the closest name."""
    path = write(tmp_path, "raise SystemExit\ndef build(**size): ...\n")
    with pytest.raises(UsageError, match="has no function bild") as caught:
        check(f"{path}:bild")
    assert caught.value.hint == "did you mean build?"
    check(f"{path}:build")


@pytest.mark.parametrize(
    "made",
    [
        "globals()[name] = make",
        "locals()[name] = make",
        "vars()[name] = make",
        "import sys\nsys.modules[__name__].__dict__[name] = make",
        "import sys\nsetattr(sys.modules[__name__], name, make)",
        "exec(f'{name} = make')",
        "def __getattr__(one): return make",
    ],
)
def test_a_file_that_makes_its_names_as_it_runs_is_run(tmp_path: Path, made: str) -> None:
    """The name of the function need not be in the text: the file is run to find it."""
    layers = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))"
    made_by = f"import torch\ndef make(**size): return {layers}\nname = 'n' + 'et'\n"
    spec = f"{write(tmp_path, made_by + made)}:net"
    check(spec)
    assert isinstance(models.build(spec, classes=2, channels=1, height=2, width=2), nn.Sequential)


# a user's own


def test_a_factory_is_called_with_classes_channels_and_size(tmp_path: Path) -> None:
    """`FILE.py:FACTORY` gets the four keywords; what it returns is the model, in the modes that it chose."""
    path = write(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from torch import nn

        @dataclass
        class Size:
            pixels: int

        def tiny(*, classes, channels, height, width):
            size = Size(channels * height * width)
            return nn.Sequential(nn.Flatten(), nn.Linear(size.pixels, classes), nn.Dropout(0.5).eval())
        """,
    )
    path_before, spec = list(sys.path), f"{path}:tiny"
    models.check(spec)
    model = build(spec, classes=5, channels=2, height=3, width=4)
    assert model(torch.zeros(7, 2, 3, 4)).shape == (7, 5)
    assert [child.training for child in model.children()] == [True, True, False]
    assert sys.path == path_before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.py"], "nothing is written beside the file"


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    """The current source runs, even if it was changed within the same second and kept its length."""
    for hidden in (8, 9):
        path = write(
            tmp_path,
            f"""
            from torch import nn
            def net(classes, **size):
                return nn.Sequential(nn.Flatten(), nn.LazyLinear({hidden}), nn.Linear({hidden}, classes))
            """,
        )
        assert build(f"{path}:net").get_submodule("2").in_features == hidden


def test_the_sentence_about_running_code_is_for_files_alone() -> None:
    """`notice` names file and function where building runs a user's code, and is empty elsewhere."""
    assert (
        models.notice("my/net.py:tiny")
        == "the model comes from my/net.py: capture runs the code in that file, then calls tiny()"
    )
    assert [models.notice(spec) for spec in ("cnn", "torchvision:resnet18")] == ["", ""]


MODELS = """
from torch import nn
def net(**size):
    return """

WRONG_FILES = [
    ("def other(): pass", "has no function net; it has other"),
    ("net = 3", "has no function net; define it there"),
    (
        "import no_such_module_\ndef net(): pass",
        "could not be run at line 1: ModuleNotFoundError: No module named 'no_such_module_'; install it",
    ),
    ("def net(:", "could not be run at line 1: SyntaxError: invalid syntax"),
    ("raise SystemExit\ndef net(): pass", "could not be run at line 1: SystemExit;"),
    (
        "def net(**size):\n    raise KeyError('x')",
        "net(classes=3, channels=1, height=28, width=28) in {path} failed at line 2: KeyError",
    ),
    ("def net(size): pass", "failed: TypeError: net() got an unexpected keyword argument 'classes'"),
    ("def net(**size): return 'x'", "returned str, not a torch.nn.Module"),
    (MODELS + "nn.Linear(5, 3)", "must map float32 [B, 1, 28, 28] on the CPU to logits [B, 3]"),
    (MODELS + "nn.LSTM(28, 3)", "fails on 1x28x28 images: "),
    (
        MODELS + "nn.Sequential(nn.Flatten(), nn.Linear(784, 9))",
        "returns torch.float32 [2, 9] for a batch of two images; it must",
    ),
    (MODELS + "nn.Flatten()", "returns torch.float32 [2, 784] for a batch of two images; it must return"),
    (MODELS + "nn.Sequential(nn.Flatten(), nn.Linear(784, 3).requires_grad_(False))", "has no parameter to train"),
]


@pytest.mark.parametrize(("body", "expected"), WRONG_FILES)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, body: str, expected: str) -> None:
    """The line names the file, and the function or the line in it, and what would be right."""
    path = write(tmp_path, body)
    line = refusal(f"{path}:net")
    assert str(path) in line
    assert expected.format(path=path) in line


# names


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("cmn", "there is no model 'cmn'; did you mean cnn?"),
        ("vgg", "there is no model 'vgg'; choose linear, mlp, cnn, torchvision:NAME"),
        ("", "there is no model ''; choose"),
        ("torchvision:", "names no torchvision model; write its name, such as torchvision:resnet18"),
        ("torchvision:a/b", "names no torchvision model"),
        ("net.py", "names no function in that file; name the function: net.py:build"),
        ("net.py:", "'' is not a function name"),
        ("no/net.py:build", "there is no file no/net.py"),
    ],
)
def test_names_that_cannot_be_are_refused_without_torch(spec: str, expected: str) -> None:
    """`check` needs no torch: it refuses at once."""
    program = f"""
        import sys
        from capture_cli import models
        from capture_cli.errors import UsageError
        try:
            models.check({spec!r})
        except UsageError as error:
            print(f"{{error.message}}; {{error.hint}}")
        sys.exit("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert expected in done.stdout
