"""Pictures of other sizes, depths and backgrounds: nothing is distorted, cut, blackened or whitened that was not chosen."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from calling import Caller
from capture_cli.errors import Unusable
from capture_cli.pixels.decoding import Pixels, decode
from capture_cli.pixels.geometry import FILTERS, Geometry, fit, parse_background
from capture_cli.preprocessing import Recipe
from image_bytes import NOISE, chunk, png, saved

RGB = Geometry(height=8, width=8, channels=3)
GREY = replace(RGB, channels=1)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", [(300, 400), (401, 299), (256, 256), (224, 224), (50, 77), (1000, 90), (3, 5), (640, 481)])
def test_a_crop_is_that_of_torchvision(size: tuple[int, int], kind: str) -> None:
    """Resize(256) and CenterCrop(224) of torchvision's evaluation transforms give the same bytes."""
    mode = InterpolationMode.BICUBIC if "bicubic" in kind else InterpolationMode.BILINEAR
    theirs = v2.Compose([v2.Resize(256, interpolation=mode), v2.CenterCrop(224)])(noise(*size))
    ours = fit(noise(*size), Geometry(height=224, width=224, channels=3, resize="crop", filter=kind))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_crop_that_is_not_square_covers_it() -> None:
    """The scaled picture reaches over both sides, and what is cut out is its middle."""
    board = np.zeros((40, 100, 3), np.uint8)
    board[10:30, 40:60] = 255
    made = np.asarray(fit(Image.fromarray(board), replace(RGB, height=20, width=10, resize="crop", crop_share=1.0)))
    assert made.shape == (20, 10, 3)
    assert made[7:13].min() > 200
    assert made[:3].max() < 50
    assert made[-3:].max() < 50


def test_a_crop_of_a_strip_takes_no_memory() -> None:
    """65,535 x 1 pixels, of which the whole at a height of 256 would be 4 billion."""
    strip = Image.fromarray(np.full((1, 65_535, 3), 7, np.uint8))
    made = np.asarray(fit(strip, Geometry(height=224, width=224, channels=3, resize="crop")))
    assert made.shape == (224, 224, 3)
    assert made.min() == made.max() == 7


@pytest.mark.parametrize(("width", "height"), [(16, 4), (4, 16), (100, 99), (8, 1), (1, 900)])
def test_padding_shows_the_whole_picture_in_its_proportions(width: int, height: int) -> None:
    """In the middle of the background, which is all around it."""
    made = np.asarray(fit(Image.new("RGB", (width, height), (9, 9, 9)), replace(RGB, resize="pad", background=(1, 2, 3))))
    inside = (made == 9).all(-1)
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert (rows, columns) == (max(1, round(8 * min(1, height / width))), max(1, round(8 * min(1, width / height))))
    assert (made[~inside] == (1, 2, 3)).all()
    assert inside.any(1).argmax() == (8 - rows) // 2


def test_a_grey_picture_in_colour_is_padded_in_colour() -> None:
    """And in grey, with the luma of the colour."""
    data = saved(Image.new("L", (2, 1), 9))
    made = decode(data, replace(RGB, resize="pad", background=(255, 0, 0)))
    assert made[:, 0, 0].tolist() == [255, 0, 0]
    assert made[:, 4, 4].tolist() == [9, 9, 9]
    assert decode(data, replace(GREY, resize="pad", background=(255, 0, 0)))[0, 0, 0] == 76


DRAWING = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
DRAWING.paste((255, 255, 255, 255), (2, 2, 4, 4))


def test_white_drawings_on_transparency_show_on_another_background() -> None:
    """On white they are all white; on black or a colour they are seen."""
    assert decode(saved(DRAWING), RGB).min() == 255
    black = decode(saved(DRAWING), replace(GREY, background=0))
    assert (black == 255).sum() == 4
    assert (black == 0).sum() == 60
    assert decode(saved(DRAWING), replace(RGB, background=(1, 2, 3)))[:, 0, 0].tolist() == [1, 2, 3]
    grey = decode(saved(DRAWING.convert("LA")), replace(RGB, background=(1, 2, 3)))
    assert grey[:, 0, 0].tolist() == [1, 2, 3]
    assert grey[:, 2, 2].tolist() == [255] * 3


def test_a_transparent_key_shows_the_background() -> None:
    """Of 8 and of 16 bits, with and without a depth."""
    eight = png(2, 1, rows=b"\0\x05\x06", extra=chunk(b"tRNS", b"\0\5"))
    assert decode(eight, Geometry(height=1, width=2, channels=1, background=0)).tolist() == [[[0, 6]]]
    deep = png(2, 1, depth=16, rows=b"\0\0\x05\0\x06", extra=chunk(b"tRNS", b"\0\5"))
    assert decode(deep, Geometry(height=1, width=2, channels=1, background=77, depth="8")).tolist() == [[[77, 6]]]


def at_own_size(data: bytes, depth: str, channels: int = 1) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return decode(data, Geometry(height=image.height, width=image.width, channels=channels, depth=depth))


VALUES = np.array([[0, 20, 59, 200, 255]], np.uint16)


def test_a_depth_keeps_the_bits_that_are_used() -> None:
    """Low values in 16 bits turn black without; the range of each picture or the number of bits keeps them."""
    data = saved(VALUES)
    assert at_own_size(data, "high-byte").max() == 0
    assert at_own_size(data, "8").tolist() == [VALUES.tolist()]
    assert at_own_size(data, "12").tolist() == [(VALUES >> 4).tolist()]
    assert at_own_size(saved(VALUES * 257), "high-byte").tolist() == [VALUES.tolist()]
    assert at_own_size(saved(VALUES + 1000), "minmax").tolist() == [VALUES.tolist()]
    assert at_own_size(saved(np.array([[0, 1, 2, 3]], np.uint16)), "2").tolist() == [[[0, 85, 170, 255]]]
    assert at_own_size(saved(np.full((2, 2), 7, np.uint16)), "minmax").max() == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF deflate"])
@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_16_bits_keep_them_too(bands: int, kind: str) -> None:
    """Pillow has no RGB of 16 bits and keeps one byte of two: the other is read as well, in either order of bytes."""
    values = np.stack([VALUES, VALUES // 2, VALUES[:, ::-1], np.full_like(VALUES, 255)][:bands], axis=-1)
    rows = b"\0" + values.astype(">u2").tobytes()
    data = png(5, 1, depth=16, colour=2 if bands == 3 else 6, rows=rows) if kind == "PNG" else tiff(values, kind)
    assert at_own_size(data, "8", 3).tolist() == values[..., :3].transpose(2, 0, 1).tolist()
    assert at_own_size(data, "high-byte", 3).max() == (0 if bands == 3 else 255)  # what is transparent is white


def tiff(values: npt.NDArray[np.uint16], kind: str) -> bytes:
    """A TIFF of 16-bit colours, which Pillow does not write: an 8-bit one of the double width, with its tags changed."""
    height, width, bands = values.shape
    doubled = np.frombuffer(values.astype("<u2").tobytes(), np.uint8).reshape(height, width * 2, bands)
    data = bytearray(saved(Image.fromarray(doubled), "TIFF", compression="tiff_deflate" if "deflate" in kind else "raw"))
    start = int.from_bytes(data[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
        tag, place = int.from_bytes(data[entry : entry + 2], "little"), int.from_bytes(data[entry + 8 : entry + 12], "little")
        if tag == 256:
            data[entry + 8 : entry + 12] = width.to_bytes(2, "little") + bytes(2)
        if tag == 258:
            data[place : place + 2 * bands] = (16).to_bytes(2, "little") * bands
    return bytes(data)


def test_grey_with_opacity_of_16_bits_keeps_its_bits() -> None:
    """Two bytes of grey, two of opacity."""
    rows = b"\0" + np.stack([VALUES, np.full_like(VALUES, 65535)], axis=-1).astype(">u2").tobytes()
    assert at_own_size(png(5, 1, depth=16, colour=4, rows=rows), "8").tolist() == [VALUES.tolist()]


@pytest.mark.parametrize(
    ("values", "depth", "says"),
    [
        (VALUES, "7", "values up to 255 do not fit into 7 bits"),
        (np.array([[70_000]], np.int32), "high-byte", "values up to 70,000 do not fit into 16 bits"),
        (np.array([[-1]], np.int32), "12", "values -1 to -1 do not fit into 12 bits"),
        (np.array([[0.5]], np.float32), "high-byte", "floating-point pixels need --depth minmax"),
    ],
)
def test_values_that_do_not_fit_are_skipped_not_clipped(values: npt.NDArray[np.generic], depth: str, says: str) -> None:
    """The reason says what they are."""
    with pytest.raises(Unusable, match=says) as caught:
        at_own_size(saved(values, "PNG" if values.dtype == np.uint16 else "TIFF"), depth)  # type: ignore[arg-type]
    assert caught.value.reason == "wrong-depth"


def test_floats_are_stretched_over_what_is_finite() -> None:
    """NaN is black, as the least value is."""
    values = np.array([[-1, 0, 1, np.nan, np.inf, -np.inf]], np.float32)
    assert at_own_size(saved(Image.fromarray(values), "TIFF"), "minmax").tolist() == [[[0, 128, 255, 0, 255, 0]]]
    assert at_own_size(saved(Image.fromarray(np.full((1, 3), np.nan, np.float32)), "TIFF"), "minmax").max() == 0


def test_eight_bits_are_left_alone() -> None:
    """Whatever the depth."""
    for depth in ("minmax", "3", "16"):
        assert np.array_equal(at_own_size(saved(NOISE), depth, 3), NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("white", 255),
        ("black", 0),
        ("9,9,9", 9),
        ("1,2,3", (1, 2, 3)),
        ("1, 2, 3", (1, 2, 3)),
        ("256,0,0", None),
        ("red", None),
    ],
)
def test_backgrounds_are_parsed(text: str, levels: object) -> None:
    """Names, and red, green and blue."""
    assert parse_background(text) == levels


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_a_recipe_holds_the_whole_geometry(resize: str) -> None:
    """Written and read again, it decodes to the same pixels."""
    geometry = replace(RGB, resize=resize, crop_share=0.5, background=(1, 2, 3), depth="12", filter=FILTERS[1])
    recipe = Recipe.of(geometry, augment="flip")
    again = Recipe.from_dict(recipe.to_dict())
    assert again.to_dict() == recipe.to_dict()
    data = saved(noise(30, 20).convert("RGBA"))
    assert np.array_equal(decode(data, again.geometry), decode(data, geometry))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder in which everything has to be converted."""
    for i in range(6):
        for label, level in (("dark", 20), ("light", 200)):
            folder = tmp_path / "images" / label
            folder.mkdir(parents=True, exist_ok=True)
            deep = np.random.default_rng(i).integers(level, level + 40, (30, 40 + i)).astype(np.uint16)
            Image.fromarray(deep).save(folder / f"deep_{i}.png")
            noise(50 + i, 30).convert("RGBA").save(folder / f"clear_{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    "options", ["--resize crop --depth minmax --img-size 20", "--background 10,20,30 --resize pad --ram 0 --channels 3", ""]
)
def test_every_option_is_reproduced(mixed: Path, call: Caller, options: str) -> None:
    """`capture replay` makes every input again; a second run, from the cache or from the disk, writes the same bytes."""
    for run in ("one", "two"):
        done = call("train", mixed, "--labels", "parent", "-m", "linear", "-e", 1, "-o", run, *options.split())
        assert done.code == 0, done.err
    assert "Inputs: " in done.err
    folder = mixed.parent
    assert (folder / "one/records.jsonl").read_bytes() == (folder / "two/records.jsonl").read_bytes()
    again = call("replay", "one")
    assert again.code == 0, again.out + again.err
    assert again.out.startswith("24 inputs reproduced")
