"""Augmentations by name: seeded by sample, the same in any batch, and made again by replay."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from capture_cli.augmentation import augmented, canonical, is_canonical, torchvision_steps
from capture_cli.config import TrainConfig
from capture_cli.keyed_random import path_keys
from capture_cli.normalisation import from_mean_and_std
from capture_cli.preprocessing import Recipe, make_batch, make_inputs, to_pixels
from conftest import make_images
from cutting import Trainer, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
EVERY = "flip,crop,rotate:15,color:0.4,randaugment:9,erase:0.25"
KEYS = path_keys([f"{number}.png" for number in range(40)])


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Call `capture train ARGS` beside `images/`."""
    return trainer(tmp_path, monkeypatch)


def store(channels: int = 3) -> np.ndarray:
    """Forty pictures."""
    return np.random.default_rng(0).integers(0, 256, (40, channels, 12, 16), np.uint8)


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("none", "none"),
        ("crop+flip", "flip+crop"),
        ("flip,crop", "flip+crop"),
        ("erase, flip, rotate", "flip,erase:0.25,rotate:15"),
        ("flip,crop,rotate:15,color,randaugment,erase", EVERY),
    ],
)
def test_a_list_is_recorded_in_one_way(typed: str, recorded: str) -> None:
    """flip and crop keep their old spelling; amounts are spelled out."""
    assert canonical(typed) == recorded
    assert is_canonical(recorded)
    assert is_canonical(typed) == (typed == recorded)
    assert TrainConfig(augment=typed).augment == recorded.replace("+", ",")


@pytest.mark.parametrize("wrong", ["spin", "flip,flip", "rotate:", "rotate:500", "rotate:-5", "flip:2", "randaugment:2.5"])
def test_others_are_refused(train: Trainer, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    """With the choices."""
    assert train("images", f"--augment={wrong}", "-o", "run") == 2
    assert "choose none, or flip, crop, rotate:DEGREES" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rotate:30", "color:0.5", "randaugment:9", "erase:1", EVERY])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_input_depends_on_its_sample_alone(name: str, channels: int) -> None:
    """Any batch, any order, any number of threads, torch or not: the same bits; other epochs and seeds: others."""
    pixels = store(channels)
    recipe = Recipe(height=12, width=16, channels=channels, augment=name)
    options = {"recipe": recipe, "seed": 3, "epoch": 2, "augment": True}
    ids = np.arange(40)
    whole = make_batch(torch.from_numpy(pixels), ids, keys=KEYS, **options).numpy()  # type: ignore[arg-type]
    some = np.array([30, 4, 4, 17])
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    part = make_inputs(pixels, some, keys=KEYS[some], **options)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(1), before)
    assert (part == whole[some]).all()
    for other in ({"seed": 4}, {"epoch": 3}):
        assert (make_inputs(pixels, ids, keys=KEYS, **{**options, **other}) != whole).any()  # type: ignore[arg-type]
    plain = make_inputs(pixels, ids, keys=KEYS, **{**options, "augment": False})  # type: ignore[arg-type]
    assert sum((one != other).any() for one, other in zip(plain, whole, strict=True)) > (20 if channels == 3 else 12)


def test_the_number_of_threads_changes_no_bit() -> None:
    """Sums over large pictures would be split among them."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 300, 300), np.uint8)
    made = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        made.append(augmented(pixels.copy(), torchvision_steps("color:0.9"), keys=KEYS[:2], seed=0, epoch=1))
        assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
    assert (made[0] == made[1]).all()


def test_a_run_with_every_augmentation_is_replayed(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    """In another process, also after a kill; its recipe names each with its amount."""
    make_images(Path("photos"), size=(16, 12), colour=True)
    assert train("photos", "-e", "2", "--augment", EVERY, "--mixup=0.2", "-o", "whole") == 0
    info = json.loads(Path("whole/records.jsonl").read_bytes().splitlines()[0])
    assert info["recipe"]["augment"] == EVERY
    assert train("photos", "-e", "2", "--augment", EVERY, "--mixup=0.2", "-o", "cut", "--checkpoint-every=2", cut_after=6) == -9
    assert train("--resume", "cut") == 0
    assert Path("cut/records.jsonl").read_bytes() == Path("whole/records.jsonl").read_bytes()
    capsys.readouterr()
    assert train("cut", "--json", command="replay") == 0
    assert json.loads(capsys.readouterr().out)["equal"] == 48


class TestNormalisation:
    """Centre and scale for each channel, as the weights of pretrained models want them."""

    MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    CENTRE, SCALE = from_mean_and_std(MEAN, STD)
    RECIPE = Recipe(height=12, width=16, channels=3, centre=CENTRE, scale=SCALE)

    def test_it_is_that_of_torchvision(self) -> None:
        """But for the last bit."""
        from torchvision.transforms.v2.functional import normalize, to_dtype

        pixels = store()
        theirs = normalize(to_dtype(torch.from_numpy(pixels), torch.float32, scale=True), self.MEAN, self.STD)
        mine = make_inputs(pixels, np.arange(40), keys=KEYS, recipe=self.RECIPE, seed=0, epoch=1, augment=False)
        assert mine == pytest.approx(theirs.numpy(), abs=1e-5)

    def test_torch_and_numpy_agree_in_every_bit(self) -> None:
        """Every value of a pixel in every channel."""
        pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, 1)[:, :, :12]
        options = {"keys": KEYS[:1], "recipe": self.RECIPE, "seed": 0, "epoch": 1, "augment": False}
        one = make_inputs(pixels, np.zeros(1, np.int64), **options)  # type: ignore[arg-type]
        other = make_batch(torch.from_numpy(pixels), np.zeros(1, np.int64), **options)  # type: ignore[arg-type]
        assert (one == other.numpy()).all()

    def test_a_record_holds_it_and_pixels_come_back(self) -> None:
        """Exactly the pixels that went in."""
        recorded = json.loads(json.dumps(self.RECIPE.to_dict()))
        assert Recipe.from_dict(recorded) == self.RECIPE
        pixels = store()
        made = make_inputs(pixels, np.arange(40), keys=KEYS, recipe=self.RECIPE, seed=0, epoch=1, augment=False)
        assert all((to_pixels(one, recorded) == pixel).all() for one, pixel in zip(made, pixels, strict=True))
        for wrong in ({"centre": [1.0, 2.0]}, {"scale": [0.0, 1.0, 1.0]}, {"scale": [1, 1, 1]}, {"centre": ["1", 1.0, 1.0]}):
            with pytest.raises(Exception, match=next(iter(wrong))):
                Recipe.from_dict(recorded | wrong)
