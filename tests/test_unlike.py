"""capture_cli.pixels.unlike: images that a model's recipe changes as it changed no training image."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calling import called
from capture_cli import load_model
from capture_cli.models.saved import header_of
from capture_cli.pixels.choosing import MEASURED_FILES
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.unlike import unlike
from image_bytes import saved

NOISE = np.random.default_rng(3).integers(0, 256, (8, 8), np.uint8)
GREY = saved(NOISE)
COLOUR = saved(np.random.default_rng(4).integers(0, 256, (8, 8, 3), np.uint8))
TWELVE = saved(NOISE.astype(np.uint16) * 16)
SIXTEEN = saved(NOISE.astype(np.uint16) * 257)
TRANSPARENT = saved(np.dstack([NOISE, NOISE]))
OPAQUE = saved(np.dstack([NOISE, np.full_like(NOISE, 255)]))
RGB_OF_GREY = saved(np.dstack([NOISE] * 3), "JPEG", quality=60)


def told(pictures: list[bytes], kinds: list[str] | None = None, **geometry: object) -> list[str]:
    """The sentences about these pictures, given the kinds of the training."""
    files = {str(i): data for i, data in enumerate(pictures)}
    options: dict[str, object] = {"height": 8, "width": 8, "channels": 1, **geometry}
    return unlike(list(files), files.__getitem__, Geometry(**options), kinds)  # type: ignore[arg-type]


def test_images_that_use_fewer_bits_than_the_recipe_reads_are_counted() -> None:
    """By a recipe that was not made for such images; 16 bits are read as they are meant."""
    most = int(NOISE.max()) * 16
    said = (
        f"2 of 3 images are of more than 8 bits, with values of 0 to {most:,} that are read as 16 bits, so too dark, "
        "such as '1': convert them to 8 bits, or train with --depth 12, which changes no image of 8 bits"
    )
    assert told([GREY, TWELVE, TWELVE], []) == [said]
    assert told([GREY, TWELVE, TWELVE], None) == [said]
    assert told([GREY, SIXTEEN, TWELVE], []) == []
    assert told([b"", GREY], []) == []


@pytest.mark.parametrize("depth", ["12", "minmax", "8"])
def test_a_recipe_for_these_bits_is_no_matter(depth: str) -> None:
    """Values that do not fit make a file unusable, which is told where it is decoded."""
    assert told([TWELVE], ["deep"], depth=depth) == []


def test_training_images_of_more_than_8_bits_may_be_brighter_than_others() -> None:
    """Dark pictures of the same camera are none of another kind; those that come out black are."""
    dark = saved(NOISE.astype(np.uint16) * 50)
    assert told([dark], []) != []
    assert told([dark], ["deep"]) == []
    assert "give them the range of the training images" in told([TWELVE], ["deep"])[0]
    assert "read as 12 bits" in told([saved(NOISE.astype(np.uint16))], ["deep"], depth="12")[0]


def test_transparency_is_told_where_the_training_had_none() -> None:
    """It must show: an alpha channel that is opaque everywhere changes nothing."""
    said = (
        "1 of 3 images is transparent in places, as no training image was, such as '2': the model sees {} there; "
        "give them the background that the training images have"
    )
    assert told([GREY, OPAQUE, TRANSPARENT], []) == [said.format("white")]
    assert told([GREY, OPAQUE, TRANSPARENT], [], background=0) == [said.format("black")]
    assert told([GREY, OPAQUE, TRANSPARENT], [], background=(1, 2, 3)) == [said.format("(1, 2, 3)")]
    assert told([GREY, OPAQUE, TRANSPARENT], ["alpha"]) == []
    assert told([GREY, OPAQUE, TRANSPARENT], None) == []
    assert told([OPAQUE], [], resize="pad", height=9) == []


def test_colour_is_told_where_the_model_sees_grey() -> None:
    """Grey pictures that were saved as RGB have none."""
    assert told([RGB_OF_GREY, COLOUR], []) == [
        "1 of 2 images is in colour, as no training image was, such as '1': the model sees them in grey"
    ]
    assert told([RGB_OF_GREY, COLOUR], ["colour"]) == told([COLOUR], [], channels=3) == []


def test_images_that_were_not_decoded_are_not_counted() -> None:
    """Of many of a kind the first are decoded."""
    assert told([TRANSPARENT] * (MEASURED_FILES + 5) + [GREY], [])[0].startswith(
        f"{MEASURED_FILES} of {MEASURED_FILES + 1} images"
    )


def test_evaluate_predict_and_load_model_warn(tmp_path: Path) -> None:
    """Also with --quiet, and in Python once; the model file has the kinds that it was trained on."""
    for folder, kind in (("eight", np.uint8), ("twelve", np.uint16)):
        for label in "ab":
            (tmp_path / folder / label).mkdir(parents=True)
            for i in range(6):
                pixels = np.random.default_rng([i, ord(label)]).integers(0, 256, (8, 8)).astype(kind) * kind(
                    kind().itemsize ** 4
                )
                Image.fromarray(pixels).save(tmp_path / folder / label / f"{i}.png")

    def warned(*args: str) -> list[str]:
        done = called(*args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "more than 8 bits" in line]

    assert warned("train", "eight", "-m", "linear", "-e", "1", "-q", "--name", "r") == []
    model = tmp_path / "runs/r/model.safetensors"
    header = header_of(model)
    assert header is not None
    assert header.kinds == []
    assert warned("evaluate", "r", "eight", "-q") == []
    assert warned("evaluate", "r", "twelve", "-q")[0].startswith("warning: 12 of 12 images are of more than 8 bits, with")
    assert warned("predict", "r", "twelve", "eight", "-q")[0].startswith("warning: 12 of 24 images are of more than 8 bits")
    classifier = load_model(model)
    with pytest.warns(UserWarning, match="1 of 1 images is of more than 8 bits"):
        classifier([tmp_path / "twelve/a/0.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier([tmp_path / "twelve/a/0.png"])
        load_model(model).inputs([tmp_path / "eight/a/0.png"])
    assert warned("train", "twelve", "-m", "linear", "-e", "1", "-q", "--name", "r12") == []
    assert (header_of(tmp_path / "runs/r12/model.safetensors") or header).kinds == ["deep"]
