"""Inputs: the fast way and the plain way agree in every bit, and all follows from the recipe, the seed and the path."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_cli.errors import RecordsError
from capture_cli.normalisation import CENTRE, SCALE
from capture_cli.preprocessing import (
    Recipe,
    digests,
    epoch_order,
    make_batch,
    path_keys,
    to_pixels,
)
from plain_inputs import make_one

AUGMENTATIONS = ("none", "flip", "crop", "flip+crop")
FILES = [f"{name}_{i:03d}.png" for name in ("cat", "dog") for i in range(100)]
KEYS = path_keys(FILES)


def store(channels: int, height: int, width: int, n: int = len(FILES)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, height, width), np.uint8)


def batch_of(
    pixels: np.ndarray,
    ids: np.ndarray,
    augment: str,
    *,
    seed: int = 0,
    epoch: int = 0,
    evaluating: bool = False,
    device: str = "cpu",
) -> np.ndarray:
    recipe = Recipe(channels=pixels.shape[1], height=pixels.shape[2], width=pixels.shape[3], augment=augment)
    made = make_batch(
        torch.from_numpy(pixels),
        ids,
        keys=KEYS[ids],
        recipe=recipe,
        seed=seed,
        epoch=epoch,
        augment=not evaluating,
        device=torch.device(device),
    )
    assert made.dtype == torch.float32
    assert made.is_contiguous()
    assert made.device.type == device
    return made.cpu().numpy()


def one_by_one(pixels: np.ndarray, ids: np.ndarray, augment: str, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    recipe = Recipe(channels=pixels.shape[1], height=pixels.shape[2], width=pixels.shape[3], augment=augment)
    made = [make_one(pixels[i], key=int(KEYS[i]), recipe=recipe, seed=seed, epoch=epoch, augment=True) for i in ids]
    assert all(one.dtype == np.float32 and one.flags.c_contiguous for one in made)
    return np.stack(made)


SIZES = [(28, 28), (32, 32), (1, 1), (1, 9), (9, 1), (2, 2), (2, 3), (3, 2), (7, 5), (20, 12), (13, 64), (224, 100)]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_batch_is_its_samples_made_one_by_one(height: int, width: int, channels: int, augment: str) -> None:
    """Bit for bit, for every augmentation, odd sizes, sides of one pixel, grey and colour."""
    pixels = store(channels, height, width)
    ids = epoch_order(KEYS, seed=3, epoch=4)
    fast = batch_of(pixels, ids, augment, seed=3, epoch=4)
    slow = one_by_one(pixels, ids, augment, seed=3, epoch=4)
    assert np.array_equal(fast.view(np.uint32), slow.view(np.uint32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_bits() -> None:
    """Every pixel value is normalised alike on the CPU and on the GPU."""
    pixels, ids = store(3, 32, 32), np.arange(len(FILES))
    for augment in AUGMENTATIONS:
        on_gpu = batch_of(pixels, ids, augment, device="cuda")
        assert np.array_equal(on_gpu.view(np.uint32), batch_of(pixels, ids, augment).view(np.uint32))


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    augment=st.sampled_from(AUGMENTATIONS),
    seed=st.integers(),
    epoch=st.integers(0, 10**9),
    ids=st.lists(st.integers(0, len(FILES) - 1), min_size=1, max_size=5),
)
def test_the_same_for_any_size_seed_and_choice(
    height: int, width: int, augment: str, seed: int, epoch: int, ids: list[int]
) -> None:
    """Any seed, negative and huge ones too; a sample may be in a batch twice."""
    pixels, chosen = store(3, height, width), np.array(ids)
    fast = batch_of(pixels, chosen, augment, seed=seed, epoch=epoch)
    assert np.array_equal(fast, one_by_one(pixels, chosen, augment, seed=seed, epoch=epoch))


def test_the_store_is_not_touched() -> None:
    """A batch is a copy: training never writes into the pixels."""
    for augment in AUGMENTATIONS:
        pixels = store(3, 8, 8)
        pixels.flags.writeable = True
        batch_of(pixels, np.arange(64), augment)[:] = 7
        assert np.array_equal(pixels, store(3, 8, 8))


def test_every_pixel_value_is_rounded_once() -> None:
    """All 256 inputs are the product of the exact difference and the float32 nearest to 1/127.5, rounded to the nearest.

    A float64 holds such a product exactly, so this is what any device must give that follows IEEE 754.
    """
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    made = batch_of(values, np.array([0]), "none")
    exact = (values.astype(np.float64) - 127.5) * np.float64(np.float32(SCALE))
    assert np.array_equal(made.view(np.uint32), exact.astype(np.float32).view(np.uint32))
    assert (made.min(), made.max()) == (-1, 1)
    assert np.array_equal(np.rint(made / np.float32(SCALE) + CENTRE), values)  # and nothing is lost


def test_an_input_does_not_depend_on_its_batch() -> None:
    """The same sample in another place, in other company, or alone is the same input."""
    pixels, ids = store(3, 12, 12), np.random.default_rng(1).permutation(len(FILES))
    whole = batch_of(pixels, ids, "flip+crop")
    parts = [batch_of(pixels, part, "flip+crop") for part in np.array_split(ids, 7)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole[5], batch_of(pixels, ids[5:6], "flip+crop")[0])


def test_evaluation_is_not_augmented() -> None:
    """With augment=False the recipe's augmentation is not applied."""
    pixels, ids = store(3, 12, 12), np.arange(50)
    assert np.array_equal(batch_of(pixels, ids, "flip+crop", evaluating=True), batch_of(pixels, ids, "none"))


def test_seeds_epochs_and_samples_are_augmented_apart() -> None:
    """The same picture 200 times: augmented alike for few pairs, and differently for another epoch or seed.

    Seed 0, epoch 1 is not seed 1, epoch 0, as it would be with seed + epoch.
    """
    pixels, ids = np.repeat(store(1, 32, 32, 1), len(FILES), axis=0), np.arange(len(FILES))
    made = {(seed, epoch): batch_of(pixels, ids, "flip+crop", seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert (
        len(np.unique(made[0, 0].reshape(len(ids), -1), axis=0)) > 100
    )  # of 2 x 9 x 9 = 162 possible, 200 draws: 115 expected
    for a, first in made.items():
        for b, second in made.items():
            alike = (first == second).all((1, 2, 3)).mean()
            assert alike == 1 if a == b else alike < 0.05  # 1 in 162 by chance


def test_flips_are_fair() -> None:
    """One half of the draws is mirrored: 10,000 of them, 5 standard deviations; and with crop the same ones are."""
    pixels = np.zeros((len(FILES), 1, 1, 2), np.uint8)
    pixels[..., 1] = 255
    mirrored = np.stack([batch_of(pixels, np.arange(200), "flip", epoch=epoch)[:, 0, 0, 0] > 0 for epoch in range(50)])
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 10_000**0.5
    assert abs(mirrored.mean(0) - 0.5).max() < 5 * 0.5 / 50**0.5


def test_every_shift_is_equally_likely() -> None:
    """A 16 pixel side is moved by -2 to 2, down and across on their own: 25 moves, 400 draws of each expected."""
    pixels = np.zeros((len(FILES), 1, 16, 16), np.uint8)
    pixels[:, 0, 8, 8] = 255
    counts = np.zeros((5, 5))
    for epoch in range(50):
        for one in batch_of(pixels, np.arange(200), "crop", epoch=epoch)[:, 0]:
            y, x = np.argwhere(one == 1)[0]
            counts[y - 6, x - 6] += 1
    assert counts.sum() == 10_000
    assert ((counts - 400) ** 2 / 400).sum() < 24 + 5 * 48**0.5


def test_a_crop_is_a_window_of_the_reflected_picture() -> None:
    """Rows 0 1 2 ... become, moved by one, 1 0 1 ... or 1 2 3 ...: the edge is not doubled."""
    pixels = np.repeat(np.arange(8, dtype=np.uint8)[np.newaxis, np.newaxis, :, np.newaxis], len(FILES), 0)
    seen = {tuple(np.rint(one[0, :, 0] / SCALE + CENTRE).astype(int)) for one in batch_of(pixels, np.arange(200), "crop")}
    assert seen == {(1, 0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7, 6)}


@pytest.mark.parametrize(("side", "pad"), [(1, 1), (2, 1), (11, 1), (12, 2), (20, 3), (28, 4), (32, 4), (224, 28)])
def test_the_pad_is_an_eighth_of_the_side(side: int, pad: int) -> None:
    """Rounded half up, at least 1; each side on its own."""
    assert Recipe(height=side, width=100, channels=1, augment="crop").pads == (pad, 13)
    assert Recipe(height=side, width=100, channels=1, augment="flip").pads == (0, 0)


def test_digests_are_of_the_bytes() -> None:
    """XXH3-64 of each sample's contiguous little-endian bytes, whatever the array's strides, byte order or dtype."""
    inputs = batch_of(store(3, 8, 8), np.arange(5), "none")
    expected = [xxhash.xxh3_64_hexdigest(one.tobytes()) for one in inputs]
    assert digests(inputs) == expected
    assert all(len(one) == 16 for one in expected)
    assert digests(inputs.astype(">f4")) == expected
    assert digests(np.asfortranarray(inputs)) == expected
    assert digests(inputs[::-1]) == expected[::-1]
    half = torch.from_numpy(inputs).bfloat16()
    assert digests(half.view(torch.int16).numpy()) == [
        xxhash.xxh3_64_hexdigest(one.tobytes()) for one in half.view(torch.int16).numpy()
    ]
    assert digests(inputs.astype(np.float64)) != expected
    assert digests(inputs[:0]) == []


def test_digests_tell_one_bit_apart() -> None:
    """Minus zero is not zero, and one flipped bit anywhere gives another digest."""
    inputs = np.zeros((3, 1, 4, 4), np.float32)
    inputs[1, 0, 0, 0] = -0.0
    inputs.view(np.uint32)[2, 0, 3, 3] ^= 1
    assert len(set(digests(inputs))) == 3


def test_the_format_does_not_drift() -> None:
    """Golden values: a change here makes the inputs of every run recorded so far impossible to make again."""
    pixels = (np.arange(200 * 3 * 12 * 9) * 131 % 251).astype(np.uint8).reshape(200, 3, 12, 9)
    made = {augment: digests(batch_of(pixels, np.array([0, 7, 199]), augment, seed=1, epoch=2)) for augment in AUGMENTATIONS}
    assert made == GOLDEN


GOLDEN = {
    "none": ["33f55b25cbadd3fa", "4be85bf29f171ab5", "a09db91b87e73c90"],
    "flip": ["3aa823f849d965de", "3346a09a5fe30a0d", "a09db91b87e73c90"],
    "crop": ["205cb47e11d31bcf", "a997d392febb9c59", "0d8ed042bf988844"],
    "flip+crop": ["8186f45dd97cac4d", "fd87604fe1fe5cb7", "0d8ed042bf988844"],
}

RECIPE = Recipe(height=28, width=30, channels=1, augment="flip+crop")


def test_a_recipe_survives_its_record() -> None:
    """Written as JSON and read again it is the same recipe, and it names all that was done to the picture."""
    recorded = json.loads(json.dumps(RECIPE.to_dict()))
    assert Recipe.from_dict(recorded) == RECIPE
    assert {"height", "width", "channels", "augment", "filter", "resize", "background", "depth", "centre", "scale"} <= set(
        recorded
    )


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"height": 2.0},
        {"height": "28"},
        {"width": 2**20},
        {"width": True},
        {"channels": 2},
        {"augment": "rotate"},
        {"augment": ["flip"]},
        {"filter": "lanczos"},
        {"background": 256},
        {"background": 255.0},
        {"background": [0, 0]},
        {"background": [0, 0, "0"]},
        {"depth": "auto"},
        {"depth": "17"},
        {"resize": "fit"},
        {"orientation": "none"},
        {"crop_share": 0.875},
        {"background": None},
        {"scale": 1.0},
        {"centre": float("nan")},
        {"dtype": "float16"},
        {"random": "os.system"},
        {"another": 1},
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused(change: dict[str, object]) -> None:
    """A recorded recipe is only ever compared with what this version does, by value and type; the message names the field."""
    with pytest.raises(RecordsError, match=next(iter(change))):
        Recipe.from_dict({**RECIPE.to_dict(), **change})


@pytest.mark.parametrize("name", sorted(RECIPE.to_dict()))
def test_a_recipe_with_a_field_missing_is_refused(name: str) -> None:
    """No field is guessed, though each but the size has a default."""
    recorded = RECIPE.to_dict()
    del recorded[name]
    with pytest.raises(RecordsError, match=f"lacks '{name}'"):
        Recipe.from_dict(recorded)


def test_a_recipe_that_is_no_object_is_refused() -> None:
    """A record may hold anything in its place."""
    for wrong in (None, [], ["height"], "recipe", 3):
        with pytest.raises(RecordsError, match="not an object"):
            Recipe.from_dict(wrong)  # type: ignore[arg-type]


def test_plain_inputs_need_no_torch() -> None:
    """Recipe, digests and make_inputs are for the reading half, which does not import torch."""
    program = """
import sys
import numpy as np
from capture_cli import preprocessing
recipe = preprocessing.Recipe(height=4, width=4, channels=1, augment="flip+crop")
ids, keys = np.zeros(1, np.int64), np.zeros(1, np.uint64)
made = preprocessing.make_inputs(
    np.zeros((1, 1, 4, 4), np.uint8), ids, keys=keys, recipe=recipe, seed=0, epoch=0, augment=True
)
preprocessing.digests(made)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestPixelsAgain:
    """An input becomes pixels that a person can look at."""

    PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)

    def test_the_pixels_that_went_in_come_back(self) -> None:
        """Exactly, for each of the 256 values; pixels stay as they are."""
        inputs = (self.PIXELS.astype(np.float32) - np.float32(CENTRE)) * np.float32(SCALE)
        for again in (to_pixels(inputs), to_pixels(inputs, Recipe(height=16, width=16, channels=1).to_dict())):
            assert again.dtype == np.uint8
            assert (again == self.PIXELS).all()
        assert to_pixels(self.PIXELS) is self.PIXELS

    def test_a_recorded_scale_is_used(self) -> None:
        """Whatever it is: the record says how the input was made."""
        inputs = (self.PIXELS.astype(np.float32) - np.float32(100)) * np.float32(0.5)
        assert (to_pixels(inputs, {"centre": 100.0, "scale": 0.5}) == self.PIXELS).all()

    @pytest.mark.parametrize(
        ("values", "pixels"),
        [([0, 0.5, 1], [0, 128, 255]), ([-1, 0, 1], [0, 128, 255]), ([-20, 0, 20], [0, 128, 255]), ([7, 7, 7], [0, 0, 0])],
    )
    def test_without_a_recipe_the_range_is_guessed(self, values: list[float], pixels: list[int]) -> None:
        """From the finite values alone: what is not a number or has no end does not stretch it."""
        odd = [np.nan, np.inf, -np.inf]
        found = to_pixels(np.array([[values + odd]], np.float32), {})
        assert found[0, 0].tolist() == [*pixels, 0, 255, 0]
        assert to_pixels(np.full((1, 1, 2), np.nan, np.float32), {}).tolist() == [[[0, 0]]]
